"""Compare a tool call's arguments by their JSON value, not by their spelling."""

import json
from typing import Any

from evaluators.observation import ToolCall


def canonical_call(call: ToolCall) -> tuple[str, str]:
    """Return a call's name and its arguments in canonical spelling; arguments that are not JSON are only stripped."""
    return call.name, canonical_text(parse_arguments(call.arguments))


def parse_arguments(arguments: str) -> Any:
    """Return the JSON value of arguments: an empty object for empty text, the stripped text if it is not JSON."""
    stripped = arguments.strip()
    if not stripped:
        return {}
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        return stripped


def canonical_text(value: Any) -> str:
    """Return the canonical spelling of a JSON value: sorted keys, and 1.0 as 1."""
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value
