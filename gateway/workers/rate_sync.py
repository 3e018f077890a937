"""What workers let in under limits, passed on to the other workers of the machine; pure."""

from dataclasses import dataclass, field, replace

from gateway.receive.limits import Limits
from gateway.receive.rates import Spendings


@dataclass(slots=True)
class _WorkerUsage:
    """What one worker has told: not yet passed on, and under way in all."""

    fresh: Spendings = field(default_factory=Spendings)
    in_flight: dict[str, int] = field(default_factory=dict)


class RateSync:
    """What each of the workers has told of what it let in.

    Args:
        size: How many workers there are; they are numbered from 0.
    """

    def __init__(self, size: int) -> None:
        self._told = [_WorkerUsage() for _ in range(size)]

    def record(self, number: int, spent: Spendings) -> None:
        """Take in what a worker has told."""
        told = self._told[number]
        _add(told.fresh.requests, spent.requests)
        _add(told.fresh.tokens, spent.tokens)
        _add(told.fresh.in_flight, spent.in_flight)
        _add(told.in_flight, spent.in_flight)
        told.in_flight = {name: count for name, count in told.in_flight.items() if count}

    def forget_worker(self, number: int) -> None:
        """A worker has ended, and with it all that it had under way."""
        told = self._told[number]
        _add(told.fresh.in_flight, told.in_flight, -1)
        told.in_flight = {}

    def in_flight_elsewhere(self, number: int) -> Spendings:
        """Return what a worker that starts is to know: what the others have under way and will not be told again."""
        known = Spendings()
        for other, told in enumerate(self._told):
            if other != number:
                _add(known.in_flight, told.in_flight)
                _add(known.in_flight, told.fresh.in_flight, -1)
        return known

    def deltas(self) -> list[Spendings]:
        """Return for each worker what the others have told since the last time."""
        total = Spendings()
        for told in self._told:
            _add_all(total, told.fresh)
        for_each = []
        for told in self._told:
            others = Spendings(dict(total.requests), dict(total.tokens), dict(total.in_flight))
            _add_all(others, told.fresh, -1)
            for_each.append(others)
        for told in self._told:
            told.fresh = Spendings()
        return for_each


def share_of(limits: Limits, place: int, size: int) -> Limits:
    """Return the limits of one worker of `size`: what an engine may have at once is shared out, at least 1 each."""
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
