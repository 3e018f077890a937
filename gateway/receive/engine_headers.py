"""Which headers of an engine's reply go to the client: all but those listed here.

Headers about the content pass (its type, `retry-after`). Headers about the connection, about the client's credentials,
or about this gateway's own decisions do not.
"""

from functools import lru_cache
from typing import Final

_CONNECTION: Final = b"connection"
# Hop-by-hop (RFC 9110, 7.6.1), or written by the gateway instead.
_FRAMING: Final = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"transfer-encoding",
    b"content-length",
    b"trailer",
    b"upgrade",
    b"te",
    b"server",
    b"x-request-id",
)
# Headers that would act in the gateway's name: ask for credentials, set cookies, redirect, allow other web sites to
# read replies, or tell browsers where to report faults.
_BETWEEN_CLIENT_AND_US: Final = (
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"www-authenticate",
    b"authentication-info",
    b"set-cookie",
    b"set-cookie2",
    b"clear-site-data",
    b"location",
    b"refresh",
    b"alt-svc",
    b"strict-transport-security",
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-headers",
    b"access-control-allow-methods",
    b"access-control-expose-headers",
    b"access-control-max-age",
    b"access-control-allow-private-network",
    b"report-to",
    b"reporting-endpoints",
    b"nel",
)
_NOT_FORWARDED: Final = frozenset((*_FRAMING, *_BETWEEN_CLIENT_AND_US))
# Prefixes of headers that only the gateway writes: which version served, and what is left of a limit.
_DECISIONS: Final = b"x-loragate-"
_LIMITS: Final = b"x-ratelimit-"

EVENT_STREAM: Final = b"text/event-stream"
# Heads repeat: they differ in their `date` at most, which changes once a second (`serve/known_head.py`).
_REMEMBERED: Final = 64


@lru_cache(maxsize=_REMEMBERED)
def is_event_stream(headers: tuple[tuple[bytes, bytes], ...]) -> bool:
    """Whether a reply with these headers is a stream of server-sent events."""
    return any(name == b"content-type" and value.lower().startswith(EVENT_STREAM) for name, value in headers)


@lru_cache(maxsize=_REMEMBERED)
def forwardable_headers(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Return the header lines for the client. `headers` are the engine's: names in lower case, and values."""
    about_connection = [value for name, value in headers if name == _CONNECTION]
    if about_connection:  # `Connection` may name more hop-by-hop headers (RFC 9110, 7.6.1)
        named = {name.strip().lower() for name in b",".join(about_connection).split(b",")}
        headers = tuple(line for line in headers if line[0] not in named)
    lines = b"".join([b"%b: %b\r\n" % line for line in headers if line[0] not in _NOT_FORWARDED])
    if _DECISIONS not in lines and _LIMITS not in lines:  # nearly always, and quicker than looking at each name
        return lines
    prefixes = (_DECISIONS, _LIMITS)
    theirs = [line for line in headers if line[0] not in _NOT_FORWARDED and not line[0].startswith(prefixes)]
    return b"".join([b"%b: %b\r\n" % line for line in theirs])
