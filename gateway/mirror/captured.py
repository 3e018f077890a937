"""What a tap has kept of one request, and how it becomes a sample.

Pure. A worker only keeps references and hands them on as they are, since its time is its
callers'; all that has to be computed is computed in the node.
"""

import re
from hashlib import blake2b
from typing import Any, Final

import msgspec

from gateway.decide.sample import CopyKind, Served
from gateway.openai.conversation import conversation_hash
from gateway.openai.endpoints import ENDPOINTS
from gateway.records.sample import Capture, Sample

_TASK: Final = re.compile(rb"[a-z0-9_.-]{1,32}")
_SESSION_BYTES: Final = 8


class CapturedRequest(msgspec.Struct, array_like=True, gc=False):
    """One request as it was tapped; also a part of the message to the node.

    Attributes:
        kind, control, other, served: What it is copied for; see `gateway.decide.sample.Copy`.
        alias, rollout, stage, capture, request_id, body, is_stream: As in `Sample`.
        endpoint: The path.
        caller: To whom the key belongs, so that two callers' equal names are two sessions.
        salt: The mirror's, for the session.
        named: Who the request says that it is of: the unit header, or a field of the body; empty if neither.
        task: `x-loragate-task`, if sent.
        size: Bytes that it keeps alive.
        sent_at, first_at, ended_at: Monotonic seconds, which all processes of a machine share; `first_at` is 0
            until the reply has brought content: comments and structure are none.
        parts: The reply's bytes, in order.
        plain: Which of them are bytes of the body; each other one is an HTTP chunk in its framing.
    """

    kind: CopyKind
    control: str
    other: str
    served: Served
    alias: str
    rollout: str
    stage: int
    capture: Capture
    endpoint: bytes
    request_id: bytes
    caller: str
    salt: str
    named: str
    task: bytes | None
    body: bytes
    is_stream: bool
    size: int
    sent_at: float
    first_at: float = 0.0
    ended_at: float = 0.0
    parts: list[bytes] = msgspec.field(default_factory=list)
    plain: list[int] = msgspec.field(default_factory=list)


class NoPair(Exception):
    """A request that was copied and is no pair; `reason` is a word for the counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sample_of(taken: CapturedRequest, sample_id: str, at: float) -> Sample:
    """Return what was taken as a sample: its bytes joined, its session and task told.

    Args:
        taken: A request that has ended well.
        sample_id: 32 hex digits.
        at: When it ended, Unix seconds.

    Raises:
        NoPair: It holds several requests in one.
    """
    if taken.endpoint == b"/v1/completions" and _has_several_prompts(taken.body):
        raise NoPair("several_prompts")
    return Sample(
        id=sample_id,
        request_id=taken.request_id.decode("latin-1"),
        alias=taken.alias,
        kind=taken.kind,
        control=taken.control,
        other=taken.other,
        served=taken.served,
        rollout=taken.rollout,
        stage=taken.stage,
        capture=taken.capture,
        endpoint=taken.endpoint.decode("ascii"),
        body=taken.body,
        reply=_joined(taken),
        is_stream=taken.is_stream,
        session=session_of(taken),
        task=task_of(taken.task),
        at=at,
        ttft_seconds=taken.first_at - taken.sent_at if taken.is_stream and taken.first_at else None,
        duration_seconds=taken.ended_at - taken.sent_at,
    )


def _joined(taken: CapturedRequest) -> bytes:
    """Return the reply's bytes; a chunk in its framing begins with a line of its own and ends with a line's end."""
    parts, plain = taken.parts, taken.plain
    if len(plain) == len(parts):
        return b"".join(parts)
    bodies = [part[part.find(b"\n") + 1 : -2] for part in parts]
    for at in plain:
        bodies[at] = parts[at]
    return b"".join(bodies)


def session_of(taken: CapturedRequest) -> str:
    """Return what a request's session is called: 16 hex digits that tell nothing without the mirror's salt.

    By whom it names, else by how its conversation begins. Never by the key: an application's whole
    traffic is not one session. A request that tells neither is a session of its own.
    """
    dialect = ENDPOINTS[taken.endpoint].dialect
    named = (
        taken.named
        or conversation_hash(taken.body, dialect, taken.caller)
        or f"\x1f{taken.request_id.decode('latin-1')}"
    )
    told = f"{taken.salt}\x1f{taken.caller}\x1f{named}".encode("utf-8", "surrogatepass")
    return blake2b(told, digest_size=_SESSION_BYTES).hexdigest()


def task_of(header: bytes | None) -> str:
    """Return the task that `x-loragate-task` names; empty without one, or with one that is no short name."""
    return header.decode("ascii") if header and _TASK.fullmatch(header) else ""


class _Prompt(msgspec.Struct):
    prompt: Any = None


_PROMPTS: Final = msgspec.json.Decoder(_Prompt)


def _has_several_prompts(body: bytes) -> bool:
    """Whether a completion asks for several prompts at once; token ids are one prompt."""
    try:
        prompt = _PROMPTS.decode(body).prompt
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # half of a surrogate pair: told by whoever reads it to compare
    return isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(each, int) for each in prompt)
