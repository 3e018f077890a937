"""Bodies of replies that are not streamed, in vLLM 0.32's shapes. Pure; constant ids and times."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tests.fakes.generate import Answer, byte_logprobs, logprob, prompt_text, text_of, tokens_of, vector

Body = Mapping[str, Any]
Top = Sequence[tuple[int, float]]
CREATED = 1_767_225_600  # 2026-01-01
FINGERPRINT = "vllm-0.32.0-fake0000"
IDS = {"chat": "chatcmpl-fa4e0000fa4e0000fa4e0000fa4e0000", "completion": "cmpl-fa4e0000fa4e0000fa4e0000fa4e0000"}
MAX_MODEL_LEN = 2048
EMBEDDING_SIZE = 8

encode = msgspec.json.encode


def error(status: int, message: str, kind: str | None = None, param: str | None = None) -> bytes:
    """Return vLLM's error body; `kind` defaults to what vLLM calls that status."""
    default = {400: "BadRequestError", 404: "NotFoundError", 429: "TooManyRequests", 503: "ServiceUnavailableError"}
    kind = kind or default.get(status, "InternalServerError")
    return encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def unknown_model(model: object) -> bytes:
    """Return the 404 of a model that is neither the base nor a loaded adapter."""
    return error(404, f"The model `{model}` does not exist.", param="model")


def models(base: str, adapters: Mapping[str, str], names: Sequence[str] = (), root: str = "") -> bytes:
    """Return `GET /v1/models`: the base under each of its names, then the adapters with their folder and parent."""
    own = [_card(name, root or base, None) for name in (base, *names)]
    return encode({"object": "list", "data": own + [_card(n, p, base) for n, p in adapters.items()]})


def _card(name: str, root: str, parent: str | None) -> dict[str, Any]:
    permission = {
        "id": "modelperm-fa4e0000fa4e0000",
        "object": "model_permission",
        "created": CREATED,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "vllm",
        "root": root,
        "parent": parent,
        "max_model_len": MAX_MODEL_LEN if parent is None else None,
        "permission": [permission],
    }


# What a chat template puts into the prompt beside the messages.
READ_BESIDE = ("system", "instructions", "tools", "documents")


