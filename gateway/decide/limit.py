"""Rate limits as token buckets. They read no clock: callers pass the time in.

A bucket holds one minute's worth and refills evenly, so a caller who has been quiet may send a minute's requests at
once, and within any `t` seconds at most `limit * (1 + t / 60)`. Requests are charged on admission. How many tokens a
request costs is not known then: it is admitted while the bucket holds anything, and the reply's usage is taken out
afterwards. That may put the bucket into debt, which the refill pays back first.

Each worker has buckets of its own, and workers report to each other what they have admitted; taking out what others
report may lead to debt, too. So they agree in the long run, and until a report arrives they differ by what it reports.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from gateway.errors import Overloaded, RateLimited

MINUTE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The rate limits of a key or an alias; None where there is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None


def rates_of(
    requests_per_minute: int | None, tokens_per_minute: int | None, max_in_flight: int | None = None
) -> Rates | None:
    """Return the limits as `Rates`; None if there are none."""
    if requests_per_minute is None and tokens_per_minute is None and max_in_flight is None:
        return None
    return Rates(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, max_in_flight=max_in_flight
    )


class Bucket:
    """A token bucket: what is left of one limit. It begins full.

    Args:
        limit: How much a minute allows, over all replicas.
        replicas: How many gateways share the limit evenly.
        now: Monotonic seconds.
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_second", "limit")

    def __init__(self, limit: int, replicas: int, now: float) -> None:
        self.limit = limit
        self._per_second = limit / replicas / MINUTE_SECONDS
        self._capacity = max(1.0, limit / replicas)  # with less than 1 nothing would ever be admitted
        self._level = self._capacity
        self._at = now

    def level(self, now: float) -> float:
        """Return how much the bucket holds; negative means debt."""
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._per_second)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take `amount` out; the bucket may go into debt."""
        self._level = self.level(now) - amount

    def seconds_until(self, level: float, now: float) -> float:
        """Return how many seconds it takes to refill to `level`; 0 if the bucket holds that much."""
        return max(0.0, (min(level, self._capacity) - self.level(now)) / self._per_second)

    def resize(self, limit: int, replicas: int, now: float) -> "Bucket":
        """Return a bucket with another limit, filled in the same proportion; a debt is kept as it is."""
        other = Bucket(limit, replicas, now)
        level = self.level(now)
        other._level = level if level < 0 else other._capacity * level / self._capacity
        return other


class Allowance:
    """What is left of the rate limits of one key or one alias.

    Args:
        rates: The limits.
        replicas: How many gateways share them.
        now: Monotonic seconds.
    """

    __slots__ = ("_others", "in_flight", "rates", "replicas", "requests", "tokens")

    def __init__(self, rates: Rates, replicas: int, now: float) -> None:
        self.rates = rates
        self.replicas = replicas
        self.requests = _bucket(rates.requests_per_minute, replicas, now)
        self.tokens = _bucket(rates.tokens_per_minute, replicas, now)
        self.in_flight = 0  # in this worker
        self._others = 0  # in flight in the other workers, as far as they have reported

    def adapt(self, rates: Rates, replicas: int, now: float) -> None:
        """Change the limits, keeping how full the buckets are."""
        if (rates, replicas) == (self.rates, self.replicas):
            return
        self.rates, self.replicas = rates, replicas
        self.requests = _adapt(self.requests, rates.requests_per_minute, replicas, now)
        self.tokens = _adapt(self.tokens, rates.tokens_per_minute, replicas, now)

    def refusal(self, whose: str, now: float) -> RateLimited | Overloaded | None:
        """Return the error for one more request now, or None if it may be admitted.

        Args:
            whose: The owner of the limits, for the message: `this key`, `` `support` ``.
            now: Monotonic seconds.
        """
        most = self.rates.max_in_flight
        if most is not None and self.in_flight + self._others >= max(1, most // self.replicas):
            return Overloaded(f"{whose} has {most} requests under way, its limit. Try again shortly.")
        if self.requests is not None and self.requests.level(now) < 1:
            return self._rate_limited(whose, "requests", self.requests, self.requests.seconds_until(1, now), now)
        if self.tokens is not None and self.tokens.level(now) <= 0:
            return self._rate_limited(whose, "tokens", self.tokens, self.tokens.seconds_until(1, now), now)
        return None

    def _rate_limited(self, whose: str, kind: str, bucket: Bucket, seconds: float, now: float) -> RateLimited:
        whole = max(1, ceil(seconds))
        short = "RPM" if kind == "requests" else "TPM"
        error = RateLimited(
            f"Rate limit reached for {whose} on {kind} per min ({short}): limit {bucket.limit}. "
            f"Please try again in {whole}s."
        )
        error.type = kind
        error.retry_after_seconds = whole
        error.headers = self.headers(now)
        return error

    def enter(self, now: float) -> None:
        """Admit one request, for which `refusal` has just returned None."""
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(1, now)

    def leave(self, tokens: int, now: float) -> None:
        """End an admitted request and charge its tokens; a negative number gives none back."""
        self.in_flight = max(0, self.in_flight - 1)  # it may have been admitted before there was a limit
        if self.tokens is not None and tokens > 0:
            self.tokens.take(tokens, now)

    def apply_others(self, requests: int, tokens: int, in_flight: int, now: float) -> None:
        """Apply what other workers have admitted, and the change in the number of their requests in flight."""
        if self.requests is not None and requests > 0:
            self.requests.take(requests, now)
        if self.tokens is not None and tokens > 0:
            self.tokens.take(tokens, now)
        self._others = max(0, self._others + in_flight)

    def headers(self, now: float) -> bytes:
        """Return OpenAI's `x-ratelimit-*` header lines."""
        lines = []
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                left = max(0, int(bucket.level(now)))
                reset = format_seconds(bucket.seconds_until(bucket.limit, now))
                lines.append(
                    f"x-ratelimit-limit-{kind}: {bucket.limit}\r\n"
                    f"x-ratelimit-remaining-{kind}: {left}\r\n"
                    f"x-ratelimit-reset-{kind}: {reset}\r\n"
                )
        return "".join(lines).encode()


def format_seconds(seconds: float) -> str:
    """Return a duration in OpenAI's form: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    if seconds < MINUTE_SECONDS:
        return f"{ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    return f"{minutes}m{rest}s"


def _bucket(limit: int | None, replicas: int, now: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, replicas, now)


def _adapt(bucket: Bucket | None, limit: int | None, replicas: int, now: float) -> Bucket | None:
    if bucket is None or limit is None:
        return _bucket(limit, replicas, now)
    return bucket.resize(limit, replicas, now)
