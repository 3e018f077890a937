"""What a worker knows of its engines beside the route table: who has failed, who waits for room.

The decisions are `decide/place.py` and `decide/health.py`; this keeps what they decide on,
tells them the time, and counts. While all is well it costs a request two look-ups.
"""

import logging
from time import monotonic
from typing import Final

from gateway.decide.health import WELL, EngineFailure, EngineStanding, Health, Rules, failed, rested, succeeded
from gateway.decide.place import Terms
from gateway.decide.route import RouteTable
from gateway.observe.engine_counts import PlacementCounts
from gateway.openai.identity import affinity_of
from gateway.ports import Engines
from gateway.receive.limits import Limits
from gateway.receive.queueing import Queue
from gateway.receive.request import Request

log = logging.getLogger("loragate.receive")

# A reply that is not streamed is silent until it is whole: 2,000 tokens at 10 a second take 200 s.
PATIENCE_WITH_WHOLE_REPLIES: Final = 5


class Placing:
    """One worker's view of its engines.

    Args:
        limits: When an engine is ejected, how much it may have at once, who may wait.
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
        self._health: dict[str, Health] = {}  # of those that have failed
        self._probes: dict[str, object] = {}  # engine that is half open → the one request it has
        self._shut: set[str] = set()  # engines that get nothing: ejected, or trying one request
        self._silent: set[str] = set()  # engines ejected for their silence
        self._down: frozenset[str] = frozenset()
        self._simple_terms = Terms(ejected=self._shut, cap=limits.engine_concurrency)

    def terms(self, request: Request, table: RouteTable) -> Terms:
        """Return on what terms an engine is chosen for `request`; with one engine there is nothing to weigh."""
        if len(table.engines) < 2:
            return self._simple_terms
        # Not the id alone: a client may send the same one each time.
        number = hash((request.id, request.received_at))
        return Terms(number, affinity_of(request), self._shut, self._limits.engine_concurrency)

    # What engines do

    def on_sent(self, url: str, who: object) -> None:
        """Note that `who` has been sent to an engine: one that is half open gets no other until this has ended."""
        if (
            self._health
            and self._health.get(url, WELL).standing is EngineStanding.HALF_OPEN
            and url not in self._probes
        ):
            self._probes[url] = who
            self._shut.add(url)

    def on_abandoned(self, url: str, who: object) -> None:
        """Note that `who` does not wait for the engine any longer: it has shown neither health nor failure."""
        if self._probes and self._probes.get(url) is who:
            del self._probes[url]
            self._shut.discard(url)

    def on_success(self, url: str, sent_at: float) -> None:
        """Note the head of a good reply."""
        if self._health:
            health = self._health.get(url)
            if health is not None and (health.failures or health.standing is not EngineStanding.CLOSED):
                now = monotonic()
                self._become(url, health, succeeded(health, sent_at=sent_at, now=now), None)

    def on_failure(self, url: str, failure: EngineFailure, sent_at: float) -> None:
        """Note that an engine has failed a request before its first byte."""
        health = self._health.get(url, WELL)
        self._become(url, health, failed(health, failure, self._rules, sent_at=sent_at, now=monotonic()), failure)

    def on_fault(self, url: str, in_reply: bool) -> None:
        """Note that an engine sent what is not HTTP; where no reply has failed of it, nobody else tells."""
        self.counts.of_engine(url).faults += 1
        if not in_reply:
            self.on_failure(url, EngineFailure.LOST, monotonic())

    def is_stuck(self, url: str, engines: Engines, waited: float, now: float, *, is_stream: bool) -> bool:
        """Whether a request that has waited so long for its first byte waits for nothing; ejects the engine if so."""
        if url in self._silent or url in self._down:
            return True
        limit = self._limits.engine_silent_seconds * (1 if is_stream else PATIENCE_WITH_WHOLE_REPLIES)
        if waited < limit or now - engines.heard_at.get(url, 0.0) < limit:
            return False
        # By when it was sent: what has waited since before a pause must not bring about the next.
        self.on_failure(url, EngineFailure.SILENCE, now - waited)
        return True

    # Time, and what the control plane says

    def tick(self, now: float) -> None:
        """Let engines try again whose pause is over, and requests whose engine has come back."""
        for url, health in list(self._health.items()):
            self._become(url, health, rested(health, now), None)
        self.queue.recheck()

    def on_table(self, table: RouteTable) -> None:
        """Take note of which engines are down; one that comes up again begins anew: it has been restarted."""
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
