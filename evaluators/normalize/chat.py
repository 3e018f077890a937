"""Replies of `/v1/chat/completions` and `/v1/completions`, whole and streamed, as vLLM sends them.

Of several choices the first one counts (`index` 0). vLLM tells `token_ids` beside each choice's text, and
`prompt_token_ids` on the reply (chat) or in the choice (completions), once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from evaluators.normalize.answer import ParsedAnswer
from evaluators.normalize.reading import (
    NotComparable,
    count_of,
    ids_of,
    json_text_of,
    list_of,
    mapping_of,
    mappings_of,
    text_of,
)


def read_whole(reply: Mapping[str, Any], answer: ParsedAnswer) -> None:
    """Read a whole reply.

    Raises:
        NotComparable: `engine_error`, or `no_choices`.
    """
    _read(reply, answer)
    if not answer.choices:
        raise NotComparable("no_choices")


def read_stream(events: Iterable[Mapping[str, Any]], answer: ParsedAnswer) -> None:
    """Read a stream's events.

    Raises:
        NotComparable: `engine_error`.
    """
    for event in events:
        _read(event, answer)


def _read(payload: Mapping[str, Any], answer: ParsedAnswer) -> None:
    if payload.get("error") or payload.get("object") == "error":
        raise NotComparable("engine_error")
    answer.prompt_ids = answer.prompt_ids or ids_of(payload.get("prompt_token_ids"))
    usage = mapping_of(payload.get("usage"))
    if (prompt := count_of(usage.get("prompt_tokens"))) is not None:
        answer.prompt_tokens = prompt
        answer.completion_tokens = count_of(usage.get("completion_tokens"))
    for choice in mappings_of(payload.get("choices")):
        index = count_of(choice.get("index")) or 0
        answer.choices = max(answer.choices, index + 1)
        if index == 0:
            _read_choice(choice, answer)


def _read_choice(choice: Mapping[str, Any], answer: ParsedAnswer) -> None:
    message = mapping_of(choice.get("message") or choice.get("delta"))
    text = _content(message.get("content")) or text_of(choice.get("text")) or text_of(message.get("refusal"))
    if text:
        answer.texts.append(text)
    for place, call in enumerate(mappings_of(message.get("tool_calls"))):
        index = count_of(call.get("index"))
        _add_call(place if index is None else index, mapping_of(call.get("function")), answer)
    if legacy := mapping_of(message.get("function_call")):
        _add_call(0, legacy, answer)
    answer.finish_reason = text_of(choice.get("finish_reason")) or answer.finish_reason
    answer.prompt_ids = answer.prompt_ids or ids_of(choice.get("prompt_token_ids"))
    answer.add_ids(ids_of(choice.get("token_ids")))


def _add_call(place: int, function: Mapping[str, Any], answer: ParsedAnswer) -> None:
    call = answer.call(place)
    call.name = call.name or text_of(function.get("name"))
    if (arguments := function.get("arguments")) is not None:
        call.arguments.append(json_text_of(arguments))


def _content(value: Any) -> str:
    """Return a message's text: itself, or its text parts joined."""
    return text_of(value) or "".join(text_of(part.get("text")) for part in mappings_of(list_of(value)))
