"""Requests that wait until an engine has room: bounded, first come first served.

One line for each version, since a version may have room where another has none; among lines
the request that has waited longest goes first. A waiting request costs no task and no timer:
whoever frees a place stirs the queue, the connection's sweep gives up what waited too long.
"""

import asyncio
import itertools
from typing import Protocol

from gateway.observe.engine_counts import PlacementCounts


class Queued(Protocol):
    """A request that waits for room."""

    def on_room(self) -> bool:
        """An engine may have room: go, and say so; or say that there was none."""


class Queue:
    """A worker's waiting requests.

    Args:
        size: How many may wait.
        counts: Where the number of those waiting is kept.
    """

    __slots__ = ("_counts", "_is_stirred", "_size", "_tickets", "lines")

    def __init__(self, size: int, counts: PlacementCounts) -> None:
        self._size = size
        self._counts = counts
        self._tickets = itertools.count()
        self._is_stirred = False
        # Version → who waits for it, in order of arrival, and its ticket.
        self.lines: dict[str, dict[Queued, int]] = {}

    def join(self, version: str, waiter: Queued) -> bool:
        """Add `waiter` at the end of its version's line; False if the queue is full."""
        if self._counts.queued_now >= self._size:
            return False
        self.lines.setdefault(version, {})[waiter] = next(self._tickets)
        self._counts.queued_now += 1
        return True

    def leave(self, version: str, waiter: Queued) -> None:
        """Take `waiter` out."""
        line = self.lines[version]
        del line[waiter]
        self._counts.queued_now -= 1
        if not line:
            del self.lines[version]

    def stir(self) -> None:
        """Let go who can, soon: not from inside the end of the request that made room."""
        if self.lines and not self._is_stirred:
            self._is_stirred = True
            asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        self._is_stirred = False
        stuck: set[str] = set()
        while True:
            heads = [
                (ticket, version, waiter)
                for version, line in self.lines.items()
                if version not in stuck
                for waiter, ticket in itertools.islice(line.items(), 1)
            ]
            if not heads:
                return
            _, version, waiter = min(heads, key=lambda head: head[0])
            if not waiter.on_room():
                stuck.add(version)