def usage(body: Body, answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the token counts; the prompt counts its bytes ÷ 4, the answer its pieces; asked for ids, all bytes."""
    beside = sum(len(encode(body[name])) for name in READ_BESIDE if body.get(name))
    prompt = max(1, (len(prompt_text(body).encode()) + beside) // 4)
    completion = sum(len(answer.pieces) or 1 for answer in answers)
    if body.get("return_token_ids"):
        prompt = len(prompt_ids(body))
        completion = sum(len(told_ids(body, answer)[1] or ()) for answer in answers)
    total = prompt + completion
    return {
        "prompt_tokens": prompt,
        "total_tokens": total,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
    }


def chat_logprobs(model: str, pieces: Sequence[str], top: int) -> dict[str, Any]:
    """Return chat's `logprobs` for `pieces`, each with `top` alternatives."""
    return {
        "content": [
            _chat_logprob(model, piece) | {"top_logprobs": _alternatives(model, piece, top)} for piece in pieces
        ]
    }


def _alternatives(model: str, piece: str, top: int) -> list[dict[str, Any]]:
    return [_chat_logprob(model, piece + "~" * rank) for rank in range(top)]


def _chat_logprob(model: str, token: str) -> dict[str, Any]:
    return {"token": token, "logprob": logprob(model, token), "bytes": list(token.encode())}


def text_logprobs(model: str, pieces: Sequence[str], top: int, start: int = 0) -> dict[str, Any]:
    """Return completions' `logprobs`; `start` is the offset of the first piece in the text."""
    offsets, at = [], start
    for piece in pieces:
        offsets.append(at)
        at += len(piece)
    return {
        "text_offset": offsets,
        "token_logprobs": [logprob(model, piece) for piece in pieces],
        "tokens": list(pieces),
        "top_logprobs": [
            {piece + "~" * rank: logprob(model, piece + "~" * rank) for rank in range(top)} for piece in pieces
        ],
    }


def prompt_logprobs(model: str, body: Body) -> list[Any] | None:
    """Return the log-probabilities of each prompt token and of the likeliest ones (of the first, none), if asked."""
    asked = body.get("prompt_logprobs")
    if asked is None:
        return None
    told = byte_logprobs(model)
    ranked = sorted(range(len(told)), key=lambda token: -told[token])
    entries = {
        token: {"logprob": told[token], "rank": at + 1, "decoded_token": chr(token)} for at, token in enumerate(ranked)
    }
    scored = [{str(each): entries[each] for each in {*ranked[:asked], token}} for token in prompt_ids(body)]
    return [None, *scored[1:]]


def prompt_ids(body: Body) -> list[int]:
    """Return the prompt's token ids, which may be what the request gives."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return [token & 0xFF for token in prompt]
    return tokens_of(prompt_text(body))


def told_ids(body: Body, answer: Answer) -> tuple[list[int], list[int]] | tuple[None, None]:
    """Return the ids of the prompt and of an answer, if the request asks for them."""
    if not body.get("return_token_ids"):
        return None, None
    return prompt_ids(body), tokens_of(answer.tool[2] if answer.tool else answer.text)


def tool_calls(answer: Answer) -> list[dict[str, Any]]:
    """Return the message's `tool_calls`; empty when the answer is text."""
    if answer.tool is None:
        return []
    ident, name, arguments = answer.tool
    return [{"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}]


def chat(model: str, body: Body, answers: Sequence[Answer]) -> bytes:
    """Return `chat.completion`."""
    choices = []
    for index, answer in enumerate(answers):
        calls = tool_calls(answer)
        message = {
            "role": "assistant",
            "content": None if calls else answer.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
            **({"tool_calls": calls} if calls else {}),
        }
        logprobs = chat_logprobs(model, answer.pieces, body.get("top_logprobs") or 0) if body.get("logprobs") else None
        choices.append(
            {
                "index": index,
                "message": message,
                "logprobs": logprobs,
                "finish_reason": answer.finish_reason,
                "stop_reason": None,
                "token_ids": told_ids(body, answer)[1],
            }
        )
    return encode(
        {
            "id": IDS["chat"],
            "object": "chat.completion",
            "created": CREATED,
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(body, answers),
            "prompt_logprobs": prompt_logprobs(model, body),
            "prompt_token_ids": told_ids(body, answers[0])[0],
            "kv_transfer_params": None,
        }
    )


def completion(model: str, body: Body, answers: Sequence[Answer]) -> bytes:
    """Return `text_completion`; with `echo` the prompt's tokens come first, as in scoring."""
    choices = []
    echoed = [text_of([token]) for token in tokens_of(prompt_text(body))] if body.get("echo") else []
    for index, answer in enumerate(answers):
        pieces = [*echoed, *(() if body.get("max_tokens") == 0 else answer.pieces)]
        logprobs = None
        if body.get("logprobs") is not None:
            logprobs = text_logprobs(model, pieces, body["logprobs"])
            if echoed:  # the first prompt token has no predecessor
                logprobs["token_logprobs"][0] = logprobs["top_logprobs"][0] = None
        choices.append(
            {
                "index": index,
                "text": "".join(pieces),
                "logprobs": logprobs,
                "finish_reason": answer.finish_reason,
                "stop_reason": None,
                "token_ids": told_ids(body, answer)[1],
                "prompt_token_ids": told_ids(body, answer)[0],
                "prompt_logprobs": prompt_logprobs(model, body),
            }
        )
    return encode(
        {
            "id": IDS["completion"],
            "object": "text_completion",
            "created": CREATED,
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": usage(body, answers),
            "kv_transfer_params": None,
        }
    )


def next_tokens(tops: Sequence[Top], fingerprint: str, model: str, body: Body) -> bytes:
    """Return `text_completion` for prompts of which one token and its alternatives are asked, by token ids."""
    choices = []
    for index, top in enumerate(tops):
        named = {f"token_id:{token}": each for token, each in top}
        first = next(iter(named))
        logprobs = {"text_offset": [0], "token_logprobs": [named[first]], "tokens": [first], "top_logprobs": [named]}
        choices.append(
            {
                "index": index,
                "text": first,
                "logprobs": logprobs,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": None,
                "prompt_token_ids": None,
                "prompt_logprobs": None,
            }
        )
    return encode(
        {
            "id": IDS["completion"],
            "object": "text_completion",
            "created": CREATED,
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": fingerprint,
            "usage": usage(body, ()),
            "kv_transfer_params": None,
        }
    )


def responses_value(model: str, body: Body, answer: Answer | None) -> dict[str, Any]:
    """Return a Responses object: finished with `answer`, or in progress when there is none."""
    counts = None
    if answer is not None:
        counted = usage(body, [answer])
        counts = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted["total_tokens"],
        }
    return {
        "id": "resp_fa4e0000fa4e0000",
        "created_at": CREATED,
        "object": "response",
        "model": model,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "output": [] if answer is None else [responses_item(answer)],
        "parallel_tool_calls": True,
        "temperature": body.get("temperature", 1.0),
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_p": body.get("top_p", 1.0),
        "usage": counts,
        "status": "in_progress" if answer is None else "completed",
    }


def responses_item(answer: Answer) -> dict[str, Any]:
    """Return the one output item: a message, or a function call."""
    if answer.tool is not None:
        ident, name, arguments = answer.tool
        call = {"id": f"fc_{ident[5:]}", "call_id": ident, "type": "function_call", "name": name}
        return call | {"arguments": arguments, "status": "completed"}
    part: dict[str, Any] = {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": None}
    return {
        "id": "msg_fa4e0000fa4e0000",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }


def responses(model: str, body: Body, answers: Sequence[Answer]) -> bytes:
    """Return a finished `response`; there is one choice only."""
    return encode(responses_value(model, body, answers[0]))


def messages(model: str, body: Body, answers: Sequence[Answer]) -> bytes:
    """Return Anthropic's `message`."""
    answer = answers[0]
    counted = usage(body, answers)
    if answer.tool is None:
        content: dict[str, Any] = {"type": "text", "text": answer.text}
    else:
        ident, name, arguments = answer.tool
        content = {"type": "tool_use", "id": ident, "name": name, "input": msgspec.Raw(arguments.encode())}
    return encode(
        {
            "id": IDS["chat"],
            "type": "message",
            "role": "assistant",
            "content": [content],
            "model": model,
            "stop_reason": STOP_REASONS[answer.finish_reason],
            "stop_sequence": None,
            "usage": {"input_tokens": counted["prompt_tokens"], "output_tokens": counted["completion_tokens"]},
        }
    )


STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def embeddings(model: str, body: Body, _answers: Sequence[Answer]) -> bytes:
    """Return a vector for each input, as floats or (`encoding_format`) packed in base64."""
    asked = body.get("input") or ""
    inputs = asked if isinstance(asked, list) and asked and not isinstance(asked[0], int) else [asked]
    rows = []
    for index, item in enumerate(inputs):
        text = item if isinstance(item, str) else text_of(item)
        values: list[float] | str = vector(model, text, body.get("dimensions") or EMBEDDING_SIZE)
        if body.get("encoding_format") == "base64":
            values = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        rows.append({"index": index, "object": "embedding", "embedding": values})
    counted = usage(body, ())["prompt_tokens"]
    counts = {"prompt_tokens": counted, "total_tokens": counted, "completion_tokens": 0, "prompt_tokens_details": None}
    return encode(
        {"id": "embd-fa4e0000", "object": "list", "created": CREATED, "model": model, "data": rows, "usage": counts}
    )


def tokenize(_model: str, body: Body, _answers: Sequence[Answer]) -> bytes:
    """Return the tokens of a prompt or of messages."""
    tokens = tokens_of(prompt_text(body))
    strings = [text_of([token]) for token in tokens] if body.get("return_token_strs") else None
    return encode({"count": len(tokens), "max_model_len": MAX_MODEL_LEN, "tokens": tokens, "token_strs": strings})


def count_tokens(_model: str, body: Body, _answers: Sequence[Answer]) -> bytes:
    """Return Anthropic's count of the tokens of messages."""
    return encode({"input_tokens": len(tokens_of(prompt_text(body))), "context_management": None})


def detokenize(_model: str, body: Body, _answers: Sequence[Answer]) -> bytes:
    """Return the text of token ids from `tokenize`."""
    return encode({"prompt": text_of(body.get("tokens", []))})
