"""What is exported of shadow evaluation, kept at hand for scrapes, which must not wait for the store.

Pairs come from the leader's watch; evaluators and the queue are read from the store now and then.
Gateways that do not lead export nothing of it, so that nothing is told twice.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from evaluators.observation import ScoredPair
from gateway.admin.rollouts.operations import RolloutOperations
from gateway.admin.shadow.windows import Board
from gateway.observe.shadow_counts import EvaluatorCounts, QueueView, ShadowReading
from gateway.store.errors import StoreError
from gateway.store.evaluators import Evaluators
from gateway.store.samples import Depth, Samples
from gateway.store.sql import Store

log = logging.getLogger("loragate.shadow")

# Prometheus scrapes every 15 s or so; evaluators beat more often than this.
LISTEN_SECONDS: Final = 5.0


class ShadowMetricsCollector:
    """Listens to evaluators, and to whoever reads pairs, while this gateway leads.

    Args:
        store: Where evaluators and samples are.
        rollouts: Where pairs are read, drift over time is watched, and the time is known.
        is_leader: Whether this gateway leads; others export nothing of it.
    """

    def __init__(self, store: Store, rollouts: RolloutOperations, is_leader: Callable[[], bool]) -> None:
        self._board = Board()
        self.counts = EvaluatorCounts()
        self.queue: QueueView | None = None
        self._evaluators = Evaluators(store)
        self._samples = Samples(store)
        self._rollouts = rollouts
        self._is_leader = is_leader
        self._turn = threading.Lock()
        rollouts.watch.listeners.append(self)
        self._last: dict[str, Mapping[str, Any]] = {}

    def observe(self, judged: ScoredPair) -> None:
        """Take in a pair that was compared; the watch tells of it in a thread of its own."""
        with self._turn:
            self._board.observe(judged)

    def reading(self) -> ShadowReading:
        """Return what is exported."""
        if not self._is_leader():
            return ShadowReading()
        with self._turn:
            found = self._board.reading(self._rollouts.state.now())
        drift = self._rollouts.drift.standing()
        return replace(found, evaluators=self.counts, queue=self.queue, drift=drift)

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            if not self._is_leader():
                self._hear_nothing()
                continue
            try:
                alive, depth = await asyncio.to_thread(self._read)
            except StoreError as error:
                log.debug("evaluators cannot be heard: %s", error)
                self._hear_nothing()
                continue
            self.take(alive)
            self.queue = queue_view(depth, self._rollouts.state.now())

    def _hear_nothing(self) -> None:
        self.queue, self.counts.alive, self.counts.flagged = None, 0, {}

    def _read(self) -> tuple[dict[str, dict[str, Any]], Depth]:
        return self._evaluators.alive(), self._samples.depth()

    def take(self, alive: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what each evaluator has done since it was last heard; one that is gone keeps its part of the sum."""
        counts = self.counts
        counts.alive = len(alive)
        counts.flagged = flagged_judges(alive)
        for name, record in alive.items():
            before = self._last.get(name, {})
            for member, total in (("shed", counts.shed), ("failed", counts.failed)):
                for reason, more in _grown(_by_reason(before, member), _by_reason(record, member)):
                    total[reason] += more
            counts.completed += max(0, _number(record, "completed") - _number(before, "completed"))
            counts.replay_tokens += max(0, _number(record, "replay_tokens") - _number(before, "replay_tokens"))
        # A silent one may be heard again, and is known by its name; names are made anew at each start.
        self._last = {**{name: self._last[name] for name in list(self._last)[-1_000:]}, **alive}


def queue_view(depth: Depth, now: float) -> QueueView:
    """Return the store's queue as it is exported."""
    age = max(0.0, now - depth.oldest_at) if depth.oldest_at is not None else 0.0
    return QueueView(pending=depth.pending, claimed=depth.claimed, failed=depth.failed, oldest_seconds=age)


def added_reasons(alive: Mapping[str, Mapping[str, Any]], member: str) -> dict[str, int]:
    """Return the sum over evaluators of what they count by reason."""
    total: Counter[str] = Counter()
    for record in alive.values():
        total.update(_by_reason(record, member))
    return dict(total.most_common())


def calibrations(alive: Mapping[str, Mapping[str, Any]], alias: str) -> list[str]:
    """Return what evaluators say of how fit an alias's judge is, each sentence once."""
    found = (_judges(record).get(alias) for record in alive.values())
    return sorted({str(each["text"]) for each in found if each is not None and "text" in each})


def flagged_judges(alive: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Return alias → whether any evaluator has found its judge unfit."""
    found: dict[str, bool] = {}
    for record in alive.values():
        for alias, judge in _judges(record).items():
            found[alias] = found.get(alias, False) or judge.get("state") == "flagged"
    return found


def _judges(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    judges = record.get("judge")
    if not isinstance(judges, dict):
        return {}
    return {alias: judge for alias, judge in judges.items() if isinstance(judge, dict)}


def _by_reason(record: Mapping[str, Any], member: str) -> dict[str, int]:
    """Return counts by reason; nothing of a record that another release has written otherwise."""
    found = record.get(member)
    if not isinstance(found, dict):
        return {}
    return {str(reason): count for reason, count in found.items() if isinstance(count, int)}


def _number(record: Mapping[str, Any], member: str) -> int:
    found = record.get(member)
    return found if isinstance(found, int) else 0


def _grown(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for reason, count in after.items():
        more = count - before.get(reason, 0)
        if more > 0:
            yield reason, more
