"""Checks a request's fields against the policy for engine fields (`decide/engine_fields.py`).

Speed: a usual request costs a look at the type of its parsed fields and a count of its brackets. Only if one of the two
shows that the body may hold something that the policy rules on is the body searched for it.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from gateway.decide.engine_fields import CAPS, DENIED, NO_RULES, FieldPolicy, Rules, refusal
from gateway.decide.route import RouteTable
from gateway.errors import BadRequest
from gateway.observe.ledger import Ledger
from gateway.openai.body import POLICED, PROMPTS, Fields, LargeFields, OddFields, UsualFields
from gateway.openai.endpoints import Dialect
from gateway.openai.lax import number_of
from gateway.openai.media import may_hold_media, media_fields
from gateway.openai.surrogates import repair_surrogates
from gateway.receive.request import Request

_TOKEN_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_NUMBERS: Final[dict[str, str]] = {"n": "n", "best_of": "best_of", **dict.fromkeys(_TOKEN_LIMITS, "max_tokens")}
# Values that mean the same as a missing field.
_NOTHING: Final = frozenset((b"", b"null", b"false", b"{}", b"[]", b'""'))
# Values that equal vLLM's default, so that sending them changes nothing.
_HARMLESS: Final = {"priority": frozenset((b"0", b"0.0", b'"0"'))}
# A number with more characters is larger than any cap.
_MAX_NUMBER: Final = 24
_LARGER_THAN_ALL: Final = 2**63
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
# Media are in a list of parts inside the list of messages; a body with one list has none.
_BRACKETS_OF_PLAIN_MESSAGES: Final = 1


class EngineFields:
    """Enforces the policy for engine fields on a worker's requests.

    Args:
        policy: The policy of the settings.
        ledger: Where refusals are counted.
    """

    def __init__(self, policy: FieldPolicy, ledger: Ledger) -> None:
        self._policy = policy
        self._ledger = ledger
        # The quick path assumes the default caps: settings may be stricter.
        self._trusts_usual = not any(name in CAPS for name in policy.rules)

    def check(self, request: Request, table: RouteTable) -> None:
        """Refuse a request with a field that its caller may not send to engines.

        Raises:
            BadRequest: The error names the first field that is refused.
        """
        fields = request.fields
        if (
            type(fields) is UsualFields
            and self._trusts_usual
            and not request.caller.engine_fields
            and request.endpoint.dialect is Dialect.COMPLETIONS
            and not fields.prompt
            and not table.has_engine_fields
            and isinstance(request.body, bytes)
            and request.body.count(b"[") <= _BRACKETS_OF_PLAIN_MESSAGES
        ):
            return
        if fields is not None:
            self._look(request, fields, table)

    def _look(self, request: Request, fields: Fields, table: RouteTable) -> None:
        alias = request.model.partition("@")[0]
        # The rules of an alias that the caller may not use are not revealed: it is treated as one that does not exist.
        route = table.routes.get(alias) if request.caller.may_use(alias) else None
        rules: Rules = route.engine_fields if route is not None else NO_RULES
        for name, param, value in _fields_under_policy(request, fields):
            why = refusal(name, value, request.caller, rules, self._policy)
            if why is None:
                continue
            counted = self._ledger.cell(alias if route is not None else "").engine_fields
            outcome = (name, "dry_run" if self._policy.dry_run else "refused")
            counted["/".join(outcome)] = counted.get("/".join(outcome), 0) + 1
            if not self._policy.dry_run:
                raise BadRequest(_message(param, value, why), param=param, code="engine_field_not_allowed")


def _message(param: str, value: int | None, why: str) -> str:
    if value is None:
        return f"`{param}` is not passed on to an engine: {why}. Leave it out, or have an operator allow it."
    number = f"{value:,}" if value < _LARGER_THAN_ALL else "more than 2^63"
    return f"`{param}` is {number}; {why}. Ask for less, or have an operator raise it (`engine_fields`)."


def _fields_under_policy(request: Request, fields: Fields) -> Iterator[tuple[str, str, int | None]]:
    """Yield (rule's name, field's name, number asked for) of each field in the request that the policy rules on."""
    policed = fields.policed if isinstance(fields, LargeFields) else fields
    numbers: dict[str, int] = {}
    if isinstance(policed, OddFields):
        for name in DENIED:
            if name in POLICED:
                raw = bytes(getattr(policed, name)).strip()
                if raw not in _NOTHING and raw not in _HARMLESS.get(name, ()):
                    yield name, name, None
        numbers = {name: _number(bytes(getattr(policed, name))) for name in _NUMBERS}
    else:
        numbers = {name: getattr(policed, name, None) or 0 for name in _NUMBERS}
    for name, number in numbers.items():
        if number:
            yield _NUMBERS[name], name, number
    if request.endpoint.path == b"/v1/completions":
        yield "choices", "prompt", _count(fields, "prompt") * max(1, numbers["n"])
    elif request.endpoint.path == b"/v1/embeddings":
        yield "inputs", "input", _count(fields, "input")
    if isinstance(fields, LargeFields):
        yield from ((rule, shown, None) for rule, shown in fields.media)
    elif isinstance(request.body, bytes) and may_hold_media(request.body):
        for raw in _prompt_members(request.body):
            if may_hold_media(raw):
                yield from ((rule, shown, None) for rule, shown in media_fields(raw).items())


def _number(raw: bytes) -> int:
    """Return the number that an engine would read in a JSON value; 0 for a value that the engine itself refuses."""
    raw = raw.strip()
    if not raw or raw in _NOTHING:
        return 0
    if len(raw) > _MAX_NUMBER:
        return _LARGER_THAN_ALL
    try:
        value: Any = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return 0
    return number_of(value) or 0


def _count(fields: Fields, name: str) -> int:
    """Return how many prompts the field holds; a list of token ids is one prompt."""
    if isinstance(fields, LargeFields):
        return fields.counts.get(name, 1)
    raw = bytes(getattr(fields, name)).lstrip()
    if not raw.startswith(b"["):
        return 1
    try:
        items = _ITEMS.decode(raw)
    except msgspec.DecodeError:  # half of a surrogate pair
        items = _ITEMS.decode(repair_surrogates(raw))
    return 1 if not items or bytes(items[0]).strip()[:1].isdigit() else len(items)


def _prompt_members(body: bytes) -> Iterator[bytes]:
    """Yield the raw members of a body that hold prompts (`messages`, `system`, ...), found by a second parse."""
    try:
        found = _MEMBERS.decode(body)
    except msgspec.DecodeError:  # half of a surrogate pair in a key
        found = _MEMBERS.decode(repair_surrogates(body))
    yield from (bytes(found[name]) for name in PROMPTS if name in found)
