"""The paths we serve. Whatever is not listed here is 404, so no engine path slips out.

Each path is also served below `/m/<model>/`, for tools that send no model name: there
the path names the model, and a `model` in the body gives way to it.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.errors import BadRequest, MethodNotAllowed, PathNotFound

_ABSOLUTE: Final = (b"http://", b"https://")


class EndpointKind(Enum):
    """What the gateway does with an endpoint."""

    PROXIED = auto()  # addressed to a version and sent to an engine
    MODELS = auto()  # answered from the route table
    MODEL = auto()  # one model of it
    FEEDBACK = auto()  # taken by the worker: what a caller says of a reply
    PREFLIGHT = auto()  # a browser asks whether a page of another origin may call; see `cross_origin.py`
    HEALTH = auto()  # answered by the worker; the only one that needs no key


class Dialect(Enum):
    """How an endpoint's stream says that it failed, and where its usage stands."""

    COMPLETIONS = auto()  # OpenAI chat and text completions: `data: {"error": …}`, then [DONE]
    RESPONSES = auto()  # OpenAI responses: `event: error`
    MESSAGES = auto()  # Anthropic messages: `event: error`
    PLAIN = auto()  # never streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One path: its method, what is done with it, and the engine's own path for it."""

    path: bytes
    method: bytes = b"POST"
    kind: EndpointKind = EndpointKind.PROXIED
    dialect: Dialect = Dialect.PLAIN
    # Without a `model` the base is meant: these are the same for every adapter of a base.
    model_is_optional: bool = False
    # Whether a model reads the prompt, which `tokens_per_minute` bounds.
    costs_tokens: bool = True
    # Whether `metadata.user_id` says who asks, as in Anthropic's API.
    has_metadata_user: bool = False


def _served(*endpoints: Endpoint) -> dict[bytes, Endpoint]:
    return {endpoint.path: endpoint for endpoint in endpoints}


ENDPOINTS: Final = _served(
    Endpoint(path=b"/v1/chat/completions", dialect=Dialect.COMPLETIONS),
    Endpoint(path=b"/v1/completions", dialect=Dialect.COMPLETIONS),
    Endpoint(path=b"/v1/responses", dialect=Dialect.RESPONSES),
    Endpoint(path=b"/v1/messages", dialect=Dialect.MESSAGES, has_metadata_user=True),
    Endpoint(path=b"/v1/messages/count_tokens", costs_tokens=False, has_metadata_user=True),
    Endpoint(path=b"/v1/embeddings"),
    Endpoint(path=b"/tokenize", model_is_optional=True, costs_tokens=False),
    Endpoint(path=b"/detokenize", model_is_optional=True, costs_tokens=False),
    Endpoint(path=b"/tokenizer_info", method=b"GET", model_is_optional=True, costs_tokens=False),
    Endpoint(path=b"/v1/feedback", kind=EndpointKind.FEEDBACK),
    Endpoint(path=b"/v1/models", method=b"GET", kind=EndpointKind.MODELS),
    Endpoint(path=b"/healthz", method=b"GET", kind=EndpointKind.HEALTH),
)
ONE_MODEL: Final = Endpoint(path=b"/v1/models/", method=b"GET", kind=EndpointKind.MODEL)


@dataclass(frozen=True, slots=True)
class RequestAddress:
    """A request's endpoint, and the model that its path names, if it does."""

    endpoint: Endpoint
    model: str | None = None


# What the worker answers to a GET it also answers to a HEAD, without the body: load balancers probe so.
_TAKE_HEAD: Final = frozenset((EndpointKind.HEALTH, EndpointKind.MODELS, EndpointKind.MODEL))
_PLAIN_ADDRESSES: Final = {path: RequestAddress(endpoint) for path, endpoint in ENDPOINTS.items()}


def find_endpoint(method: bytes, target: bytes) -> RequestAddress:
    """Return what `method` on the request target `target` (path and query) means.

    Raises:
        PathNotFound: The path is not served.
        MethodNotAllowed: The path is served with another method.
        BadRequest: The model named in the path is not UTF-8.
    """
    address = _PLAIN_ADDRESSES.get(target) or _address_of(_path_of(target))
    if method != address.endpoint.method and not (method == b"HEAD" and address.endpoint.kind in _TAKE_HEAD):
        allow = address.endpoint.method
        error = MethodNotAllowed(f"{_shown(method)} is not allowed on {_shown(target)}; use {allow.decode()}.")
        error.allow = allow
        raise error
    return address


def _path_of(target: bytes) -> bytes:
    """Return a target's path without its query, a slash at its end, or an authority (RFC 9112, 3.2.2) before it."""
    path = split_target(target)[1].partition(b"?")[0]
    return path[:-1] if path.endswith(b"/") else path


def _address_of(path: bytes) -> RequestAddress:
    if path.startswith(b"/m/"):
        name, slash, rest = path[3:].partition(b"/")
        endpoint = ENDPOINTS.get(slash + rest)
        if not name or endpoint is None or endpoint.kind is EndpointKind.HEALTH:
            raise _unknown(path)
        return RequestAddress(endpoint, _decoded(name))
    if path.startswith(b"/v1/models/"):
        return RequestAddress(ONE_MODEL, _decoded(path[len(b"/v1/models/") :]))
    address = _PLAIN_ADDRESSES.get(path)
    if address is None:
        raise _unknown(path)
    return address


def _decoded(name: bytes) -> str:
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise BadRequest(f"The model named in the path is not UTF-8: `{_shown(name)}`.", param="model") from None


def _shown(raw: bytes) -> str:
    text = raw[:120].decode("ascii", "replace")
    return text + ("…" if len(raw) > 120 else "")


def _unknown(path: bytes) -> PathNotFound:
    return PathNotFound(
        f"The path `{_shown(path)}` is not served here; see docs/reference/endpoints.md for those that are."
    )


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """Return the authority and the path of a request target; no authority unless it is in absolute form.

    A target in absolute form that names no host is no target (RFC 9110, 4.2.1), and its path is empty.
    """
    if target[:8].lower().startswith(_ABSOLUTE):
        authority, slash, rest = target.partition(b"://")[2].partition(b"/")
        return authority, (slash + rest or b"/") if authority else b""
    return None, target
