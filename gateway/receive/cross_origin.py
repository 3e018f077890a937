"""Which web pages of other origins may call this gateway from a browser (CORS). Pure.

A browser asks first (`OPTIONS` with `access-control-request-method`, without a key), then sends
the request with its `origin`, and shows the page a reply only if that names the origin. Without a
setting no page is allowed and nothing in here is called. Cookies and other credentials of the
browser's own are never allowed: a page sends a key that it has, or none.

Source: the Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from collections.abc import Collection, Mapping
from typing import Final

from gateway.openai.endpoints import Endpoint, EndpointKind, RequestAddress

ANY: Final = "*"
# What a page's script may read of a reply, beside the few headers that it always may.
_EXPOSED: Final = (
    "x-request-id",
    "x-loragate-version",
    "x-loragate-arm",
    "x-loragate-route-reason",
    "x-loragate-overhead-ms",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "retry-after",
)
# Headers that a page may send. Those that it asks for are named back, since official clients send a dozen of their own;
# these are for a page that asks for none, or for more than any client does.
_TAKEN: Final = b"authorization, content-type, x-api-key, api-key, x-request-id, x-loragate-unit, x-loragate-task"
_MAX_ASKED: Final = 2_000
# A token of HTTP, commas and spaces (RFC 9110, 5.6.2).
_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!#$%&'*+^`|~, "
# For how long a browser need not ask again. Chrome's most is two hours; whoever takes an origin off the list waits so.
_MAX_AGE_SECONDS: Final = 600
PREFLIGHT: Final = RequestAddress(Endpoint(path=b"*", method=b"OPTIONS", kind=EndpointKind.PREFLIGHT))


class CrossOrigin:
    """The origins that are allowed.

    Args:
        allowed: As browsers write them: `https://chat.example`, or `*` for any page.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._is_any = ANY in allowed
        self._allowed = frozenset(each.encode() for each in allowed)
        self._exposed = f"access-control-expose-headers: {', '.join(_EXPOSED)}\r\n".encode()

    def allows(self, origin: bytes) -> bool:
        """Whether a page of this origin may call."""
        return self._is_any or origin in self._allowed

    def lines(self, origin: bytes) -> bytes:
        """Return the header lines of a reply to a request that a page of `origin` may have sent."""
        if self._is_any:
            return b"access-control-allow-origin: *\r\n" + self._exposed
        if origin not in self._allowed:
            return b"vary: origin\r\n"  # a cache must not hand this reply to a page that is allowed
        return b"access-control-allow-origin: %b\r\nvary: origin\r\n%b" % (origin, self._exposed)

    def preflight(self, method: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the header lines that answer a browser's question; None if it is none or may not call."""
        origin = headers.get(b"origin", b"")
        if method != b"OPTIONS" or b"access-control-request-method" not in headers or not self.allows(origin):
            return None
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
            return None  # no browser sends a body with it, and nobody has said by a key whose memory it may take
        asked = headers.get(b"access-control-request-headers", b"")
        is_usable = asked and len(asked) <= _MAX_ASKED and not asked.translate(None, _SAFE)
        return (
            b"%baccess-control-allow-methods: GET, HEAD, POST\r\naccess-control-allow-headers: %b\r\n"
            b"access-control-max-age: %d\r\n" % (self.lines(origin), asked if is_usable else _TAKEN, _MAX_AGE_SECONDS)
        )
