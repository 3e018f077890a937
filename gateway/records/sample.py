"""A copied request as it is stored and claimed.

Pure. A `Sample` holds words of callers, so it is never logged, counted by its content, or
shown; what becomes of it is decided by its route's `capture`, `retention` and `redact`.
"""

from typing import Literal

import msgspec

Capture = Literal["full", "metrics_only"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One copied request and the reply that its caller got.

    Attributes:
        id: 32 hex digits, ours.
        request_id: The caller's or ours, as in `x-request-id`.
        alias: The name that was asked for.
        kind: Whom the pair compares, by the names of `evaluators.observation.Kind`.
        control, other: The two versions; of a pair of kind `noise` twice the one that served.
        served: Which of the two the caller got. The evaluator asks the other one.
        rollout, stage: To which stage of which rollout it counts; empty and 0 outside of one.
        capture: What may be kept of its words.
        endpoint: The path, such as `/v1/chat/completions`.
        body: The request's body as the client sent it.
        reply: The reply's body as the engine sent it: JSON, or server-sent events.
        is_stream: Whether the reply is server-sent events.
        status, ended: 200 and `complete`: all others are skipped where they are tapped.
        session: Of the conversation or user that it belongs to, 16 hex digits; see `taken.session_of`.
        task: The caller's name for the kind of request; empty if none was given.
        at: When the reply was complete, Unix seconds.
        ttft_seconds: From sending to the first content; None unless it is a stream that has some.
        duration_seconds: From sending to the end.
        redacted: Texts were changed: both versions are asked with `body`, and `reply` is empty.
    """

    id: str
    request_id: str
    alias: str
    kind: str
    control: str
    other: str
    served: Literal["control", "candidate"]
    rollout: str = ""
    stage: int = 0
    capture: Capture
    endpoint: str
    body: bytes
    reply: bytes
    is_stream: bool = False
    status: int = 200
    ended: str = "complete"
    session: str = ""
    task: str = ""
    at: float = 0.0
    ttft_seconds: float | None = None
    duration_seconds: float = 0.0
    redacted: bool = False

    @property
    def replayed(self) -> str:
        """The version that the evaluator has to ask: the one that the caller did not get."""
        return self.control if self.served == "candidate" else self.other

    @property
    def size(self) -> int:
        """Bytes that it takes, nearly: its texts."""
        return len(self.body) + len(self.reply)
