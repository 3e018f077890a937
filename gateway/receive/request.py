"""A complete request, as the connection has read it, and the model that it means."""

import msgspec

from gateway.errors import BadRequest
from gateway.pipeline import Call
from gateway.receive.endpoints import Endpoint
from gateway.receive.wire import Fields


class Request:
    """A complete request, as the connection has read it."""

    __slots__ = (
        "body", "call", "endpoint", "extra_headers", "fields", "id", "is_http10", "keep_alive", "received_at",
    )  # fmt: skip

    def __init__(
        self, request_id: bytes, endpoint: Endpoint, body: bytes, fields: Fields | None, call: Call,
        *, keep_alive: bool, is_http10: bool, extra_headers: bytes, received_at: float,
    ) -> None:  # fmt: skip
        self.id = request_id
        self.endpoint = endpoint
        self.body = body
        self.fields = fields
        self.call = call
        self.keep_alive = keep_alive
        self.is_http10 = is_http10
        self.extra_headers = extra_headers
        self.received_at = received_at


def model_of(fields: Fields | None, endpoint: Endpoint, in_path: str | None, base: str | None) -> str:
    """Return the model a request means: the path's, else the body's, else the base where none is needed.

    Raises:
        BadRequest: There is none, or it is not a string.
    """
    if in_path is not None:
        return in_path
    model = fields.model if fields is not None else msgspec.UNSET
    if isinstance(model, str) and model:
        return model
    if model is msgspec.UNSET or model is None or model == "":
        if endpoint.model_is_optional and base is not None:
            return base
        raise BadRequest("You must provide a model parameter.", param="model", code="missing_required_parameter")
    raise BadRequest(f"`model` must be a string, not {_json_type(model)}.", param="model", code="invalid_type")


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list) else "an object"
