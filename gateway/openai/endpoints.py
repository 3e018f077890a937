"""The paths that the gateway serves. Any other path is a 404, so that no other path of an engine is exposed.

Each path is also served below `/m/<model>/`, for tools that send no model name: there the path names the model, and
overrides a `model` in the body.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.errors import BadRequest, MethodNotAllowed, PathNotFound

_ABSOLUTE: Final = (b"http://", b"https://")


class EndpointKind(Enum):
    """What the gateway does with an endpoint."""

    PROXIED = auto()  # assigned a version and sent to an engine
    MODELS = auto()  # the list of models, answered from the route table
    MODEL = auto()  # one model, answered from the route table
    FEEDBACK = auto()  # a caller's feedback on a reply, accepted by the worker
    PREFLIGHT = auto()  # CORS: a browser asks whether a page of another origin may call; see `cross_origin.py`
    HEALTH = auto()  # answered by the worker; the only kind that needs no key


class Dialect(Enum):
    """The form of an endpoint's streams: how they report an error, and where their usage is."""

    COMPLETIONS = auto()  # OpenAI chat and text completions: `data: {"error": …}`, then [DONE]
    RESPONSES = auto()  # OpenAI responses: `event: error`
    MESSAGES = auto()  # Anthropic messages: `event: error`
    PLAIN = auto()  # never streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One path of the gateway, which is also the engine's path for it: its method, and how it is handled."""

    path: bytes
    method: bytes = b"POST"
    kind: EndpointKind = EndpointKind.PROXIED
    dialect: Dialect = Dialect.PLAIN
    # Without a `model` the base answers: tokenization is the same for all adapters of a base.
    model_is_optional: bool = False
    # Whether a model processes the prompt, so that it counts under `tokens_per_minute`.
    costs_tokens: bool = True
    # Whether `metadata.user_id` names the user, as in Anthropic's API.
    has_metadata_user: bool = False


def _by_path(*endpoints: Endpoint) -> dict[bytes, Endpoint]:
    return {endpoint.path: endpoint for endpoint in endpoints}


ENDPOINTS: Final = _by_path(
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
    """A request's endpoint, and the model that its path names; None if the path names none."""

    endpoint: Endpoint
    model: str | None = None


# Kinds that also take HEAD, which is answered like GET without the body: load balancers probe with it.
_TAKE_HEAD: Final = frozenset((EndpointKind.HEALTH, EndpointKind.MODELS, EndpointKind.MODEL))
_PLAIN_ADDRESSES: Final = {path: RequestAddress(endpoint) for path, endpoint in ENDPOINTS.items()}


def find_endpoint(method: bytes, target: bytes) -> RequestAddress:
    """Return the endpoint for `method` and the request target `target` (path and query).

    Raises:
        PathNotFound: The path is not served.
        MethodNotAllowed: The path is served with another method.
        BadRequest: The model named in the path is not UTF-8.
    """
    address = _PLAIN_ADDRESSES.get(target) or _address_of(_path_of(target))
    if method != address.endpoint.method and not (method == b"HEAD" and address.endpoint.kind in _TAKE_HEAD):
        allow = address.endpoint.method
        error = MethodNotAllowed(f"{_printable(method)} is not allowed on {_printable(target)}; use {allow.decode()}.")
        error.allow = allow
        raise error
    return address


def _path_of(target: bytes) -> bytes:
    """Return a target's path without query, trailing slash and, in absolute form (RFC 9112, 3.2.2), authority."""
    path = split_target(target)[1].partition(b"?")[0]
    return path[:-1] if path.endswith(b"/") else path


def _address_of(path: bytes) -> RequestAddress:
    if path.startswith(b"/m/"):
        name, slash, rest = path[3:].partition(b"/")
        endpoint = ENDPOINTS.get(slash + rest)
        if not name or endpoint is None or endpoint.kind is EndpointKind.HEALTH:
            raise _unknown(path)
        return RequestAddress(endpoint, _decode_name(name))
    if path.startswith(b"/v1/models/"):
        return RequestAddress(ONE_MODEL, _decode_name(path[len(b"/v1/models/") :]))
    address = _PLAIN_ADDRESSES.get(path)
    if address is None:
        raise _unknown(path)
    return address


def _decode_name(name: bytes) -> str:
    try:
        return unquote_to_bytes(name).decode()
    except UnicodeDecodeError:
        raise BadRequest(f"The model named in the path is not UTF-8: `{_printable(name)}`.", param="model") from None


def _printable(raw: bytes) -> str:
    text = raw[:120].decode("ascii", "replace")
    return text + ("…" if len(raw) > 120 else "")


def _unknown(path: bytes) -> PathNotFound:
    return PathNotFound(
        f"The path `{_printable(path)}` is not served here; see docs/reference/endpoints.md for those that are."
    )


def split_target(target: bytes) -> tuple[bytes | None, bytes]:
    """Return the authority and the path of a request target; no authority unless it is in absolute form.

    An absolute form without a host is invalid (RFC 9110, 4.2.1): its path is empty, so that it is not found.
    """
    if target[:8].lower().startswith(_ABSOLUTE):
        authority, slash, rest = target.partition(b"://")[2].partition(b"/")
        return authority, (slash + rest or b"/") if authority else b""
    return None, target
