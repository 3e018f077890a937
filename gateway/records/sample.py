"""Samples: copies of requests and replies for evaluators.

Pure. A `Sample` holds words of callers, so its content is never logged, shown or used in metrics; its route's
`capture`, `retention` and `redact` decide how long and in which form it is kept.
"""

from typing import Literal

import msgspec

Capture = Literal["full", "metrics_only"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One copied request and the reply that its caller got.

    Attributes:
        id: 32 hex digits, made by the gateway.
        request_id: The id in `x-request-id`, chosen by the caller or the gateway.
        alias: The model name in the request.
        kind: The kind of comparison, by the names of `evaluators.observation.Kind`.
        control, other: The two versions; of a pair of kind `noise` twice the one that served.
        served: Which of the two the caller got. The evaluator asks the other one.
        rollout, stage: The rollout and stage for which the sample counts; empty and 0 outside of a rollout.
        capture: Whether the sample's texts may be stored.
        endpoint: The path, such as `/v1/chat/completions`.
        body: The request's body as the client sent it.
        reply: The reply's body as the engine sent it: JSON, or server-sent events.
        is_stream: Whether the reply is server-sent events.
        status, ended: Always 200 and `complete`: other replies are never copied.
        session: A hash of the conversation or user, 16 hex digits; see `session_of` in `mirror/captured.py`.
        task: The caller's name for the kind of request; empty if none was given.
        at: When the reply was complete, Unix seconds.
        ttft_seconds: From sending to the first content; None unless it is a stream that has some.
        duration_seconds: From sending to the end.
        redacted: Whether texts were redacted; then both versions are asked with `body`, and `reply` is empty.
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
        """Bytes of the sample's texts, which is nearly all of its size."""
        return len(self.body) + len(self.reply)
