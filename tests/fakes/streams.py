"""Events of streamed replies, in vLLM 0.32's shapes: `(paced, tail)`, the tail sent with the last.

Pure. Each event is one SSE event with its blank line, ready to be written by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.generate import Answer, tokens_of
from tests.fakes.replies import (
    CREATED,
    IDS,
    STOP_REASONS,
    chat_logprobs,
    encode,
    prompt_ids,
    responses_item,
    responses_value,
    text_logprobs,
    told_ids,
    tool_calls,
    usage,
)

Body = Mapping[str, Any]
Events = tuple[list[bytes], list[bytes]]
DONE = b"data: [DONE]\n\n"


def _data(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _named(kind: str, value: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + _data({"type": kind} | value)


def _wants_usage(body: Body) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def chat(model: str, body: Body, answers: Sequence[Answer]) -> Events:
    """Return chat chunks: the role, the pieces (the last with its finish reason), usage, `[DONE]`."""
    envelope = {"id": IDS["chat"], "object": "chat.completion.chunk", "created": CREATED, "model": model}

    def chunk(
        index: int, delta: Any, reason: str | None = None, logprobs: Any = None, ids: Any = None, first: Any = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, "token_ids": ids}
        return _data(envelope | {"choices": [choice]} | ({} if first is None else {"prompt_token_ids": first}))

    tells = bool(body.get("return_token_ids"))
    paced = [
        chunk(index, {"role": "assistant", "content": ""}, first=told_ids(body, answers[index])[0])
        for index in range(len(answers))
    ]
    top = body.get("top_logprobs") or 0
    for at in range(max((len(answer.pieces) for answer in answers), default=0)):
        for index, answer in enumerate(answers):
            if at < len(answer.pieces):
                piece = answer.pieces[at]
                logprobs = chat_logprobs(model, [piece], top) if body.get("logprobs") else None
                reason = answer.finish_reason if at == len(answer.pieces) - 1 else None
                paced.append(chunk(index, {"content": piece}, reason, logprobs, tokens_of(piece) if tells else None))
    for index, answer in enumerate(answers):
        for call in tool_calls(answer):
            start = call | {"index": 0, "function": {"name": call["function"]["name"], "arguments": ""}}
            paced.append(chunk(index, {"tool_calls": [start]}))
            rest = {"index": 0, "function": {"arguments": call["function"]["arguments"]}}
            paced.append(chunk(index, {"tool_calls": [rest]}, ids=told_ids(body, answer)[1]))
            paced.append(chunk(index, {}, answer.finish_reason))
    tail = [_data(envelope | {"choices": [], "usage": usage(body, answers)})] if _wants_usage(body) else []
    return paced, [*tail, DONE]


def completion(model: str, body: Body, answers: Sequence[Answer]) -> Events:
    """Return completion chunks, usage, `[DONE]`."""
    envelope = {"id": IDS["completion"], "object": "text_completion", "created": CREATED, "model": model}
    paced = []
    for at in range(max((len(answer.pieces) for answer in answers), default=0)):
        for index, answer in enumerate(answers):
            if at < len(answer.pieces):
                piece = answer.pieces[at]
                top = body.get("logprobs")
                choice = {
                    "index": index,
                    "text": piece,
                    "logprobs": None if top is None else text_logprobs(model, [piece], top),
                    "finish_reason": answer.finish_reason if at == len(answer.pieces) - 1 else None,
                    "stop_reason": None,
                }
                if body.get("return_token_ids"):
                    choice |= {"token_ids": tokens_of(piece), "prompt_token_ids": None if at else prompt_ids(body)}
                paced.append(_data(envelope | {"choices": [choice]}))
    tail = [_data(envelope | {"choices": [], "usage": usage(body, answers)})] if _wants_usage(body) else []
    return paced, [*tail, DONE]


def responses(model: str, body: Body, answers: Sequence[Answer]) -> Events:
    """Return the Responses API's named events; it has no `[DONE]`."""
    answer = answers[0]
    item = responses_item(answer)
    nothing: dict[str, Any] = {"content": []} if answer.tool is None else {"arguments": ""}
    empty = item | nothing | {"status": "in_progress"}
    place = {"item_id": item["id"], "output_index": 0}
    begun = responses_value(model, body, None)
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": empty}),
    ]
    if answer.tool is None:
        part = item["content"][0]
        place |= {"content_index": 0}
        events.append(("response.content_part.added", place | {"part": part | {"text": ""}}))
        events += [("response.output_text.delta", place | {"delta": piece, "logprobs": []}) for piece in answer.pieces]
        events.append(("response.output_text.done", place | {"text": answer.text, "logprobs": []}))
        events.append(("response.content_part.done", place | {"part": part}))
    else:
        events.append(("response.function_call_arguments.delta", place | {"delta": item["arguments"]}))
        done = {"arguments": item["arguments"], "name": item["name"]}
        events.append(("response.function_call_arguments.done", place | done))
    events.append(("response.output_item.done", {"output_index": 0, "item": item}))
    events.append(("response.completed", {"response": responses_value(model, body, answer)}))
    paced = [_named(kind, {"sequence_number": number} | value) for number, (kind, value) in enumerate(events)]
    return paced, []


def messages(model: str, body: Body, answers: Sequence[Answer]) -> Events:
    """Return Anthropic's named events, which end with `message_stop`."""
    answer = answers[0]
    counted = usage(body, answers)
    message: dict[str, Any] = {
        "id": IDS["chat"],
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": counted["prompt_tokens"], "output_tokens": 0},
    }
    if answer.tool is None:
        block: dict[str, Any] = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in answer.pieces]
    else:
        block = {"type": "tool_use", "id": answer.tool[0], "name": answer.tool[1], "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": answer.tool[2]}]
    paced = [_named("message_start", {"message": message})]
    paced.append(_named("content_block_start", {"index": 0, "content_block": block}))
    paced += [_named("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas]
    paced.append(_named("content_block_stop", {"index": 0}))
    end = {"stop_reason": STOP_REASONS[answer.finish_reason], "stop_sequence": None}
    paced.append(_named("message_delta", {"delta": end, "usage": {"output_tokens": counted["completion_tokens"]}}))
    return paced, [_named("message_stop", {})]
