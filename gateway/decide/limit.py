"""May this be asked for now? Token buckets, as values of time that the caller passes in.

A bucket holds one minute's worth and is refilled evenly, so a caller who has been quiet may
send a minute's requests at once, and within any `t` seconds at most `limit * (1 + t / 60)`.
Requests are paid for before they are served. Tokens are not known before: a request is let
in while the bucket holds anything, and the reply's usage is taken out afterwards, into debt
if need be, which the refill pays back first.

Several workers, each with a bucket of its own, tell each other what they have let in; `take`
of what others told may go into debt too. So they agree in the long run, and by how much they
may disagree before is what all the others let in until they were heard.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from gateway.errors import Overloaded, RateLimited

MINUTE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a key or an alias may take; None where there is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_in_flight: int | None = None


def rates_of(
    requests_per_minute: int | None, tokens_per_minute: int | None, max_in_flight: int | None = None
) -> Rates | None:
    """Return the limits, or None where there are none."""
    if requests_per_minute is None and tokens_per_minute is None and max_in_flight is None:
        return None
    return Rates(
        requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, max_in_flight=max_in_flight
    )


class Bucket:
    """What is left of one limit.

    Args:
        limit: A minute's worth, over all replicas.
        replicas: How many gateways share it evenly.
        now: Seconds of a clock that never goes back; the bucket is full then.
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_second", "limit")

    def __init__(self, limit: int, replicas: int, now: float) -> None:
        self.limit = limit
        self._per_second = limit / replicas / MINUTE_SECONDS
        self._capacity = max(1.0, limit / replicas)  # less than one would never let anything in
        self._level = self._capacity
        self._at = now

    def level(self, now: float) -> float:
        """Return what is in it; below 0 it is in debt."""
        if now > self._at:
            self._level = min(self._capacity, self._level + (now - self._at) * self._per_second)
            self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        """Take `amount` out, into debt if need be."""
        self._level = self.level(now) - amount

    def seconds_until(self, level: float, now: float) -> float:
        """Return in how many seconds it holds `level`, if nothing is taken out; 0 if it does."""
        return max(0.0, (min(level, self._capacity) - self.level(now)) / self._per_second)

    def resized(self, limit: int, replicas: int, now: float) -> "Bucket":
        """Return a bucket with another limit, as full in proportion; its debt stays what it is."""
        other = Bucket(limit, replicas, now)
        level = self.level(now)
        other._level = level if level < 0 else other._capacity * level / self._capacity
        return other


class Allowance:
    """What one key, or one alias, may still take.

    Args:
        rates: Its limits.
        replicas: How many gateways share them.
        now: Seconds of a clock that never goes back.
    """

    __slots__ = ("_others", "in_flight", "rates", "replicas", "requests", "tokens")

    def __init__(self, rates: Rates, replicas: int, now: float) -> None:
        self.rates = rates
        self.replicas = replicas
        self.requests = _bucket(rates.requests_per_minute, replicas, now)
        self.tokens = _bucket(rates.tokens_per_minute, replicas, now)
        self.in_flight = 0  # of this worker
        self._others = 0  # of the other workers, as far as they have told

    def adapt(self, rates: Rates, replicas: int, now: float) -> None:
        """Go on with other limits."""
        if (rates, replicas) == (self.rates, self.replicas):
            return
        self.rates, self.replicas = rates, replicas
        self.requests = _adapted(self.requests, rates.requests_per_minute, replicas, now)
        self.tokens = _adapted(self.tokens, rates.tokens_per_minute, replicas, now)

    def refusal(self, whose: str, now: float) -> RateLimited | Overloaded | None:
        """Return why one more request may not be let in now, or None if it may.

        Args:
            whose: Whose limits these are, for the message: `this key`, `` `support` ``.
            now: Seconds.
        """
        most = self.rates.max_in_flight
        if most is not None and self.in_flight + self._others >= max(1, most // self.replicas):
            return Overloaded(f"{whose} has {most} requests under way, its limit. Try again shortly.")
        if self.requests is not None and self.requests.level(now) < 1:
            return self._refused(whose, "requests", self.requests, self.requests.seconds_until(1, now), now)
        if self.tokens is not None and self.tokens.level(now) <= 0:
            return self._refused(whose, "tokens", self.tokens, self.tokens.seconds_until(1, now), now)
        return None

    def _refused(self, whose: str, kind: str, bucket: Bucket, seconds: float, now: float) -> RateLimited:
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
        """Let one request in: `refusal` has just returned None."""
        self.in_flight += 1
        if self.requests is not None:
            self.requests.take(1, now)

    def leave(self, tokens: int, now: float) -> None:
        """A request that was let in is over, and has cost so many tokens; fewer than 0 give none back."""
        self.in_flight = max(0, self.in_flight - 1)  # it may have been let in before there was a limit
        if self.tokens is not None and tokens > 0:
            self.tokens.take(tokens, now)

    def others(self, requests: int, tokens: int, in_flight: int, now: float) -> None:
        """Take in what other workers have let in, and by how much what they have under way has changed."""
        if self.requests is not None and requests > 0:
            self.requests.take(requests, now)
        if self.tokens is not None and tokens > 0:
            self.tokens.take(tokens, now)
        self._others = max(0, self._others + in_flight)

    def headers(self, now: float) -> bytes:
        """Return OpenAI's headers about what is left."""
        lines = []
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                left = max(0, int(bucket.level(now)))
                reset = shown_seconds(bucket.seconds_until(bucket.limit, now))
                lines.append(
                    f"x-ratelimit-limit-{kind}: {bucket.limit}\r\n"
                    f"x-ratelimit-remaining-{kind}: {left}\r\n"
                    f"x-ratelimit-reset-{kind}: {reset}\r\n"
                )
        return "".join(lines).encode()


def shown_seconds(seconds: float) -> str:
    """Return a time as OpenAI writes it: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    if seconds < MINUTE_SECONDS:
        return f"{ceil(seconds * 10) / 10:g}s"
    minutes, rest = divmod(ceil(seconds), 60)
    return f"{minutes}m{rest}s"


def _bucket(limit: int | None, replicas: int, now: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, replicas, now)


def _adapted(bucket: Bucket | None, limit: int | None, replicas: int, now: float) -> Bucket | None:
    if bucket is None or limit is None:
        return _bucket(limit, replicas, now)
    return bucket.resized(limit, replicas, now)
