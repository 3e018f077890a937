"""Replies of `/v1/responses`, whole and streamed.

A stream ends with an event that carries the whole reply; only where that is missing or empty are its deltas
put together. Token ids are there if the request had `enable_response_messages` (vLLM): the raw messages
then carry them, if there is one of each side.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from evaluators.normalize.answer import ParsedAnswer
from evaluators.normalize.reading import (
    NotComparable,
    count_of,
    ids_of,
    json_text_of,
    mapping_of,
    mappings_of,
    text_of,
)

_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_FINISHES: Final = {"max_output_tokens": "length"}


def read_whole(reply: Mapping[str, Any], answer: ParsedAnswer) -> None:
    """Read a whole reply.

    Raises:
        NotComparable: `engine_error`, `unfinished` (stored and still running), or `no_choices`.
    """
    status = text_of(reply.get("status"))
    if reply.get("error") or status in ("failed", "cancelled"):
        raise NotComparable("engine_error")
    if status in ("queued", "in_progress"):
        raise NotComparable("unfinished")
    if "output" not in reply:
        raise NotComparable("no_choices")
    answer.choices = 1
    outputs = mappings_of(reply.get("output"))
    if outputs:
        answer.texts, answer.calls = [], {}
    for place, item in enumerate(outputs):
        _read_item(place, item, answer)
    incomplete = text_of(mapping_of(reply.get("incomplete_details")).get("reason"))
    if status == "incomplete":
        answer.finish_reason = _FINISHES.get(incomplete, incomplete or "length")
    else:
        answer.finish_reason = "tool_calls" if answer.calls else "stop"
    usage = mapping_of(reply.get("usage"))
    answer.prompt_tokens = count_of(usage.get("input_tokens"))
    answer.completion_tokens = count_of(usage.get("output_tokens"))
    answer.prompt_ids = _raw_ids(reply.get("input_messages"))
    answer.add_ids(_raw_ids(reply.get("output_messages")))


def _read_item(place: int, item: Mapping[str, Any], answer: ParsedAnswer) -> None:
    kind = item.get("type")
    if kind == "message":
        for part in mappings_of(item.get("content")):
            if part.get("type") in ("output_text", "refusal"):
                answer.texts.append(text_of(part.get("text")) or text_of(part.get("refusal")))
    elif kind in ("function_call", "custom_tool_call"):
        call = answer.call(place)
        call.name = text_of(item.get("name"))
        call.arguments = [json_text_of(item.get("arguments", item.get("input", "")))]


def _raw_ids(messages: Any) -> tuple[int, ...] | None:
    """Return the token ids of raw messages; None if there is not exactly one, for then they do not join."""
    found = mappings_of(messages)
    return ids_of(found[0].get("tokens")) if len(found) == 1 else None


def read_stream(events: Iterable[Mapping[str, Any]], answer: ParsedAnswer) -> None:
    """Read a stream's events.

    Raises:
        NotComparable: As `read_whole`.
    """
    for event in events:
        kind = text_of(event.get("type"))
        if kind in _LAST_EVENTS:
            read_whole(mapping_of(event.get("response")), answer)
        elif kind == "error" or event.get("error"):
            raise NotComparable("engine_error")
        else:
            _read_delta(kind, event, answer)


def _read_delta(kind: str, event: Mapping[str, Any], answer: ParsedAnswer) -> None:
    place = count_of(event.get("output_index")) or 0
    if kind in ("response.output_text.delta", "response.refusal.delta"):
        answer.choices = 1
        answer.texts.append(text_of(event.get("delta")))
    elif kind == "response.output_item.added":
        answer.choices = 1
        item = mapping_of(event.get("item"))
        if item.get("type") in ("function_call", "custom_tool_call"):
            answer.call(place).name = text_of(item.get("name"))
    elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
        answer.call(place).arguments.append(text_of(event.get("delta")))
