"""Replay a caller's request on another version; errors of engines do not pass beyond this module.

An engine may be slow, hang, die, never end or send garbage. Each of these becomes an `Observation` that says how it
ended, within a bounded time and a bounded number of bytes. Seeds and sampling parameters are the caller's.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

from evaluators.normalize import NotComparable, observation_of, replay_body
from evaluators.observation import Ended, Observation
from gateway.evaluate.calls import CallFailed
from gateway.evaluate.engines import Engine
from gateway.records.sample import Sample

# Replays on these endpoints are streamed even if the caller's request was not, to measure the time to the first token.
_STREAMED: Final = ("/v1/chat/completions", "/v1/completions")
_OK: Final = 200
# More tokens than any model can process. Larger counts are not believed, since counts are summed up.
_MAX_TOKENS: Final = 100_000_000
_NAMED: Final = (400, 404, 408, 413, 422, 429, 500, 502, 503, 504)
# Failures that may be temporary: the engine was away, busy, or has just lost the version. After any other one, a
# second try would fail the same way.
_PASSING: Final = frozenset(
    (
        "unreachable",
        "broken",
        "late",
        "unfinished",
        "engine_error",
        "status_404",
        "status_408",
        "status_429",
        "status_500",
        "status_502",
        "status_503",
        "status_504",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayBounds:
    """The bounds on one replay: seconds, and bytes of the reply."""

    seconds: float = 120.0
    reply_bytes: int = 4 * 1024 * 1024


def caller_observation(sample: Sample) -> Observation:
    """Return the answer that the caller got.

    Raises:
        NotComparable: The answer cannot be parsed.
    """
    return observation_of(
        sample.endpoint,
        sample.reply,
        sample.is_stream,
        ttft_seconds=sample.ttft_seconds,
        duration_seconds=sample.duration_seconds or None,
        ended=Ended(sample.ended),
    )


async def replay(engine: Engine, sample: Sample, version: str, bounds: ReplayBounds) -> Observation:
    """Return the answer of `version`: `FAILED` if it gives none, `TRUNCATED` if one of our bounds cut it."""
    is_stream = sample.endpoint in _STREAMED or sample.is_stream
    try:
        body = replay_body(
            sample.endpoint, sample.body, model=version, priority=None, stream=is_stream, want_token_ids=True
        )
        await engine.idle()
        reply = await engine.ask(
            sample.endpoint,
            msgspec.json.decode(body, type=dict[str, msgspec.Raw]),
            seconds=bounds.seconds,
            most_bytes=bounds.reply_bytes,
            keeps_part=is_stream,
        )
        if reply.status != _OK:
            return _failure(_status(reply.status), reply.seconds)
        is_cut = reply.cut in ("bytes", "time")  # by our bounds; a reply that broke off counts as failed
        if reply.cut and not is_cut:
            return _failure("broken", reply.seconds)
        seen = observation_of(
            sample.endpoint,
            reply.body,
            is_stream,
            ttft_seconds=reply.first_seconds,
            duration_seconds=reply.seconds,
            ended=Ended.TRUNCATED if is_cut else Ended.COMPLETE,
        )
    except CallFailed as failed:
        return _failure(failed.reason)
    except NotComparable as problem:
        return _failure(problem.reason)
    if max(seen.prompt_tokens or 0, seen.completion_tokens or 0) > _MAX_TOKENS:
        return _failure("garbled", reply.seconds)
    engine.spend((seen.prompt_tokens or 0) + (seen.completion_tokens or 0))
    return seen


def is_passing(reason: str) -> bool:
    """Whether a replay that failed for this reason may succeed later."""
    return reason in _PASSING


def _failure(reason: str, seconds: float | None = None) -> Observation:
    return Observation(ended=Ended.FAILED, error=reason, duration_seconds=seconds)


def _status(status: int) -> str:
    return f"status_{status}" if status in _NAMED else f"status_{status // 100}xx"
