"""A complete request: its body and fields, its caller, its model, and its unit of assignment."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.decide.assign import Arm
from gateway.decide.authenticate import Principal, Role
from gateway.decide.exposure import Exposure
from gateway.errors import BadRequest, Forbidden
from gateway.openai.body import Fields
from gateway.openai.endpoints import Endpoint
from gateway.openai.identity import unit_of
from gateway.openai.lax import is_stream
from gateway.openai.pieces import Pieces
from gateway.pipeline import Call
from gateway.receive.body_memory import BodyReservation
from gateway.receive.rates import Lease

_NONE: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Request:
    """A complete request, as the connection has read it.

    Attributes:
        lease: Its place under rate limits, if any apply.
        reservation: What its body takes of the worker's memory, if the body is large.
        exposure: The rollout, arm and unit that it counts to, if a rollout counts it.
    """

    __slots__ = (
        "_arm",
        "body",
        "caller",
        "endpoint",
        "exposure",
        "extra_headers",
        "fields",
        "id",
        "is_http10",
        "keep_alive",
        "lease",
        "model",
        "received_at",
        "reply_headers",
        "reservation",
        "task_header",
        "unit_header",
        "unit_headers",
    )

    def __init__(
        self,
        request_id: bytes,
        endpoint: Endpoint,
        body: bytes | Pieces,
        fields: Fields | None,
        caller: Principal,
        model: str,
        *,
        unit: bytes | None,
        task: bytes | None = None,
        arm: Arm | None,
        keep_alive: bool,
        is_http10: bool,
        extra_headers: bytes,
        received_at: float,
    ) -> None:
        self.id = request_id
        self.endpoint = endpoint
        self.body = body
        self.fields = fields
        self.caller = caller
        self.model = model
        self.lease: Lease | None = None
        self.exposure: Exposure | None = None
        self.reservation: BodyReservation | None = None
        self.unit_header = unit
        self.unit_headers: Mapping[bytes, bytes] = _NONE  # headers that some route names as a source of the unit
        self.task_header = task
        self._arm = arm
        self.keep_alive = keep_alive
        self.is_http10 = is_http10
        self.extra_headers = extra_headers
        self.received_at = received_at
        self.reply_headers = b""  # extra header lines for its reply (CORS)

    def drop_body(self) -> None:
        """Free the body and its reservation: it will not be sent again."""
        self.body, self.fields = b"", None
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None

    @property
    def is_streamed(self) -> bool:
        return self.fields is not None and is_stream(self.fields.stream)

    @property
    def call(self) -> Call:
        """The request for `pipeline.answer`; a new object each time, so that none keeps the body alive."""
        return Call(self.caller, self.model, self, self._arm)

    def unit(self, sources: tuple[str, ...]) -> str:
        """Return the unit of assignment: from the first of `sources` that has one, else from the key."""
        return unit_of(self, sources)


def parse_arm(value: bytes, caller: Principal) -> Arm:
    """Parse `x-loragate-arm`, by which testers choose an arm.

    Raises:
        Forbidden: The caller's role may not choose an arm.
        BadRequest: There is no such arm.
    """
    if not caller.may_pin():
        raise Forbidden(
            f"This key may not choose an arm with `x-loragate-arm`: its role is `{caller.role}`, "
            f"that needs `{Role.APP_PIN}` or better.",
            code="arm_not_allowed",
        )
    try:
        return Arm(value.decode("latin-1").strip().lower())
    except ValueError:
        shown = value[:40].decode("ascii", "replace")
        raise BadRequest(f"`x-loragate-arm` is `{shown}`; it may be `control` or `candidate`.") from None


def model_of(fields: Fields | None, endpoint: Endpoint, in_path: str | None, base: str | None) -> str:
    """Return the model that a request names: in its path, else in its body, else the base if the endpoint allows that.

    Raises:
        BadRequest: The model is missing, or is not a string.
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
