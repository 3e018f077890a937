"""When shadow requests have to wait: what an engine says of its load, and what they have cost it. Pure."""

from dataclasses import dataclass
from typing import Final

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
# Since vLLM 0.10; before, `gpu_cache_usage_perc`.
_CACHE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy an engine is: requests that run and wait in it, and the share of its KV cache that is full."""

    running: float = 0.0
    waiting: float = 0.0
    kv_cache_share: float = 0.0

    def reason_to_wait(self, most_cache: float, most_running: float | None = None) -> str:
        """Return why it should get no shadow requests: `queue`, `kv_cache` or `running`; empty if it may get them."""
        if self.waiting > 0:
            return "queue"
        if self.kv_cache_share > most_cache:
            return "kv_cache"
        return "running" if most_running is not None and self.running > most_running else ""


def read_load(exposition: str) -> Load:
    """Return what a `/metrics` page tells; an engine that does not tell is not busy.

    Requests that run and wait are those of all its parts, the fullest cache counts.
    """
    running = waiting = cache = 0.0
    for line in exposition.splitlines():
        if not line.startswith("vllm:"):
            continue
        series, _, rest = line.partition("}") if "{" in line else line.partition(" ")
        name = series.partition("{")[0]
        if name not in (_RUNNING, _WAITING, *_CACHE):
            continue
        try:
            value = float(rest.split()[0])
        except (ValueError, IndexError):
            continue
        if name == _WAITING:
            waiting += max(0.0, value)
        elif name == _RUNNING:
            running += max(0.0, value)
        else:
            cache = max(cache, value)
    return Load(running=running, waiting=waiting, kv_cache_share=cache)


class TokenBucket:
    """Tokens that may be spent: refilled steadily, never holding more than ten seconds' worth.

    What a request costs is known only afterwards, so it may overdraw once; nobody starts while it is empty.

    Args:
        per_second: None for no bound.
    """

    def __init__(self, per_second: float | None) -> None:
        self._rate = per_second
        self._level = 10.0 * (per_second or 0.0)
        self._at: float | None = None

    def has_some(self, now: float) -> bool:
        """Whether anything is left, at `now` in monotonic seconds."""
        self._refill(now)
        return self._rate is None or self._level > 0

    def spend(self, tokens: float, now: float) -> None:
        """Take tokens out, also more than there are."""
        self._refill(now)
        self._level -= tokens

    def _refill(self, now: float) -> None:
        if self._rate is None:
            return
        if self._at is not None:
            self._level = min(10.0 * self._rate, self._level + self._rate * max(0.0, now - self._at))
        self._at = now
