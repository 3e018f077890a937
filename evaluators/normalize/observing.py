"""Convert one arm's reply to an `Observation`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from evaluators.normalize import chat, messages, responses
from evaluators.normalize.answer import ParsedAnswer
from evaluators.normalize.reading import NotComparable, events_of, object_of
from evaluators.observation import Ended, Observation

_WHOLE: Final[Mapping[str, Callable[[Mapping[str, Any], ParsedAnswer], None]]] = {
    "/v1/chat/completions": chat.read_whole,
    "/v1/completions": chat.read_whole,
    "/v1/responses": responses.read_whole,
    "/v1/messages": messages.read_whole,
}
_STREAM: Final[Mapping[str, Callable[[Iterable[Mapping[str, Any]], ParsedAnswer], None]]] = {
    "/v1/chat/completions": chat.read_stream,
    "/v1/completions": chat.read_stream,
    "/v1/responses": responses.read_stream,
    "/v1/messages": messages.read_stream,
}
FAILED: Final = "failed"


def observation_of(
    endpoint: str,
    reply: bytes,
    is_stream: bool,
    *,
    ttft_seconds: float | None = None,
    duration_seconds: float | None = None,
    ended: Ended = Ended.COMPLETE,
) -> Observation:
    """Parse a reply into an observation.

    Args:
        endpoint: The path, such as `/v1/chat/completions`.
        reply: The body as the engine sent it: a JSON object, or a stream of events.
        is_stream: Whether `reply` is a stream of events.
        ttft_seconds: Time to the first token, if the reply was streamed.
        duration_seconds: Time from sending the request to the end of the reply.
        ended: How the reply ended, as far as known. A reply that was cut off or failed is read as far as it goes.

    Raises:
        NotComparable: `unknown_endpoint`; `not_json`; `no_choices`; `engine_error`: the engine reported an error
            instead of an answer or in the middle of it; `unfinished`: a stream that should be complete has no end;
            `truncated`: the reply was cut off, and an incomplete JSON object cannot be read.
    """
    if endpoint not in _WHOLE:
        raise NotComparable("unknown_endpoint")
    answer = ParsedAnswer()
    try:
        _read(endpoint, reply, answer, is_stream=is_stream, ended=ended)
    except (NotComparable, RecursionError) as problem:
        if ended is not Ended.FAILED:
            raise (problem if isinstance(problem, NotComparable) else NotComparable("not_json")) from None
    completion_tokens, token_ids = _count_generated(answer)
    return Observation(
        ended=ended,
        error=FAILED if ended is Ended.FAILED else "",
        text="".join(answer.texts),
        tool_calls=answer.tool_calls,
        finish_reason=answer.finish_reason,
        prompt_tokens=len(answer.prompt_ids or ()) or None if answer.prompt_tokens is None else answer.prompt_tokens,
        completion_tokens=completion_tokens,
        prompt_ids=answer.prompt_ids,
        token_ids=token_ids,
        ttft_seconds=ttft_seconds if is_stream else None,
        itl_seconds=_itl_seconds(ttft_seconds, duration_seconds, completion_tokens) if is_stream else None,
        duration_seconds=duration_seconds,
    )


def _read(endpoint: str, reply: bytes, answer: ParsedAnswer, *, is_stream: bool, ended: Ended) -> None:
    if not is_stream:
        _WHOLE[endpoint](object_of(reply, "truncated" if ended is Ended.TRUNCATED else "not_json"), answer)
        return
    _STREAM[endpoint](events_of(reply), answer)
    if not answer.choices:
        raise NotComparable("no_choices")
    if ended is Ended.COMPLETE and answer.finish_reason is None:
        raise NotComparable("unfinished")


def _count_generated(answer: ParsedAnswer) -> tuple[int | None, tuple[int, ...] | None]:
    """Return the first choice's number of tokens and their ids; the engine's count is of all choices together."""
    ids = None if answer.token_ids is None else tuple(answer.token_ids)
    counted = answer.completion_tokens if answer.choices <= 1 else None
    return (len(ids) if counted is None and ids is not None else counted), ids


def _itl_seconds(ttft: float | None, duration: float | None, tokens: int | None) -> float | None:
    if ttft is None or duration is None or tokens is None or tokens < 2 or duration < ttft:
        return None
    return (duration - ttft) / (tokens - 1)
