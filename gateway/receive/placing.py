"""A worker's own view of its engines: which have failed, and which requests wait until one has room.

The decisions are pure and in `decide/place.py` and `decide/health.py`; this module keeps their state, gives them the
time, and counts. While all engines are healthy it costs a request two look-ups.
"""

import logging
from time import monotonic
from typing import Final

from gateway.decide.health import (
    WELL,
    EngineFailure,
    EngineStanding,
    Health,
    Rules,
    after_failure,
    after_pause,
    after_success,
)
from gateway.decide.place import Terms
from gateway.decide.route import RouteTable
from gateway.observe.engine_counts import PlacementCounts
from gateway.openai.identity import affinity_of
from gateway.ports import Engines
from gateway.receive.limits import Limits
from gateway.receive.queueing import Queue
from gateway.receive.request import Request

log = logging.getLogger("loragate.receive")

# How many times `engine_silent_seconds` an engine may be silent before a reply that is not streamed: such a reply comes
# all at once, and 2,000 tokens at 10 a second take 200 s.
PATIENCE_WITH_WHOLE_REPLIES: Final = 5


class Placing:
    """One worker's view of its engines.

    Args:
        limits: When an engine is ejected, how many requests it may have at once, and how many may wait.
    """

    __slots__ = (
        "_down",
        "_health",
        "_limits",
        "_probes",
        "_rules",
        "_shut",
        "_silent",
        "_simple_terms",
        "counts",
        "queue",
    )

    def __init__(self, limits: Limits) -> None:
        self.counts = PlacementCounts()
        self.queue = Queue(limits.queue_size, self.counts)
        self._limits = limits
        self._rules = Rules(
            failures=limits.eject_failures,
            pause_seconds=limits.eject_seconds,
            longest_pause_seconds=limits.eject_longest_seconds,
        )
        self._health: dict[str, Health] = {}  # by engine URL; only engines that have failed are in it
        self._probes: dict[str, object] = {}  # URL of a half-open engine → the one request that tries it
        self._shut: set[str] = set()  # engines that get no more requests: ejected, or half open and being tried
        self._silent: set[str] = set()  # engines ejected because they sent nothing
        self._down: frozenset[str] = frozenset()
        self._simple_terms = Terms(ejected=self._shut, cap=limits.engine_concurrency)

    def terms(self, request: Request, table: RouteTable) -> Terms:
        """Return the terms on which an engine is chosen for `request`; with a single engine they are the simplest."""
        if len(table.engines) < 2:
            return self._simple_terms
        # Not the id alone: a client may send the same one each time.
        number = hash((request.id, request.received_at))
        return Terms(number, affinity_of(request), self._shut, self._limits.engine_concurrency)

    # Events of requests

    def on_sent(self, url: str, request: object) -> None:
        """A request was sent to an engine: a half-open engine gets no other until this one has ended."""
        if (
            self._health
            and self._health.get(url, WELL).standing is EngineStanding.HALF_OPEN
            and url not in self._probes
        ):
            self._probes[url] = request
            self._shut.add(url)

    def on_abandoned(self, url: str, request: object) -> None:
        """A request has ended or was cancelled without a verdict: a half-open engine may be tried by another."""
        if self._probes and self._probes.get(url) is request:
            del self._probes[url]
            self._shut.discard(url)

    def on_success(self, url: str, sent_at: float) -> None:
        """An engine sent the head of a good reply."""
        if self._health:
            health = self._health.get(url)
            if health is not None and (health.failures or health.standing is not EngineStanding.CLOSED):
                now = monotonic()
                self._become(url, health, after_success(health, sent_at=sent_at, now=now), None)

    def on_failure(self, url: str, failure: EngineFailure, sent_at: float) -> None:
        """An engine failed a request before the first byte of its reply."""
        health = self._health.get(url, WELL)
        self._become(
            url, health, after_failure(health, failure, self._rules, sent_at=sent_at, now=monotonic()), failure
        )

    def on_fault(self, url: str, in_reply: bool) -> None:
        """An engine sent bytes that are not HTTP. Outside a reply no exchange reports that, so it counts here."""
        self.counts.of_engine(url).faults += 1
        if not in_reply:
            self.on_failure(url, EngineFailure.LOST, monotonic())

    def is_stuck(self, url: str, engines: Engines, waited: float, now: float, *, is_stream: bool) -> bool:
        """Whether an engine is stuck, given that a request has `waited` seconds for its first byte; ejects it if so."""
        if url in self._silent or url in self._down:
            return True
        limit = self._limits.engine_silent_seconds * (1 if is_stream else PATIENCE_WITH_WHOLE_REPLIES)
        if waited < limit or now - engines.heard_at.get(url, 0.0) < limit:
            return False
        # Dated when the request was sent: one that was sent before an ejection must not cause the next.
        self.on_failure(url, EngineFailure.SILENCE, now - waited)
        return True

    # Time, and news from the control plane

    def tick(self, now: float) -> None:
        """Make engines half open whose ejection is over, and let waiting requests try again."""
        for url, health in list(self._health.items()):
            self._become(url, health, after_pause(health, now), None)
        self.queue.recheck()

    def on_table(self, table: RouteTable) -> None:
        """Take in which engines are down. An engine that comes up again was restarted: its record starts afresh."""
        down = frozenset(engine.url for engine in table.engines if not engine.is_up)
        for url in self._down - down:
            if url in self._health:
                self._become(url, self._health[url], Health(since=monotonic()), None)
        self._down = down
        self.queue.recheck()

    def _become(self, url: str, before: Health, after: Health, failure: EngineFailure | None) -> None:
        if after is before:
            return
        self._health[url] = after
        if after.standing is before.standing:
            return
        self._probes.pop(url, None)
        self._silent.discard(url)
        if after.standing is not EngineStanding.EJECTED:
            self._shut.discard(url)
            if after.standing is EngineStanding.CLOSED:
                self.counts.count_return(url)
                log.info("engine %s gets requests again", url)
            return
        self._shut.add(url)
        assert failure is not None  # nothing else ejects
        if failure is EngineFailure.SILENCE:
            self._silent.add(url)
        self.counts.count_ejection(url, failure)
        log.warning("engine %s gets no requests for %g s: it has failed, last by %s", url, after.pause_seconds, failure)
