"""Requests that wait until an engine has room: bounded, first come first served.

One line for each version and for each engine that has failed a request already, since one
may have room where another has none; among lines the request that has waited longest goes
first. A waiting request costs no task and no timer: whoever frees a place tells the queue,
the connection's sweep gives up what waited too long.
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from gateway.observe.engine_counts import PlacementCounts

# A version, and the engines that must not serve it: they have failed those who wait here.
Line = tuple[str, tuple[str, ...]]


class QueuedRequest(Protocol):
    """A request that waits for room."""

    def on_room(self) -> bool:
        """An engine may have room: go, and say so; or say that there was none."""


_NOBODY: Final[Mapping[QueuedRequest, int]] = MappingProxyType({})


class Queue:
    """A worker's waiting requests.

    Args:
        size: How many may wait.
        counts: Where the number of those waiting is kept.
    """

    __slots__ = ("_counts", "_is_stirred", "_places", "_size", "_tickets", "lines")

    def __init__(self, size: int, counts: PlacementCounts) -> None:
        self._size = size
        self._counts = counts
        self._tickets = itertools.count()
        self._is_stirred = False
        self._places = 0  # how many may go when it next looks
        # Who waits, in order of arrival, and each one's ticket.
        self.lines: dict[Line, dict[QueuedRequest, int]] = {}

    def join(self, line: Line, waiter: QueuedRequest) -> bool:
        """Add `waiter` at the end of a line; False if the queue is full."""
        if self._counts.queued_now >= self._size:
            return False
        self.lines.setdefault(line, {})[waiter] = next(self._tickets)
        self._counts.queued_now += 1
        return True

    def leave(self, line: Line, waiter: QueuedRequest) -> None:
        """Take `waiter` out."""
        waiters = self.lines[line]
        del waiters[waiter]
        self._counts.queued_now -= 1
        if not waiters:
            del self.lines[line]

    def recheck(self) -> None:
        """Let go who can, soon: anything may have changed."""
        self._look(self._size)

    def on_place_free(self) -> None:
        """Let one go, soon: a place has become free."""
        self._look(1)

    def _look(self, places: int) -> None:
        if self.lines:
            self._places += places
            if not self._is_stirred:  # not from inside the end of the request that made room
                self._is_stirred = True
                asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        self._is_stirred = False
        places, self._places = self._places, 0
        firsts = [(ticket, line, waiter) for line in self.lines for waiter, ticket in self._first(line)]
        heapq.heapify(firsts)
        # Not one more than there are places: with a line for each of 500 versions, asking all of them takes 5 ms.
        while firsts and places:
            _, line, waiter = heapq.heappop(firsts)
            if waiter.on_room():
                places -= 1
                for following, ticket in self._first(line):
                    heapq.heappush(firsts, (ticket, line, following))

    def _first(self, line: Line) -> Iterable[tuple[QueuedRequest, int]]:
        return itertools.islice(self.lines.get(line, _NOBODY).items(), 1)
