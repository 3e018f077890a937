"""What a request waits for before an engine has it: its version to be loaded, or room on an engine.

Made for a request that has to wait; most never do. Waits for one thing at a time, and is told when
it has come: by the control plane of a load, by the queue of room.
"""

from time import monotonic
from typing import Protocol

from gateway.errors import LoragateError, Overloaded, Saturated, VersionNotReady
from gateway.pipeline import Placement
from gateway.receive.deps import Deps
from gateway.receive.queueing import Line
from gateway.receive.reply_to import ReplyTo


class DelayedRequest(Protocol):
    """A request that may have to wait, as far as its waiting asks."""

    is_over: bool
    is_there: bool  # the engine that said that it lacks the version has it after all
    tried: tuple[str, ...]  # engines that have failed it

    def begin(self) -> None:
        """Decide anew, and send, wait or fail."""

    def decide(self, tried: tuple[str, ...]) -> Placement:
        """Return who serves it now, if anyone does."""

    def send(self, placed: Placement) -> None:
        """Send it there."""

    def fail(self, error: LoragateError) -> None:
        """End it with `error`."""


class Delay:
    """One request's waiting, now and so far.

    Args:
        deps: What the worker's connections share.
        client: Where the reply will go.
        who: The request.
    """

    __slots__ = (
        "_client",
        "_deps",
        "_parked_at",
        "_placing",
        "_queued_at",
        "_who",
        "line",
        "seconds",
        "seconds_for_load",
    )

    def __init__(self, deps: Deps, client: ReplyTo, who: DelayedRequest) -> None:
        self._client = client
        self._deps = deps
        self._placing = deps.placing
        self._who = who
        self._parked_at = 0.0  # since when it waits for its version; 0 if it does not
        self._queued_at = 0.0  # since when it waits for room; 0 if it does not
        self.line: Line | None = None  # where it stands
        self.seconds = 0.0  # that it has waited, for whatever
        self.seconds_for_load = 0.0

    # For a version

    def park(self, version: str, missing_at: str | None) -> None:
        """Wait until `version` has been loaded; `missing_at` is the engine that should have it and has not."""
        self._parked_at = monotonic()
        self._client.waits_for_engine()
        self._deps.supply.want(version, missing_at, self)

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        """The version has been loaded, or cannot be; or the engine has had it all along."""
        who = self._who
        who.is_there = was_there
        if who.is_over or not self._parked_at:
            return
        waited = monotonic() - self._parked_at
        self._parked_at = 0.0
        self.seconds_for_load += waited
        self.seconds += waited
        if error is None:
            who.begin()
        else:
            who.fail(error)

    # For room

    def join(self, line: Line) -> bool:
        """Stand in a line until `on_room` is called; False if there is no place."""
        if not self._placing.queue.join(line, self):
            return False
        self.line = line
        self._queued_at = self._queued_at or monotonic()
        self._client.waits_for_engine()
        return True

    def join_or_fail(self, version: str) -> None:
        """Wait for room for `version`, or end with the reason why not."""
        if not self.join((version, self._who.tried)):
            self._placing.counts.count_refusal("full")
            waiting = self._deps.limits.queue_size
            self._who.fail(
                Overloaded(f"All engines are busy and {waiting:,} requests wait already. Try again shortly.")
            )

    def on_room(self) -> bool:
        """An engine may have room: go, and say so; or say that there was none."""
        who = self._who
        try:
            placed = who.decide(who.tried)
        except Saturated as saturated:
            if (saturated.version, who.tried) == self.line:
                return False
            self.leave()
            self.join_or_fail(saturated.version)
        except LoragateError:
            self._go()
            who.begin()  # which tells the reason, or has the version loaded
            if who.is_over:  # it takes no room
                self._placing.queue.on_place_free()
        else:
            self._go()
            who.send(placed)
        return True

    def leave(self) -> None:
        """Stand in no line; the time goes on, if it is only to stand in another."""
        line, self.line = self.line, None
        if line is not None:
            self._placing.queue.leave(line, self)

    def _go(self) -> None:
        self.leave()
        waited = monotonic() - self._queued_at
        self._queued_at = 0.0
        self.seconds += waited
        self._placing.counts.observe_queue_wait(waited)

    # For either

    @property
    def is_on(self) -> bool:
        """Whether the request waits now."""
        return bool(self._parked_at) or self.line is not None

    def overdue(self, now: float) -> LoragateError | None:
        """Return why a request that has waited for too long gets no answer; None if it has not."""
        limits = self._deps.limits
        if self._parked_at:
            if now - self._parked_at >= limits.load_seconds:
                return VersionNotReady(f"The adapter was not loaded within {limits.load_seconds:g} s. Try again.")
        elif now - self._queued_at >= limits.queue_seconds:
            self._placing.counts.count_refusal("timeout")
            return Overloaded(f"No engine had room within {limits.queue_seconds:g} s. Try again shortly.")
        return None
