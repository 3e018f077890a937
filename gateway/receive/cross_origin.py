"""CORS: which web pages of other origins may call this gateway from a browser. Pure.

A browser first sends a preflight (`OPTIONS` with `access-control-request-method`, without a key), then the request
with its `origin`, and shows the page a reply only if the reply names that origin. Unless `allowed_origins` is set, no
page is allowed and nothing in this module runs. Cookies and other credentials of the browser are never allowed: a
page authenticates with an API key that it holds itself.

Source: the Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from collections.abc import Collection, Mapping
from typing import Final

from gateway.openai.endpoints import Endpoint, EndpointKind, RequestAddress

ANY: Final = "*"
# Response headers that a page's script may read, beside those that the Fetch standard always allows.
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
# Request headers that a page may send. A preflight that lists headers gets its own list back, since official clients
# send a dozen of their own; this list answers one that lists none, or more than any client does.
_ALLOWED_HEADERS: Final = (
    b"authorization, content-type, x-api-key, api-key, x-request-id, x-loragate-unit, x-loragate-task"
)
_MAX_ASKED: Final = 2_000
# A token of HTTP, commas and spaces (RFC 9110, 5.6.2).
_SAFE: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!#$%&'*+^`|~, "
# How long a browser may cache a preflight. Chrome's maximum is two hours; an origin taken off the list can go on using
# its cached preflight for this long.
_MAX_AGE_SECONDS: Final = 600
PREFLIGHT: Final = RequestAddress(Endpoint(path=b"*", method=b"OPTIONS", kind=EndpointKind.PREFLIGHT))


class CrossOrigin:
    """The allowed origins.

    Args:
        allowed: Origins as browsers write them (`https://chat.example`), or `*` for any page.
    """

    def __init__(self, allowed: Collection[str]) -> None:
        self._is_any = ANY in allowed
        self._allowed = frozenset(each.encode() for each in allowed)
        self._exposed = f"access-control-expose-headers: {', '.join(_EXPOSED)}\r\n".encode()

    def allows(self, origin: bytes) -> bool:
        """Whether a page of this origin may call."""
        return self._is_any or origin in self._allowed

    def lines(self, origin: bytes) -> bytes:
        """Return the CORS header lines for a reply to a request with this `Origin`."""
        if self._is_any:
            return b"access-control-allow-origin: *\r\n" + self._exposed
        if origin not in self._allowed:
            return b"vary: origin\r\n"  # a cache must not hand this reply to a page that is allowed
        return b"access-control-allow-origin: %b\r\nvary: origin\r\n%b" % (origin, self._exposed)

    def preflight(self, method: bytes, headers: Mapping[bytes, bytes]) -> bytes | None:
        """Return the header lines that answer a preflight; None if it is no preflight or its origin is not allowed."""
        origin = headers.get(b"origin", b"")
        if method != b"OPTIONS" or b"access-control-request-method" not in headers or not self.allows(origin):
            return None
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
            return None  # no browser sends a body with a preflight, and without a key its memory has no owner
        asked = headers.get(b"access-control-request-headers", b"")
        is_usable = asked and len(asked) <= _MAX_ASKED and not asked.translate(None, _SAFE)
        return (
            b"%baccess-control-allow-methods: GET, HEAD, POST\r\naccess-control-allow-headers: %b\r\n"
            b"access-control-max-age: %d\r\n"
            % (self.lines(origin), asked if is_usable else _ALLOWED_HEADERS, _MAX_AGE_SECONDS)
        )
