"""Refuse requests that a web page could make a browser send to a control port without keys.

A control port without keys listens on loopback only and accepts every caller. A web page that is open in a browser on
this machine can reach loopback too: through a host name of its own that it resolves to a loopback address (DNS
rebinding), or with an HTML form, which browsers send to other origins without asking the server first (no CORS
preflight). So `Host` must name this machine, and a change must be a request that no form can produce.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway.errors import BadRequest, Forbidden

CHANGES: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))
# Browsers send this content type and this header to another origin only after a CORS preflight, which the gateway
# never allows.
JSON: Final = "application/json"
CUSTOM: Final = "x-requested-with"
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
# Values of `Sec-Fetch-Site` for requests from this server's own pages, and for addresses that a person typed.
_OWN_SITES: Final = ("same-origin", "none")
_SHOWN: Final = 100


def check_host(headers: Headers, *, is_open: bool) -> None:
    """Refuse a malformed `Host` header; on a port without keys (`is_open`), also one that is not this machine's name.

    Raises:
        BadRequest: `Host` is not a name or address with an optional port, or the request has two.
        Forbidden: `Host` names another machine.
    """
    hosts = headers.getlist("host")
    host = hosts[0] if hosts else ""
    if len(hosts) > 1 or (host and _HOST.fullmatch(host) is None):
        raise BadRequest(
            f"`Host: {', '.join(hosts)[:_SHOWN]!r}` is no name or address with a port; send one such as "
            "`127.0.0.1:8081`.",
            code="invalid_host",
        )
    if is_open and not _is_this_machine(host):
        raise Forbidden(
            f"Without keys the control port answers to this machine's names only, and `Host` is `{host[:_SHOWN]}`; "
            "use http://127.0.0.1, or make keys.",
            code="host_not_allowed",
        )


def check_is_no_page(method: str, headers: Headers) -> None:
    """Refuse a change that a page of another site could have made a browser send.

    Raises:
        Forbidden: The browser's headers name another site as the origin, or the request could come from an HTML form.
    """
    if method not in CHANGES:
        return
    site = headers.get("sec-fetch-site", "none").strip().lower()
    origins = headers.getlist("origin")
    if site not in _OWN_SITES or any(not _is_own(origin, headers.get("host", "")) for origin in origins):
        raise Forbidden(
            f"A page of another site sends this (`Origin: {', '.join(origins)[:_SHOWN]}`, `Sec-Fetch-Site: "
            f"{site[:_SHOWN]}`), and without keys none may change anything; use the command line, or make keys.",
            code="origin_not_allowed",
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and CUSTOM not in headers:
        raise Forbidden(
            f"Without keys a change needs `content-type: {JSON}`, with a body or not, or any `{CUSTOM}` header, which "
            "no web page can send by itself; add one, or make keys.",
            code="content_type_needed",
        )


def _is_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if re.search(r":[0-9]{1,5}$", host) and not host.endswith("]") else host
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower().rstrip(".") == "localhost"


def _is_own(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
