"""From a request's path and body to the bytes that will be written, and when. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from tests.fakes import replies, streams
from tests.fakes.generate import Answer, answer
from tests.fakes.knobs import Knobs

Body = Mapping[str, Any]
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
END = b"0\r\n\r\n"
_FIXED = b"date: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"


@dataclass(frozen=True, slots=True)
class Route:
    """How one path answers; without `stream` the reply is always whole."""

    reply: Callable[[str, Body, Sequence[Answer]], bytes]
    stream: Callable[[str, Body, Sequence[Answer]], streams.Events] | None = None
    needs: str | None = None
    """A body field without which the request is refused."""


GENERATION: Mapping[str, Route] = {
    "/v1/chat/completions": Route(replies.chat, streams.chat, "messages"),
    "/v1/completions": Route(replies.completion, streams.completion, "prompt"),
    "/v1/responses": Route(replies.responses, streams.responses, "input"),
    "/v1/messages": Route(replies.messages, streams.messages, "messages"),
    "/v1/messages/count_tokens": Route(replies.count_tokens, None, "messages"),
    "/v1/embeddings": Route(replies.embeddings, None, "input"),
    "/tokenize": Route(replies.tokenize),
    "/detokenize": Route(replies.detokenize, None, "tokens"),
    # vLLM serves this SageMaker path without a key; a gateway must not let it be reached.
    "/invocations": Route(replies.chat, streams.chat, "messages"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One answer: `head` and `body`, or (streamed) `head` and `chunks` of which `paced` are paced."""

    model: str | None
    knobs: Knobs
    head: bytes
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    paced: int = 0
    wait_seconds: float = 0.0
    """Before the head, from `header_delay_ms` and, not streamed, the time it takes to generate."""

    @property
    def whole(self) -> bytes:
        """Head and body, to be sent in one write."""
        return self.head + self.body


def head(status: int, kind: bytes, length: int | None, extra: bytes = b"") -> bytes:
    """Return a response head; `length` None means a chunked body."""
    framing = b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
    phrase = HTTPStatus(status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\n%bcontent-type: %b\r\n%b%b\r\n" % (status, phrase, _FIXED, kind, framing, extra)


def whole(
    status: int, body: bytes, *, knobs: Knobs | None = None, kind: bytes = JSON, model: str | None = None
) -> Plan:
    """Return the plan of a reply that is not streamed and is due at once."""
    knobs = knobs or Knobs()
    extra = b"" if knobs.retry_after is None or status < 400 else b"retry-after: %d\r\n" % knobs.retry_after
    wait = knobs.header_delay_ms / 1000.0
    return Plan(model=model, knobs=knobs, head=head(status, kind, len(body), extra), body=body, wait_seconds=wait)


def generation(route: Route, model: str, body: Body, knobs: Knobs) -> Plan:
    """Return how `body` is answered by `model`, which is known to be served."""
    if knobs.status >= 400:
        failed = replies.error(knobs.status, f"The fake engine was told to fail with {knobs.status}.")
        return whole(knobs.status, failed, knobs=knobs)
    if route.needs is not None and route.needs not in body:
        message = f"[{{'type': 'missing', 'loc': ('body', '{route.needs}'), 'msg': 'Field required'}}]"
        return whole(400, replies.error(400, message, "Bad Request", route.needs), knobs=knobs)
    if (body.get("prompt_logprobs") or 0) > knobs.max_logprobs:
        told = f"Requested prompt logprobs of {body['prompt_logprobs']}, which is greater than max allowed: "
        refused = replies.error(400, f"{told}{knobs.max_logprobs}", "BadRequestError", "prompt_logprobs")
        return whole(400, refused, knobs=knobs)
    choices = (body.get("n") or 1) * len(prompts_of(body))
    answers = [answer(model, body, index, knobs.events) for index in range(choices)]
    if body.get("stream") and route.stream is not None:
        return _streamed(route.stream, model, body, answers, knobs)
    content = route.reply(model, body, answers)
    if len(content) < knobs.reply_bytes and answers[0].tool is None:
        pad = "x" * (knobs.reply_bytes - len(content))
        content = route.reply(model, body, [replace(answers[0], pieces=(*answers[0].pieces, pad)), *answers[1:]])
    if knobs.malformed:
        content = content[: len(content) // 2]
    plan = whole(200, content, knobs=knobs, model=model)
    generating = knobs.ttft_ms + knobs.cadence_ms * max((len(one.pieces) for one in answers), default=0)
    return replace(plan, wait_seconds=plan.wait_seconds + generating / 1000.0)


def prompts_of(body: Body) -> list[Any]:
    """Return the prompts of a completion request, of which a list gives one choice each."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return prompt
    return [prompt]


def _streamed(
    events_of: Callable[[str, Body, Sequence[Answer]], streams.Events],
    model: str,
    body: Body,
    answers: Sequence[Answer],
    knobs: Knobs,
) -> Plan:
    paced, tail = events_of(model, body, answers)
    if knobs.event_bytes and answers[0].pieces:
        short = knobs.event_bytes - len(paced[min(2, len(paced) - 1)])
        padded = [replace(one, pieces=tuple(piece + "x" * max(0, short) for piece in one.pieces)) for one in answers]
        paced, tail = events_of(model, body, padded)
    if knobs.malformed:
        paced[1:3] = [b'data: {"id": "chatcmpl-broken", "choices": [{"ind\n\n', b"no field name here\n\n"]
    if knobs.error_after is not None:
        failed = b"data: " + replies.error(500, "The fake engine was told to fail mid-stream.") + b"\n\n"
        paced, tail = [*paced[: knobs.error_after], failed], [streams.DONE]
    chunks = tuple(b"%x\r\n%b\r\n" % (len(event), event) for event in (*paced, *tail))
    wait = knobs.header_delay_ms / 1000.0
    return Plan(model=model, knobs=knobs, head=head(200, SSE, None), chunks=chunks, paced=len(paced), wait_seconds=wait)
