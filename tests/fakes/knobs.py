"""What a fake engine can be told to do, for a whole process or for one request.

One request sets knobs with a body field, `{"fake": {"events": 50, "cut_after": 3}}`, or with the
same JSON in a header `x-fake`; a real engine ignores both. Unknown knobs are refused, so that a
test with a typo fails instead of testing nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

HEADER = b"x-fake"
FIELD = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """How one generation request is answered; the defaults answer at once and well."""

    events: int | None = None
    """Content events (tokens) of each choice; None: 16, or `max_tokens` if that is less."""
    ttft_ms: float = 0.0
    """From the headers to the first event; not streamed: part of the wait before the reply."""
    cadence_ms: float = 0.0
    """Between two events of one stream; 0 sends them as fast as the reader takes them."""
    header_delay_ms: float = 0.0
    """Before the status line, streamed or not."""
    reply_bytes: int = 0
    """Pads the text until a reply that is not streamed has about this many bytes."""
    event_bytes: int = 0
    """Pads each content event to about this many bytes."""
    status: int = 200
    """Any other status answers with an error body of vLLM's shape."""
    retry_after: int | None = None
    """Seconds, sent as `retry-after` with an error status."""
    cut_after: int | None = None
    """Drop the connection after so many events (not streamed: after half of the body)."""
    cut: str = "close"
    """How: `close` (FIN, the stream's end is missing) or `reset` (RST)."""
    error_after: int | None = None
    """After so many events an in-band error event, then `[DONE]`: a generation that failed."""
    drop: bool = False
    """Close the connection instead of an answer."""
    slow_share: float = 0.0
    """Of the requests, scattered over them, that wait `slow_ms` more before the status line."""
    slow_ms: float = 0.0
    hang: bool = False
    """Never answer."""
    held: bool = False
    """Do not answer before `FakeEngine.release()`."""
    held_loads: bool = False
    """Do not load an adapter before `FakeEngine.release()`."""
    hang_after: int | None = None
    """Send so many events and then nothing more, connection open."""
    malformed: bool = False
    """The second event is broken JSON and the third has no field name (not streamed: broken JSON)."""
    system_fingerprint: str = "vllm-0.32.0-fake0000"
    """The engine's name for its configuration, in its answers to probes (completions with token ids)."""
    jitter: float = 0.0
    """Nats by which log-probabilities of such answers vary, up or down."""
    shift: float = 0.0
    """Nats by which all of them are off, as another dtype's are."""
    failing: str = ""
    """Requests of this version are answered with 500; probes are not."""
    swapped: str = ""
    """The versions of this alias answer them with other weights than their folders hold."""
    other_base: str = ""
    """The base and its adapters answer them as if the base had this name."""
    mixes_adapters: bool = False
    """Stock vLLM's fault on CPUs: while an adapter generates, the base answers with the last adapter's weights."""
    load_seconds: float = 0.0
    """That loading an adapter takes; it is listed when it is loaded."""
    waiting: int = 0
    """Requests that its metrics say wait."""
    server_load: int = 0
    """Requests that `/load` says run, beside those that do."""
    kv_usage: float = 0.0
    """Share of its KV cache that its metrics say is full."""
    no_priorities: bool = False
    """Refuse a request with a priority, as vLLM does unless it was started with `--scheduling-policy priority`."""
    max_logprobs: int = 20
    """More prompt log-probabilities are refused, as by vLLM beyond its `--max-logprobs`."""
    no_ids: bool = False
    """Tell no token ids, as engines other than vLLM."""
    lossy: bool = False
    """`/detokenize` gives another text than was tokenised, as some tokenisers do."""
    close_after_reply: bool = False
    """Close a kept-alive connection after a complete reply, without having announced it."""

    def with_(self, changes: Mapping[str, Any]) -> Self:
        """Return these knobs with `changes`; `tokens_per_second` is another way to set the cadence.

        Raises:
            ValueError: A name is unknown, or a value is not of its kind.
        """
        values = dict(changes)
        rate = values.pop("tokens_per_second", None)
        if rate:
            values["cadence_ms"] = 1000.0 / rate
        unknown = sorted(values.keys() - NAMES)
        if unknown:
            raise ValueError(f"unknown knob `{unknown[0]}`; there are: {', '.join(sorted(NAMES))}")
        if values.get("cut", "close") not in ("close", "reset"):
            raise ValueError(f"knob `cut` is `{values['cut']}`, expected `close` or `reset`")
        return replace(self, **values)


NAMES = frozenset(field.name for field in fields(Knobs))
