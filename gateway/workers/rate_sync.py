"""Keeps the rate limits of a machine's workers in step: each worker's usage is passed on to the others. Pure."""

from dataclasses import dataclass, field, replace

from gateway.receive.limits import Limits
from gateway.receive.rates import Spendings


@dataclass(slots=True)
class _WorkerUsage:
    """What one worker has reported."""

    fresh: Spendings = field(default_factory=Spendings)  # not yet passed on to the other workers
    in_flight: dict[str, int] = field(default_factory=dict)  # all of its requests in flight, by limit


class RateSync:
    """The usage of rate limits that each worker has reported.

    Args:
        size: How many workers there are; they are numbered from 0.
    """

    def __init__(self, size: int) -> None:
        self._usage = [_WorkerUsage() for _ in range(size)]

    def record(self, number: int, spent: Spendings) -> None:
        """Record a worker's report."""
        usage = self._usage[number]
        _add(usage.fresh.requests, spent.requests)
        _add(usage.fresh.tokens, spent.tokens)
        _add(usage.fresh.in_flight, spent.in_flight)
        _add(usage.in_flight, spent.in_flight)
        usage.in_flight = {name: count for name, count in usage.in_flight.items() if count}

    def forget_worker(self, number: int) -> None:
        """Remove a worker's requests in flight: it has ended, and they with it."""
        usage = self._usage[number]
        _add(usage.fresh.in_flight, usage.in_flight, -1)
        usage.in_flight = {}

    def in_flight_elsewhere(self, number: int) -> Spendings:
        """Return the other workers' requests in flight, for a worker that has just started.

        Without those that the next `deltas` will report.
        """
        elsewhere = Spendings()
        for other, usage in enumerate(self._usage):
            if other != number:
                _add(elsewhere.in_flight, usage.in_flight)
                _add(elsewhere.in_flight, usage.fresh.in_flight, -1)
        return elsewhere

    def deltas(self) -> list[Spendings]:
        """Return for each worker what the other workers have reported since the last call."""
        total = Spendings()
        for usage in self._usage:
            _add_all(total, usage.fresh)
        for_each = []
        for usage in self._usage:
            others = Spendings(dict(total.requests), dict(total.tokens), dict(total.in_flight))
            _add_all(others, usage.fresh, -1)
            for_each.append(others)
        for usage in self._usage:
            usage.fresh = Spendings()
        return for_each


def share_of(limits: Limits, place: int, size: int) -> Limits:
    """Return the limits of one worker of `size`: `engine_concurrency` is divided among them, at least 1 each."""
    whole = limits.engine_concurrency
    if not whole:
        return limits
    return replace(limits, engine_concurrency=max(1, whole // size + (place < whole % size)))


def _add_all(to: Spendings, other: Spendings, times: int = 1) -> None:
    _add(to.requests, other.requests, times)
    _add(to.tokens, other.tokens, times)
    _add(to.in_flight, other.in_flight, times)


def _add(to: dict[str, int], other: dict[str, int], times: int = 1) -> None:
    for name, amount in other.items():
        to[name] = to.get(name, 0) + amount * times
