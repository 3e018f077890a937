"""Read a route's policies from a file, write them into one, and describe them in a few words.

The fields, and how each is written in a file, are declared with their types in `gateway/records/routes.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import msgspec

from gateway.admin.routes.values import Values
from gateway.mirror.redactors import InvalidRedactor, check_name
from gateway.records.declared import DeclaredField, find_declared_fields
from gateway.records.routes import JudgePolicy

_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60))


def read_policy(values: Values, where: str, value: object, field: DeclaredField) -> Any:
    """Return the policy that `value` declares; None if it is absent. Problems are noted in `values`."""
    fields = find_declared_fields(field.policy)
    mapping = values.mapping(where, value, field.how.example, tuple(fields))
    if mapping is None:
        return None
    read = {each.name: read_field(values, f"{where}.{key}", mapping, each) for key, each in fields.items()}
    return field.policy(**read)


def read_field(values: Values, where: str, mapping: Mapping[Any, Any], field: DeclaredField) -> Any:
    """Return a field's value from a mapping; the field's default, or an empty value, if it is absent or wrong."""
    how, value = field.how, mapping.get(field.key)
    if value is None and how.missing:
        values.problems.append(f"{where}: is missing; {how.missing}")
    match how.kind:
        case "share":
            return values.share(where, value, field.default)
        case "time":
            return values.seconds(where, value)
        case "limit":
            return values.limit(where, value)
        case "text":
            return values.text(where, value, how.longest)
        case "url":
            return _read_match(values, where, value, field).rstrip("/")
        case "match":
            return _read_match(values, where, value, field)
        case "names":
            return _read_names(values, where, value, field)
        case "choice":
            return _read_choice(values, where, mapping.get(field.key, field.default), field)
        case "policy":
            return read_policy(values, where, value, field)
        case _:
            raise AssertionError(f"{field.name}: only a route has the kind {how.kind}")


def _read_match(values: Values, where: str, value: object, field: DeclaredField) -> str:
    if field.default == "" and value in (None, ""):
        return ""
    assert field.how.pattern is not None
    return values.matching(where, value, field.how.pattern, field.how.example)


def _read_names(values: Values, where: str, value: object, field: DeclaredField) -> tuple[str, ...] | None:
    names = values.names(where, value, field.how.example)
    for name in names or ():
        if field.how.pattern is not None:
            values.matching(where, name, field.how.pattern, f"a {field.name.removesuffix('s')}'s name")
        else:
            _check_redactor(values, where, name)
    default: tuple[str, ...] | None = field.default
    return default if names is None else names


def _check_redactor(values: Values, where: str, name: str) -> None:
    try:
        check_name(name)
    except InvalidRedactor as error:
        values.problems.append(f"{where}: {error}")


def _read_choice(values: Values, where: str, value: object, field: DeclaredField) -> Any:
    value = "off" if value is False else value  # YAML reads an unquoted `off` as false
    if value not in get_args(field.value_type):
        values.problem(where, value, f"one of {', '.join(get_args(field.value_type))}")
        return field.default
    return value


def write_policy(record: type[msgspec.Struct], policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy (JSON values) as a file has it, without fields that have their default value."""
    return {field.key: write_value(field, policy[field.name]) for field in worth_writing(record, policy)}


def worth_writing(record: type[msgspec.Struct], policy: Mapping[str, Any]) -> Iterator[DeclaredField]:
    """Yield the fields that a file must give: required ones, and those whose value (JSON) is not the default."""
    for field in find_declared_fields(record).values():
        value = policy.get(field.name)
        if value is None and field.name not in policy:
            continue
        if field.is_required or field.how.is_always_written or not _is_default(field, value):
            yield field


def _is_default(field: DeclaredField, value: Any) -> bool:
    return bool(field.default == (tuple(value) if isinstance(value, list) else value))


def write_value(field: DeclaredField, value: Any) -> Any:
    """Return a value (JSON) as a file has it: shares in per cent, times with their unit."""
    match field.how.kind:
        case "share":
            return share(value)
        case "time":
            return time_text(value)
        case "policy":
            return write_policy(field.policy, value)
        case "names" | "sources":
            return list(value)
        case _:
            return value


def describe_policy(record: type[msgspec.Struct], policy: Mapping[str, Any]) -> str:
    """Return a policy (JSON values) in a few words."""
    if record is JudgePolicy:
        words = [f"judged by {policy['model']} at {policy['url']}", *_words(record, policy)]
        return " ".join(words) + (", own rubric" if policy.get("rubric") else "")
    return ", ".join(_words(record, policy))


def _words(record: type[msgspec.Struct], policy: Mapping[str, Any]) -> Iterator[str]:
    for field in worth_writing(record, policy):
        value = policy[field.name]
        if field.how.words:
            yield field.how.words.format(_word(field, value))


def _word(field: DeclaredField, value: Any) -> str:
    if field.how.kind == "policy":
        return describe_policy(field.policy, value)
    if field.how.kind == "names":
        return " ".join(name[: field.how.longest] for name in value) or field.how.no_names
    return str(write_value(field, value))


def share(points: int) -> str:
    """Return basis points as per cent."""
    return f"{points / 100:g} %"


def time_text(seconds: int) -> str:
    """Return a time in the largest unit that divides it: `5400` seconds are `90m`."""
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
