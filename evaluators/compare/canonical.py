"""A tool call's arguments by their value: what JSON says, not how it was written."""

import json
from typing import Any

from evaluators.observation import ToolCall


def canonical_call(call: ToolCall) -> tuple[str, str]:
    """Return a call's name and its arguments in one spelling; what is no JSON stays as it is, stripped."""
    return call.name, canonical_text(parse_arguments(call.arguments))


def parse_arguments(arguments: str) -> Any:
    """Return what arguments say; none written means an empty object, what is no JSON is the text itself."""
    stripped = arguments.strip()
    if not stripped:
        return {}
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        return stripped


def canonical_text(value: Any) -> str:
    """Return one spelling for equal JSON values: sorted keys, and 1.0 as 1."""
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value
