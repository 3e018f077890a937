"""When shadow requests must wait: an engine's load, and a token budget. Pure."""

from dataclasses import dataclass
from typing import Final

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
# The first name since vLLM 0.10, the second one before.
_CACHE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """An engine's load: its running and waiting requests, and the share of its KV cache in use."""

    running: float = 0.0
    waiting: float = 0.0
    kv_cache_share: float = 0.0

    def reason_to_wait(self, most_cache: float, most_running: float | None = None) -> str:
        """Return why the engine should get no shadow requests: `queue`, `kv_cache` or `running`; empty if it may get
        some.
        """
        if self.waiting > 0:
            return "queue"
        if self.kv_cache_share > most_cache:
            return "kv_cache"
        return "running" if most_running is not None and self.running > most_running else ""


def read_load(exposition: str) -> Load:
    """Return the load that a `/metrics` page reports; an engine that reports none counts as idle.

    Running and waiting requests are summed over the engine's parts; of their cache shares the largest counts.
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
    """A token budget that is refilled steadily and holds at most ten seconds' worth.

    A request's cost is known only afterwards, so one request may overdraw it; while it is empty no request starts.

    Args:
        per_second: Tokens a second; None for no bound.
    """

    def __init__(self, per_second: float | None) -> None:
        self._rate = per_second
        self._level = 10.0 * (per_second or 0.0)
        self._at: float | None = None

    def has_some(self, now: float) -> bool:
        """Whether any tokens are left at `now`, in monotonic seconds."""
        self._refill(now)
        return self._rate is None or self._level > 0

    def spend(self, tokens: float, now: float) -> None:
        """Take tokens out, even more than there are."""
        self._refill(now)
        self._level -= tokens

    def _refill(self, now: float) -> None:
        if self._rate is None:
            return
        if self._at is not None:
            self._level = min(10.0 * self._rate, self._level + self._rate * max(0.0, now - self._at))
        self._at = now
