"""Replies of `/v1/messages` (Anthropic), whole and streamed. Reasons are told in the words of chat completions."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from evaluators.normalize.answer import ParsedAnswer
from evaluators.normalize.reading import NotComparable, count_of, json_text_of, mapping_of, mappings_of, text_of

_FINISHES: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_PROMPT_COUNTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def read_whole(reply: Mapping[str, Any], answer: ParsedAnswer) -> None:
    """Read a whole reply.

    Raises:
        NotComparable: `engine_error`, or `no_choices`.
    """
    if reply.get("type") == "error" or reply.get("error"):
        raise NotComparable("engine_error")
    if not isinstance(reply.get("content"), list):
        raise NotComparable("no_choices")
    answer.choices = 1
    for place, block in enumerate(mappings_of(reply.get("content"))):
        _read_block(place, block, answer)
        if block.get("type") == "tool_use":
            answer.call(place).arguments.append(json_text_of(block.get("input") or {}))
    _read_end(reply, answer)
    _read_usage(reply, answer)


def read_stream(events: Iterable[Mapping[str, Any]], answer: ParsedAnswer) -> None:
    """Read a stream's events.

    Raises:
        NotComparable: `engine_error`.
    """
    for event in events:
        kind = event.get("type")
        place = count_of(event.get("index")) or 0
        if kind == "error" or event.get("error"):
            raise NotComparable("engine_error")
        if kind == "message_start":
            answer.choices = 1
            _read_usage(mapping_of(event.get("message")), answer)
        elif kind == "content_block_start":
            _read_block(place, mapping_of(event.get("content_block")), answer)
        elif kind == "content_block_delta":
            _read_delta(place, mapping_of(event.get("delta")), answer)
        elif kind == "message_delta":
            _read_end(mapping_of(event.get("delta")), answer)
            _read_usage(event, answer)


def _read_block(place: int, block: Mapping[str, Any], answer: ParsedAnswer) -> None:
    if block.get("type") == "text":
        answer.texts.append(text_of(block.get("text")))
    elif block.get("type") == "tool_use":
        answer.call(place).name = text_of(block.get("name"))


def _read_delta(place: int, delta: Mapping[str, Any], answer: ParsedAnswer) -> None:
    if delta.get("type") == "text_delta":
        answer.texts.append(text_of(delta.get("text")))
    elif delta.get("type") == "input_json_delta":
        answer.call(place).arguments.append(text_of(delta.get("partial_json")))


def _read_end(payload: Mapping[str, Any], answer: ParsedAnswer) -> None:
    if reason := text_of(payload.get("stop_reason")):
        answer.finish_reason = _FINISHES.get(reason, reason)


def _read_usage(payload: Mapping[str, Any], answer: ParsedAnswer) -> None:
    """Read the counts; a stream tells zeros first. What came from a cache counts, as it does elsewhere."""
    usage = mapping_of(payload.get("usage"))
    prompt = sum(count_of(usage.get(name)) or 0 for name in _PROMPT_COUNTS)
    answer.prompt_tokens = prompt or answer.prompt_tokens
    answer.completion_tokens = count_of(usage.get("output_tokens")) or answer.completion_tokens
