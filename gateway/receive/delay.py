"""What a request waits for before an engine has it: its version to be loaded, or room on an engine.

Made for a request that has to wait; most never do. Waits for one thing at a time.
"""

from gateway.errors import LoragateError, Overloaded, VersionNotReady
from gateway.receive.limits import Limits
from gateway.receive.placing import Placing
from gateway.receive.queueing import Line, Queued


class Delay:
    """One request's waiting, now and so far.

    Args:
        placing: Whose queue it stands in.
        who: The request.
    """

    __slots__ = ("_parked_at", "_placing", "_queued_at", "_who", "line", "seconds", "seconds_for_load")

    def __init__(self, placing: Placing, who: Queued) -> None:
        self._placing = placing
        self._who = who
        self._parked_at = 0.0  # since when it waits for its version; 0 if it does not
        self._queued_at = 0.0  # since when it waits for room; 0 if it does not
        self.line: Line | None = None  # where it stands
        self.seconds = 0.0  # that it has waited, for whatever
        self.seconds_for_load = 0.0

    def park(self, now: float) -> None:
        """Begin to wait for a version to be loaded."""
        self._parked_at = now

    def unpark(self, now: float) -> bool:
        """End that; False if it did not wait for it."""
        if not self._parked_at:
            return False
        waited = now - self._parked_at
        self._parked_at = 0.0
        self.seconds_for_load += waited
        self.seconds += waited
        return True

    def join(self, line: Line, now: float) -> bool:
        """Stand in a line; False if there is no place."""
        if not self._placing.queue.join(line, self._who):
            return False
        self.line = line
        self._queued_at = self._queued_at or now
        return True

    def refused(self, limits: Limits) -> LoragateError:
        """Return why a request that found no place gets no answer."""
        self._placing.counts.refuse("full")
        waiting = limits.queue_size
        return Overloaded(f"All engines are busy and {waiting:,} requests wait already. Try again shortly.")

    def leave(self) -> None:
        """Stand in no line; the time goes on until `go`, if it is only to stand in another."""
        line, self.line = self.line, None
        if line is not None:
            self._placing.queue.leave(line, self._who)

    def go(self, now: float) -> None:
        """There is room."""
        self.leave()
        waited = now - self._queued_at
        self._queued_at = 0.0
        self.seconds += waited
        self._placing.counts.waited(waited)

    @property
    def is_on(self) -> bool:
        """Whether the request waits now."""
        return bool(self._parked_at) or self.line is not None

    def overdue(self, limits: Limits, now: float) -> LoragateError | None:
        """Return why a request that has waited for too long gets no answer; None if it has not."""
        if self._parked_at:
            if now - self._parked_at >= limits.load_seconds:
                return VersionNotReady(f"The adapter was not loaded within {limits.load_seconds:g} s. Try again.")
        elif now - self._queued_at >= limits.queue_seconds:
            self._placing.counts.refuse("timeout")
            return Overloaded(f"No engine had room within {limits.queue_seconds:g} s. Try again shortly.")
        return None
