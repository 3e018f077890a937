"""One timer for every cadence, however many streams follow it.

All streams of one cadence are served in the same turn of the loop, as vLLM does: one step of the
engine yields one token for each running request. A thousand streams cost one timer.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Ticking(Protocol):
    """Something that sends its next event when told to."""

    def tick(self) -> bool:
        """Send one event; False when there is no more to come."""
        ...


class _Beat:
    """The streams of one cadence, and the timer that drives them while there are any."""

    __slots__ = ("due", "interval", "loop", "members", "running")

    def __init__(self, loop: asyncio.AbstractEventLoop, interval: float) -> None:
        self.loop = loop
        self.interval = interval
        self.members: dict[Ticking, None] = {}
        self.running = False
        self.due = 0.0

    def add(self, member: Ticking) -> None:
        self.members[member] = None
        if not self.running:
            self.running = True
            self.due = self.loop.time() + self.interval
            self.loop.call_at(self.due, self.beat)

    def beat(self) -> None:
        finished = [member for member in self.members if not member.tick()]
        for member in finished:
            del self.members[member]
        if not self.members:
            self.running = False
            return
        self.due += self.interval
        now = self.loop.time()
        if self.due < now:  # late: keep the phase, skip what was missed
            self.due += self.interval * (int((now - self.due) / self.interval) + 1)
        self.loop.call_at(self.due, self.beat)


class Ticker:
    """Cadences in use, by interval."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._beats: dict[float, _Beat] = {}

    def join(self, interval_seconds: float, member: Ticking) -> None:
        """Call `member.tick()` at every beat of that interval until it returns False."""
        beat = self._beats.get(interval_seconds)
        if beat is None:
            beat = self._beats[interval_seconds] = _Beat(self._loop, interval_seconds)
        beat.add(member)
