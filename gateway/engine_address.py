"""Where an engine is and how it is spoken to: its URL, its key, and what that makes of a request's head.

Requests are written for an engine at the root of a host called `engine`. One with a path prefix, a name of its own or a
key gets them with another head, made up once; all others get them as they are.
"""

import ipaddress
import re
import ssl
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

# How every request for an engine goes on after its path.
PLAIN_HEAD: Final = b" HTTP/1.1\r\nhost: engine\r\n"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Segments of a path as RFC 3986 has them.
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_KEY: Final = re.compile(r"[!-~]+")


class Access(NamedTuple):
    """What opens an engine, beside its URL: its API key, and the file of certificates that it is checked by.

    Never written to a disk, a log or a status: workers get it over their channel.
    """

    key: str = ""
    ca: str = ""


OPEN: Final = Access()


class InvalidAddress(ValueError):
    """This is no engine's URL; the message says what one is, and never repeats a password."""


def engine_url(url: str) -> str:
    """Return an engine's URL in the one form by which it is known.

    Raises:
        InvalidAddress: It is none.
    """
    parts = _split(url)
    if parts.scheme == "unix":
        return url
    path = parts.path.rstrip("/")
    if path.endswith("/v1"):
        raise InvalidAddress(f"`{url}` ends in /v1: leave that out, it is part of each request's path")
    return f"{parts.scheme}://{parts.netloc}{path}"


def without_password(text: str) -> str:
    """Return a text with what stands before the `@` of any URL left out."""
    return re.sub(r"//[^/\s@]*@", "//…@", text)


def is_key(key: str) -> bool:
    """Whether a header can carry it."""
    return _KEY.fullmatch(key) is not None


def _split(url: str) -> SplitResult:
    shown = without_password(url)
    wanted = InvalidAddress(
        f"`{shown}` is no engine: write http://HOST:PORT or https://HOST:PORT, with a path if its server has one, "
        "or unix:///PATH/TO/SOCKET"
    )
    if not url.isprintable():
        raise wanted
    try:
        parts = urlsplit(url)
        port = parts.port  # ValueError: no number, or larger than 65535
    except ValueError:
        raise wanted from None
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return parts
    if "@" in parts.netloc:
        raise InvalidAddress(
            f"`{shown}` holds a name or a password; give the engine's key in an environment variable, and the "
            "variable's name as engine_key_env"
        )
    is_complete = parts.scheme in _DEFAULT_PORTS and parts.hostname and port != 0 and parts.netloc.isascii()
    if not is_complete or parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path.rstrip("/")):
        raise wanted
    return parts


class Address:
    """One engine's address.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        access: See there.
    """

    def __init__(self, url: str, access: Access = OPEN) -> None:
        parts = urlsplit(url)
        self.socket_path = parts.path if parts.scheme == "unix" else ""
        self.host = parts.hostname or ""
        self.port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
        self.is_tls = parts.scheme == "https"
        self._ca = access.ca
        self._prefix = b"" if self.socket_path else parts.path.rstrip("/").encode()
        host = b"engine" if self.socket_path or (_is_number(self.host) and not self.is_tls) else parts.netloc.encode()
        key = b"authorization: Bearer %b\r\n" % access.key.encode() if access.key else b""
        self._head = b" HTTP/1.1\r\nhost: %b\r\n%b" % (host, key)
        # Whether it gets requests as they are written for any engine.
        self.is_plain = not self._prefix and self._head == PLAIN_HEAD

    def address_request(self, request: bytes) -> bytes:
        """Return a request that was written for any engine with the head that this one needs."""
        path = request.index(b" ") + 1
        at = request.index(PLAIN_HEAD, path)
        rest = at + len(PLAIN_HEAD)
        return b"".join((request[:path], self._prefix, request[path:at], self._head, request[rest:]))

    def tls(self) -> ssl.SSLContext | None:
        """Return how its certificate is checked; None without TLS."""
        return tls_context(self._ca) if self.is_tls else None


@lru_cache(maxsize=8)
def tls_context(ca: str) -> ssl.SSLContext:
    """Return a context that checks certificates and host names, by the system's authorities or those in a file.

    Raises:
        OSError: The file cannot be read, or holds no certificates.
    """
    return ssl.create_default_context(cafile=ca or None)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    return True


def why_unreachable(cause: BaseException | None) -> str:
    """Return in a few words why there is no connection; empty if that is not known."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}; engine_ca)"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with it ({cause.reason})"
    if isinstance(cause, OSError):
        return (cause.strerror or type(cause).__name__).lower()
    return ""
