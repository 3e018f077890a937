"""The waiting of a request before it is sent to an engine: until its version is loaded, or until an engine has room.

A `Delay` is made only for a request that has to wait; most never do. It waits for one thing at a time: the control
plane calls back when a version is loaded (`on_supply`), the queue when an engine has room (`on_room`).
"""

from time import monotonic
from typing import Protocol

from gateway.errors import LoragateError, Overloaded, Saturated, VersionNotReady
from gateway.pipeline import Placement
from gateway.receive.deps import Deps
from gateway.receive.queueing import Line
from gateway.receive.reply_to import ReplyTo


class DelayedRequest(Protocol):
    """A request that may have to wait: what `Delay` needs of `Exchange`."""

    is_over: bool
    is_there: bool  # the engine that answered 404 for the version has it loaded after all
    tried: tuple[str, ...]  # URLs of engines that have failed this request

    def begin(self) -> None:
        """Place the request again, then send it, wait, or fail."""

    def decide(self, tried: tuple[str, ...]) -> Placement:
        """Return where the request goes now; raises if no engine can take it."""

    def send(self, placed: Placement) -> None:
        """Send the request to the engine of `placed`."""

    def fail(self, error: LoragateError) -> None:
        """End the request with `error`."""


class Delay:
    """The waiting of one request, present and past.

    Args:
        deps: The parts that the worker's connections share.
        client: The connection that the reply will go to.
        request: The request that waits.
    """

    __slots__ = (
        "_client",
        "_deps",
        "_parked_at",
        "_placing",
        "_queued_at",
        "_request",
        "line",
        "seconds",
        "seconds_for_load",
    )

    def __init__(self, deps: Deps, client: ReplyTo, request: DelayedRequest) -> None:
        self._client = client
        self._deps = deps
        self._placing = deps.placing
        self._request = request
        self._parked_at = 0.0  # since when it waits for its version to be loaded; 0 if it does not
        self._queued_at = 0.0  # since when it waits for room on an engine; 0 if it does not
        self.line: Line | None = None  # the line of the queue that it waits in
        self.seconds = 0.0  # waited so far, for loads and for room together
        self.seconds_for_load = 0.0

    # Waiting for a version

    def park(self, version: str, missing_at: str | None) -> None:
        """Wait until `version` is loaded; `missing_at` is the engine that should have it and answered 404."""
        self._parked_at = monotonic()
        self._client.waits_for_engine()
        self._deps.supply.want(version, missing_at, self)

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        """Go on: the version is loaded, or the engine has had it all along (`was_there`); or fail with `error`."""
        request = self._request
        request.is_there = was_there
        if request.is_over or not self._parked_at:
            return
        waited = monotonic() - self._parked_at
        self._parked_at = 0.0
        self.seconds_for_load += waited
        self.seconds += waited
        if error is None:
            request.begin()
        else:
            request.fail(error)

    # Waiting for room

    def join(self, line: Line) -> bool:
        """Queue in `line` until `on_room` is called; False if the queue is full."""
        if not self._placing.queue.join(line, self):
            return False
        self.line = line
        self._queued_at = self._queued_at or monotonic()
        self._client.waits_for_engine()
        return True

    def join_or_fail(self, version: str) -> None:
        """Queue for an engine with room for `version`; fail the request if the queue is full."""
        if not self.join((version, self._request.tried)):
            self._placing.counts.count_refusal("full")
            waiting = self._deps.limits.queue_size
            self._request.fail(
                Overloaded(f"All engines are busy and {waiting:,} requests wait already. Try again shortly.")
            )

    def on_room(self) -> bool:
        """Try to be placed now that an engine may have room; False if there was none, so that it keeps its place."""
        request = self._request
        try:
            placed = request.decide(request.tried)
        except Saturated as saturated:
            if (saturated.version, request.tried) == self.line:
                return False
            self.leave()
            self.join_or_fail(saturated.version)
        except LoragateError:
            self._go()
            request.begin()  # fails with the reason, or has the version loaded
            if request.is_over:  # it has not used the place: the next in line may
                self._placing.queue.on_place_free()
        else:
            self._go()
            request.send(placed)
        return True

    def leave(self) -> None:
        """Leave the line. The waiting time runs on, as it may join another line."""
        line, self.line = self.line, None
        if line is not None:
            self._placing.queue.leave(line, self)

    def _go(self) -> None:
        self.leave()
        waited = monotonic() - self._queued_at
        self._queued_at = 0.0
        self.seconds += waited
        self._placing.counts.observe_queue_wait(waited)

    # Waiting for either

    @property
    def is_on(self) -> bool:
        return bool(self._parked_at) or self.line is not None

    def overdue(self, now: float) -> LoragateError | None:
        """Return the error that ends the waiting if it has exceeded its limit, else None."""
        limits = self._deps.limits
        if self._parked_at:
            if now - self._parked_at >= limits.load_seconds:
                return VersionNotReady(f"The adapter was not loaded within {limits.load_seconds:g} s. Try again.")
        elif now - self._queued_at >= limits.queue_seconds:
            self._placing.counts.count_refusal("timeout")
            return Overloaded(f"No engine had room within {limits.queue_seconds:g} s. Try again shortly.")
        return None
