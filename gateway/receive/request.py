"""A complete request, as the connection has read it, the model that it means, and the unit it belongs to."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from gateway.decide.assign import CONVERSATION, DEFAULT_SOURCES, Arm
from gateway.decide.authenticate import Principal, Role
from gateway.errors import BadRequest, Forbidden
from gateway.pipeline import Call, Exposure
from gateway.receive.body_memory import Hold
from gateway.receive.body_values import text_at, text_in_large
from gateway.receive.conversation import beginning_of, beginning_of_large
from gateway.receive.endpoints import Endpoint
from gateway.receive.lax import is_stream
from gateway.receive.pieces import Pieces
from gateway.receive.rates import Lease
from gateway.receive.wire import Fields, LargeFields

_NONE: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Request:
    """A complete request, as the connection has read it.

    `lease` is what it holds of limits, if it falls under any, `hold` what its body takes of the worker's memory if it
    is large, and `exposure` to which rollout it counts.
    """

    __slots__ = (
        "_arm",
        "body",
        "caller",
        "endpoint",
        "exposure",
        "extra_headers",
        "fields",
        "hold",
        "id",
        "is_http10",
        "keep_alive",
        "lease",
        "model",
        "received_at",
        "reply_headers",
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
        self.hold: Hold | None = None
        self.unit_header = unit
        self.unit_headers: Mapping[bytes, bytes] = _NONE  # those that some route looks for its unit in
        self.task_header = task
        self._arm = arm
        self.keep_alive = keep_alive
        self.is_http10 = is_http10
        self.extra_headers = extra_headers
        self.received_at = received_at
        self.reply_headers = b""  # lines that its reply has beside those of every reply

    def drop_body(self) -> None:
        """Forget the body: nobody will send it again."""
        self.body, self.fields = b"", None
        if self.hold is not None:
            self.hold.release()
            self.hold = None

    @property
    def is_streamed(self) -> bool:
        """Whether it asks for a stream."""
        return self.fields is not None and is_stream(self.fields.stream)

    @property
    def call(self) -> Call:
        """What is asked, for the pipeline; made anew, so that nothing keeps the body alive."""
        return Call(self.caller, self.model, self, self._arm)

    def unit(self, sources: tuple[str, ...]) -> str:
        """Return the unit of assignment: the first source that tells one, else the key."""
        if sources == DEFAULT_SOURCES and not self.unit_header and not self.endpoint.has_metadata_user:
            fields = self.fields  # the usual request names no unit: one look, and no call for each source
            if fields is None or not (fields.safety_identifier or fields.user or fields.prompt_cache_key):
                return self.caller.account or self.caller.id
        for source in sources:
            if source == "key":
                break
            found = self._unit_from(source)
            if found and isinstance(found, str):
                return found
        return self.caller.unit

    def _unit_from(self, source: str) -> object:
        if source == "header":
            return self.unit_header.decode("latin-1") if self.unit_header else None
        if source == "user":
            return self.user()
        if source == CONVERSATION:
            return self._beginning()
        kind, colon, what = source.partition(":")
        if not colon:
            return getattr(self.fields, source, None)
        if kind == "trusted":
            return self._unit_from(what) if self.caller.may_pin() else None
        if kind == "header":
            return self.unit_headers.get(what.encode(), b"").decode("latin-1")
        return self._in_body(what)

    def _in_body(self, path: str) -> str | None:
        first, _, rest = path.partition(".")
        fields = self.fields
        if isinstance(fields, LargeFields):
            return text_in_large(self.body, fields, path)
        if first == "metadata":  # has been found already
            return text_at(bytes(fields.metadata), rest) if rest and fields is not None else None
        return text_at(self.body, path) if isinstance(self.body, bytes) else None

    def user(self) -> object:
        """Return whom the body names as its user: `user`, in Anthropic's messages `metadata.user_id`."""
        user = getattr(self.fields, "user", None)
        if not user and self.endpoint.has_metadata_user:
            return self._in_body("metadata.user_id")
        return user

    def _beginning(self) -> str | None:
        body, dialect, caller = self.body, self.endpoint.dialect, self.caller.unit
        fields = self.fields
        if not isinstance(fields, LargeFields):
            return beginning_of(body, dialect, caller) if isinstance(body, bytes) else None
        if isinstance(body, bytes):
            return beginning_of(fields.mended or body, dialect, caller, may_have_halves=False)
        return beginning_of_large(body, fields.outline, dialect, caller)


def wanted_arm(value: bytes, caller: Principal) -> Arm:
    """Return the arm that a tester's `x-loragate-arm` asks for.

    Raises:
        Forbidden: The caller may not choose.
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
