"""What RFC 9112 says of a request's head beyond its syntax, and who may ask a gateway without keys.

The parser sees to the syntax. What it lets pass is refused here, as two readers could understand it
in two ways: the connection is closed behind such a request, since where it ends is in doubt.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from gateway.errors import BadRequest, Forbidden, UnsupportedEncoding
from gateway.openai.endpoints import split_target

# Headers that are read here and may come in several lines: those are joined, as RFC 9110, 5.3 says.
JOINED: Final = frozenset((b"host", b"transfer-encoding"))
# RFC 9110, 7.2: an address in brackets or a name (RFC 3986, 3.2.2; none is no fault), and a port. Of what a name may
# have, the comma is left out: it stands between two names.
_HOST: Final = re.compile(rb"(\[[0-9A-Za-z:.%_~-]{2,80}\]|[A-Za-z0-9._~!$&'()*+;=%-]{0,255})(?::[0-9]{0,5})?")
# Clients name one gateway in few ways.
_REMEMBERED: Final = 64
_JSON: Final = b"application/json"


@lru_cache(maxsize=_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Whether this is one `Host`, as RFC 9112, 3.2 has it."""
    return _HOST.fullmatch(value) is not None


def framing_problem(version: str, headers: dict[bytes, bytes]) -> BadRequest | None:
    """Return why a head is refused, whatever it asks for; None if it is not.

    Args:
        version: The HTTP version.
        headers: Names in lower case, and values; of `JOINED`, all lines' values with commas between.
    """
    if version not in ("1.0", "1.1"):
        return BadRequest(f"HTTP/{version} is not spoken here; use HTTP/1.1.")
    coding = headers.get(b"transfer-encoding")
    if coding is not None:
        if version == "1.0":
            return BadRequest("An HTTP/1.0 request may not have a `Transfer-Encoding`; send a `Content-Length`.")
        if coding.strip().lower() != b"chunked":
            return BadRequest(
                f"`Transfer-Encoding` is `{_printable(coding)}`; only `chunked` is taken, once and alone."
            )
    host = headers.get(b"host")
    if host is None:
        return BadRequest("The request has no `Host` header.") if version == "1.1" else None
    if is_host(host):
        return None
    return BadRequest(f"The request's `Host` is `{_printable(host)}`; send one name or address, once.")


def check_without_keys(target: bytes, headers: dict[bytes, bytes], hosts: Collection[str], *, has_body: bool) -> None:
    """Refuse what a web page could have a browser send to a gateway that asks for no key.

    A page can give its own name a loopback address (DNS rebinding), so `Host` has to be this machine's;
    and it can send a form or a text anywhere, but JSON only where it is allowed to.

    Args:
        target: The request target.
        headers: Names in lower case, and values.
        hosts: More names that the gateway may be called by, in lower case.
        has_body: The endpoint takes a body.

    Raises:
        Forbidden: `Host` is another machine's.
        UnsupportedEncoding: The body is not said to be JSON.
    """
    authority, _ = split_target(target)
    host = headers.get(b"host", b"") if authority is None else authority
    if not _is_own(host, hosts):
        raise Forbidden(
            f"Without keys the gateway answers to this machine's names only, and `Host` is `{_printable(host)}`; use "
            "http://127.0.0.1, have the operator add the name to `host_names`, or make keys.",
            code="host_not_allowed",
        )
    kind = headers.get(b"content-type", b"")
    if has_body and kind.partition(b";")[0].strip().lower() != _JSON:
        raise UnsupportedEncoding(
            f"Without keys a body has to come with `Content-Type: application/json`, and it is `{_printable(kind)}`.",
            code="unsupported_media_type",
        )


def _is_own(host: bytes, hosts: Collection[str]) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].decode().lower().rstrip(".")
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost" or name in hosts


def _printable(raw: bytes) -> str:
    return raw[:100].decode("ascii", "replace")
