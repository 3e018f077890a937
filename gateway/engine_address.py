"""An engine's address (URL, API key, certificates), and the request head that the address needs.

Requests are first written for an engine at the root of a host called `engine`. For an engine with a path prefix, a host
name or a key the head is replaced by one that is built once; other engines get requests unchanged.
"""

import ipaddress
import re
import ssl
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

# What follows the path in every request as it is first written.
PLAIN_HEAD: Final = b" HTTP/1.1\r\nhost: engine\r\n"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Path segments (RFC 3986).
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*")
_KEY: Final = re.compile(r"[!-~]+")


class Access(NamedTuple):
    """The credentials for an engine: its API key, and the file of certificates that verify it.

    Never written to a disk, a log or a status; workers get it over their channel.
    """

    key: str = ""
    ca: str = ""


OPEN: Final = Access()


class InvalidAddress(ValueError):
    """The text is no valid engine URL; the message says what is, and never repeats a password."""


def engine_url(url: str) -> str:
    """Return an engine's URL in its canonical form, under which the engine is known everywhere.

    Raises:
        InvalidAddress: `url` is no engine URL.
    """
    parts = _split(url)
    if parts.scheme == "unix":
        return url
    path = parts.path.rstrip("/")
    if path.endswith("/v1"):
        raise InvalidAddress(f"`{url}` ends in /v1: leave that out, it is part of each request's path")
    return f"{parts.scheme}://{parts.netloc}{path}"


def without_password(text: str) -> str:
    """Return a text with the user info (before the `@`) of any URL replaced by `…`."""
    return re.sub(r"//[^/\s@]*@", "//…@", text)


def is_key(key: str) -> bool:
    """Whether `key` can be sent in a header."""
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
        access: The engine's key and certificates.
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
        # Whether the engine gets requests unchanged.
        self.is_plain = not self._prefix and self._head == PLAIN_HEAD

    def address_request(self, request: bytes) -> bytes:
        """Return a request with its head replaced by the one that this engine needs."""
        path = request.index(b" ") + 1
        at = request.index(PLAIN_HEAD, path)
        rest = at + len(PLAIN_HEAD)
        return b"".join((request[:path], self._prefix, request[path:at], self._head, request[rest:]))

    def tls(self) -> ssl.SSLContext | None:
        """Return the context that verifies the engine's certificate; None without TLS."""
        return tls_context(self._ca) if self.is_tls else None


@lru_cache(maxsize=8)
def tls_context(ca: str) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, by the authorities of the system or of the file `ca`.

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
    """Return a short reason why an engine could not be reached; empty if it is unknown."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}; engine_ca)"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS with it ({cause.reason})"
    if isinstance(cause, OSError):
        return (cause.strerror or type(cause).__name__).lower()
    return ""
