"""The queue of requests that wait until an engine has room: bounded, first come first served.

Requests for different versions, or with different engines already tried, wait in separate lines, since an engine may
have room for one and none for another. Among the lines, the request that has waited longest goes first. A waiting
request costs no task and no timer: a request that ends calls the queue, and the connections' sweep ends waits that are
too long.
"""

import asyncio
import heapq
import itertools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from gateway.observe.engine_counts import PlacementCounts

# A version, and the URLs of engines that have failed the requests of this line and must not serve them.
Line = tuple[str, tuple[str, ...]]


class QueuedRequest(Protocol):
    """A request that waits for an engine with room."""

    def on_room(self) -> bool:
        """Go, as an engine may have room; False if there was none and the request still waits."""


_EMPTY: Final[Mapping[QueuedRequest, int]] = MappingProxyType({})


class Queue:
    """The requests of a worker that wait for an engine.

    Args:
        size: How many may wait.
        counts: Holds the number of waiting requests, which is a metric.
    """

    __slots__ = ("_counts", "_is_scheduled", "_places", "_size", "_tickets", "lines")

    def __init__(self, size: int, counts: PlacementCounts) -> None:
        self._size = size
        self._counts = counts
        self._tickets = itertools.count()
        self._is_scheduled = False  # `_go` runs in the event loop's next turn
        self._places = 0  # how many requests it may let go then
        # The waiting requests of each line in the order of arrival, each with its ticket.
        self.lines: dict[Line, dict[QueuedRequest, int]] = {}

    def join(self, line: Line, waiter: QueuedRequest) -> bool:
        """Append `waiter` to a line; False if the queue is full."""
        if self._counts.queued_now >= self._size:
            return False
        self.lines.setdefault(line, {})[waiter] = next(self._tickets)
        self._counts.queued_now += 1
        return True

    def leave(self, line: Line, waiter: QueuedRequest) -> None:
        waiters = self.lines[line]
        del waiters[waiter]
        self._counts.queued_now -= 1
        if not waiters:
            del self.lines[line]

    def recheck(self) -> None:
        """Soon let all requests try again: engines or the route table may have changed."""
        self._schedule(self._size)

    def on_place_free(self) -> None:
        """Soon let one request go: a place on an engine has become free."""
        self._schedule(1)

    def _schedule(self, places: int) -> None:
        if self.lines:
            self._places += places
            if not self._is_scheduled:  # run later, not inside the end of the request that made room
                self._is_scheduled = True
                asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        self._is_scheduled = False
        places, self._places = self._places, 0
        firsts = [(ticket, line, waiter) for line in self.lines for waiter, ticket in self._first(line)]
        heapq.heapify(firsts)
        # Stop when the places are used up: with a line for each of 500 versions, trying all of them takes 5 ms.
        while firsts and places:
            _, line, waiter = heapq.heappop(firsts)
            if waiter.on_room():
                places -= 1
                for following, ticket in self._first(line):
                    heapq.heappush(firsts, (ticket, line, following))

    def _first(self, line: Line) -> Iterable[tuple[QueuedRequest, int]]:
        return itertools.islice(self.lines.get(line, _EMPTY).items(), 1)
