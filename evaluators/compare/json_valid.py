"""JSON valid: whether an answer is the JSON that was asked for, and follows its schema if there is one.

The whole text must be one JSON value (RFC 8259, so no NaN, no Markdown fence, nothing around it);
without a schema an object or an array, with one what the schema allows, by `jsonschema`.

Limits: where the engine itself holds the answer to the grammar, an answer is invalid only when it
was cut off. Schemas come from callers, so nothing in them may reach out or run on: a `$ref` to
elsewhere is not followed and more than 10,000 references are not (then there is no number), and
regular expressions (`pattern`, `patternProperties`, with it `additionalProperties`) are not tried.
`format` is not checked.
"""

import json
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, Final

from evaluators.compare.comparator import Difference, Direction, Reason
from evaluators.observation import Observation, Prompt

# Thirty definitions that each refer twice to the next ask for a billion checks.
MAX_REFERENCES: Final = 10_000
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_BESIDE_PATTERNS: Final = ("additionalProperties", "unevaluatedProperties")
_left: Final[ContextVar[Iterator[int]]] = ContextVar("references left in this check")


class _TooManyReferencesError(Exception):
    """A schema refers to itself too often."""


def _refuse(constant: str) -> None:
    raise ValueError(f"`{constant}` is not JSON")


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _accept(*_: object) -> None:
    """Accept any value: replaces keywords of JSON Schema that are not checked."""


def _limit_references(original: Any) -> Any:
    def check(*arguments: Any) -> Iterator[Any]:
        if next(_left.get(), None) is None:
            raise _TooManyReferencesError
        yield from original(*arguments) or ()

    return check


def _skip_beside_patterns(original: Any) -> Any:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if "patternProperties" not in schema:
            yield from original(validator, value, instance, schema) or ()

    return check


@cache
def _checker(kind: Any) -> Any:
    """Return a validator class whose keywords cannot run without end: patterns are off, references are limited."""
    from jsonschema import validators

    keywords = kind.VALIDATORS
    changed = {"pattern": _accept, "patternProperties": _accept}
    changed |= {name: _limit_references(keywords[name]) for name in _REFERENCES if name in keywords}
    changed |= {name: _skip_beside_patterns(keywords[name]) for name in _BESIDE_PATTERNS if name in keywords}
    extend: Any = validators.extend
    return extend(kind, changed)


def _of_one_dialect(schema: Any) -> Any:
    """Return a schema without `$schema`: jsonschema would check a part that has one by a class without our limits."""
    if isinstance(schema, Mapping):
        return {
            key: _of_one_dialect(value)
            for key, value in schema.items()
            if not (key == "$schema" and isinstance(value, str))
        }
    return [_of_one_dialect(item) for item in schema] if isinstance(schema, list) else schema


def _follows(value: Any, schema: Mapping[str, Any]) -> bool | Reason:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    token = _left.set(iter(range(MAX_REFERENCES)))
    try:
        kind: Any = validator_for(dict(schema), default=Draft202012Validator)
        kind.check_schema(schema)
        # An empty registry: without one, jsonschema fetches what a `$ref` points to.
        return bool(_checker(kind)(_of_one_dialect(schema), registry=Registry()).is_valid(value))
    except (SchemaError, Unresolvable, RecursionError, TypeError, ValueError, AttributeError, _TooManyReferencesError):
        return Reason.BAD_SCHEMA
    finally:
        _left.reset(token)


def _look(prompt: Prompt, answer: Observation) -> float | Reason:
    if prompt.schema is None and not prompt.wants_json:
        return Reason.NO_JSON_ASKED
    if not answer.text.strip() and answer.tool_calls:
        return Reason.TOOL_CALLS
    try:
        value = _parse(answer.text)
    except (ValueError, RecursionError):
        return 0.0
    if prompt.schema is None:
        return float(isinstance(value, dict | list))
    found = _follows(value, prompt.schema)
    return found if isinstance(found, Reason) else float(found)


JSON_VALID: Final = Difference(name="json_valid", version="1", direction=Direction.HIGHER_IS_BETTER, look=_look)
