"""What a web page could make a browser send to a control port without keys, and how it is told apart.

Whoever reaches such a port is let in, and it is on loopback only. A page that somebody on this machine has open reaches
loopback as well: under a name of its own that it gives a loopback address (DNS rebinding), or with a plain form, which
needs nobody's leave as long as it looks like one. So names are this machine's, and a change has to look like no form.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway.errors import BadRequest, Forbidden

CHANGES: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))
# A page may send neither to another origin before a browser has asked us (CORS), and we never agree.
JSON: Final = "application/json"
CUSTOM: Final = "x-requested-with"
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")
# What a browser says of a request that a person, or a page of this very server, has made.
_OWN_SITES: Final = ("same-origin", "none")
_SHOWN: Final = 100


def check_host(headers: Headers, *, is_open: bool) -> None:
    """Refuse a `Host` that names nothing; where no key is asked for, also one that is not this machine.

    Raises:
        BadRequest: It is no name, or there are two.
        Forbidden: It is another machine's.
    """
    given = headers.getlist("host")
    host = given[0] if given else ""
    if len(given) > 1 or (host and _HOST.fullmatch(host) is None):
        raise BadRequest(
            f"`Host: {', '.join(given)[:_SHOWN]!r}` is no name or address with a port; send one such as "
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
        Forbidden: A browser says that another site sends it, or it looks like a form.
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
