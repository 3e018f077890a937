"""One captured request and its reply, and how they become a sample. Pure.

Workers only keep references and send them to the node as they are, to spend no time on it; the node computes the rest.
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
    """One request as it was captured; workers send it to the node in this form.

    Attributes:
        kind, control, other, served: What it is copied for; see `gateway.decide.sample.Copy`.
        alias, rollout, stage, capture, request_id, body, is_stream: As in `Sample`.
        endpoint: The path.
        caller: The owner of the key, so that equal names of two callers are two sessions.
        salt: The mirror's salt, for the session.
        named: The caller-supplied identity: the unit header, else a field of the body; empty if neither is there.
        task: The header `x-loragate-task`, if sent.
        size: Bytes of memory that it keeps in use.
        sent_at, first_at, ended_at: Monotonic seconds, which all processes of a machine share. `first_at` is 0 until
            the reply has brought content; comments and structure are not content.
        parts: The reply's bytes, in order.
        plain: Indices of the `parts` that are bytes of the body; every other part is an HTTP chunk with its framing.
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
    """A captured request that cannot be compared; `reason` is one word for the counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def sample_of(captured: CapturedRequest, sample_id: str, at: float) -> Sample:
    """Return a captured request as a sample: the reply's bytes joined, the session and task determined.

    Args:
        captured: A request that has ended well.
        sample_id: 32 hex digits.
        at: When it ended, Unix seconds.

    Raises:
        NoPair: It holds several prompts.
    """
    if captured.endpoint == b"/v1/completions" and _has_several_prompts(captured.body):
        raise NoPair("several_prompts")
    return Sample(
        id=sample_id,
        request_id=captured.request_id.decode("latin-1"),
        alias=captured.alias,
        kind=captured.kind,
        control=captured.control,
        other=captured.other,
        served=captured.served,
        rollout=captured.rollout,
        stage=captured.stage,
        capture=captured.capture,
        endpoint=captured.endpoint.decode("ascii"),
        body=captured.body,
        reply=_join_reply(captured),
        is_stream=captured.is_stream,
        session=session_of(captured),
        task=task_of(captured.task),
        at=at,
        ttft_seconds=captured.first_at - captured.sent_at if captured.is_stream and captured.first_at else None,
        duration_seconds=captured.ended_at - captured.sent_at,
    )


def _join_reply(captured: CapturedRequest) -> bytes:
    """Return the bytes of the reply's body. A chunk with framing loses its first line and its final line end."""
    parts, plain = captured.parts, captured.plain
    if len(plain) == len(parts):
        return b"".join(parts)
    bodies = [part[part.find(b"\n") + 1 : -2] for part in parts]
    for at in plain:
        bodies[at] = parts[at]
    return b"".join(bodies)


def session_of(captured: CapturedRequest) -> str:
    """Return the name of a request's session: 16 hex digits, meaningless without the mirror's salt.

    The session is determined by the caller-supplied identity, else by the beginning of the conversation. It is never
    the key, since not all of an application's traffic is one session. A request with neither is a session of its own.
    """
    dialect = ENDPOINTS[captured.endpoint].dialect
    named = (
        captured.named
        or conversation_hash(captured.body, dialect, captured.caller)
        or f"\x1f{captured.request_id.decode('latin-1')}"
    )
    identity = f"{captured.salt}\x1f{captured.caller}\x1f{named}".encode("utf-8", "surrogatepass")
    return blake2b(identity, digest_size=_SESSION_BYTES).hexdigest()


def task_of(header: bytes | None) -> str:
    """Return the task in `x-loragate-task`; empty if the header is missing or its value is not a short name."""
    return header.decode("ascii") if header and _TASK.fullmatch(header) else ""


class _Prompt(msgspec.Struct):
    prompt: Any = None


_PROMPTS: Final = msgspec.json.Decoder(_Prompt)


def _has_several_prompts(body: bytes) -> bool:
    """Whether a completion request has several prompts; a list of token ids is one prompt."""
    try:
        prompt = _PROMPTS.decode(body).prompt
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # half of a surrogate pair: the evaluator's parser reports it
    return isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(each, int) for each in prompt)
