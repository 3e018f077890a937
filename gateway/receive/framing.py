"""Checks of a request's head: RFC 9112's rules beyond syntax, and who may call a gateway that runs without keys.

The parser checks the syntax. Refused here are heads that two HTTP implementations could read differently (request
smuggling). The connection is closed after such a request, since it is unclear where the request ends.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from gateway.errors import BadRequest, Forbidden, UnsupportedEncoding
from gateway.openai.endpoints import split_target

# Headers that are checked here and may come in several lines, which are joined with commas (RFC 9110, 5.3).
JOINED: Final = frozenset((b"host", b"transfer-encoding"))
# RFC 9110, 7.2: an address in brackets or a name (RFC 3986, 3.2.2; an empty one is valid), and a port. A comma, which
# RFC 3986 allows in names, is not accepted: it would come from two joined `Host` lines.
_HOST: Final = re.compile(rb"(\[[0-9A-Za-z:.%_~-]{2,80}\]|[A-Za-z0-9._~!$&'()*+;=%-]{0,255})(?::[0-9]{0,5})?")
# Clients use few names for one gateway.
_REMEMBERED: Final = 64
_JSON: Final = b"application/json"


@lru_cache(maxsize=_REMEMBERED)
def is_host(value: bytes) -> bool:
    """Whether this is exactly one valid `Host` value (RFC 9112, 3.2)."""
    return _HOST.fullmatch(value) is not None


def framing_problem(version: str, headers: dict[bytes, bytes]) -> BadRequest | None:
    """Return the error for a head that is refused whatever its path; None if the head is in order.

    Args:
        version: The HTTP version.
        headers: Names in lower case, and values; for `JOINED`, the values of all lines with commas between.
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
    """Refuse requests that a malicious web page could make a browser send to a gateway that runs without keys.

    A page can point its own host name at a loopback address (DNS rebinding), so `Host` has to be this machine's. And a
    browser lets any page send a form or plain text to any origin, but JSON only where CORS allows it.

    Args:
        target: The request target.
        headers: Names in lower case, and values.
        hosts: More host names that the gateway accepts, in lower case.
        has_body: Whether the endpoint takes a body.

    Raises:
        Forbidden: `Host` names another machine.
        UnsupportedEncoding: The `Content-Type` is not JSON.
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
