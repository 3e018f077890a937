"""Collect the metrics of shadow evaluation in memory, so that scrapes do not wait for the store.

Compared pairs come from the leader's watch; evaluators and the queue are read from the store every few seconds.
Gateways that do not lead export none of these metrics, so that nothing is counted twice.
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

# How often evaluators and the queue are read: more often than Prometheus scrapes (about every 15 s).
LISTEN_SECONDS: Final = 5.0


class ShadowMetricsCollector:
    """Collects counts from evaluators and compared pairs while this gateway leads.

    Args:
        store: The store that has the evaluators' records and the samples.
        rollouts: The commands on rollouts, whose watch reads pairs and which know drift over time and the clock.
        is_leader: Returns whether this gateway leads; other gateways export none of these metrics.
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

    def observe(self, scored_pair: ScoredPair) -> None:
        """Count a pair that was compared. Called by the watch, in another thread."""
        with self._turn:
            self._board.observe(scored_pair)

    def reading(self) -> ShadowReading:
        """Return the values to export; empty if this gateway does not lead."""
        if not self._is_leader():
            return ShadowReading()
        with self._turn:
            found = self._board.reading(self._rollouts.state.now())
        drift = self._rollouts.drift.standing()
        return replace(found, evaluators=self.counts, queue=self.queue, drift=drift)

    async def run(self) -> None:
        """Read evaluators and the queue every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(LISTEN_SECONDS)
            if not self._is_leader():
                self._hear_nothing()
                continue
            try:
                alive, depth = await asyncio.to_thread(self._read)
            except StoreError as error:
                log.debug("the records of evaluators could not be read: %s", error)
                self._hear_nothing()
                continue
            self.take(alive)
            self.queue = queue_view(depth, self._rollouts.state.now())

    def _hear_nothing(self) -> None:
        self.queue, self.counts.alive, self.counts.flagged = None, 0, {}

    def _read(self) -> tuple[dict[str, dict[str, Any]], Depth]:
        return self._evaluators.alive(), self._samples.depth()

    def take(self, alive: Mapping[str, Mapping[str, Any]]) -> None:
        """Add each evaluator's counts since its record was last read; sums keep the counts of evaluators that ended.

        Args:
            alive: Name of each evaluator that is alive → its record, with counts since it started.
        """
        counts = self.counts
        counts.alive = len(alive)
        counts.flagged = find_judge_flags(alive)
        for name, record in alive.items():
            before = self._last.get(name, {})
            for member, total in (("shed", counts.shed), ("failed", counts.failed)):
                for reason, more in _count_growth(_by_reason(before, member), _by_reason(record, member)):
                    total[reason] += more
            counts.completed += max(0, _number(record, "completed") - _number(before, "completed"))
            counts.replay_tokens += max(0, _number(record, "replay_tokens") - _number(before, "replay_tokens"))
        # Records of silent evaluators are kept, since they may report again; a restarted evaluator has a new name.
        self._last = {**{name: self._last[name] for name in list(self._last)[-1_000:]}, **alive}


def queue_view(depth: Depth, now: float) -> QueueView:
    """Return the metrics of the store's queue of samples."""
    age = max(0.0, now - depth.oldest_at) if depth.oldest_at is not None else 0.0
    return QueueView(pending=depth.pending, claimed=depth.claimed, failed=depth.failed, oldest_seconds=age)


def sum_by_reason(alive: Mapping[str, Mapping[str, Any]], member: str) -> dict[str, int]:
    """Return the evaluators' counts under `member`, by reason, summed over evaluators."""
    total: Counter[str] = Counter()
    for record in alive.values():
        total.update(_by_reason(record, member))
    return dict(total.most_common())


def calibrations(alive: Mapping[str, Mapping[str, Any]], alias: str) -> list[str]:
    """Return the evaluators' sentences on the calibration of an alias's judge, each once."""
    found = (_judges(record).get(alias) for record in alive.values())
    return sorted({str(each["text"]) for each in found if each is not None and "text" in each})


def find_judge_flags(alive: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Return alias → whether any evaluator's calibration has flagged the alias's judge."""
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
    """Return a record's counts by reason; none if another release has written them in another form."""
    found = record.get(member)
    if not isinstance(found, dict):
        return {}
    return {str(reason): count for reason, count in found.items() if isinstance(count, int)}


def _number(record: Mapping[str, Any], member: str) -> int:
    found = record.get(member)
    return found if isinstance(found, int) else 0


def _count_growth(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for reason, count in after.items():
        more = count - before.get(reason, 0)
        if more > 0:
            yield reason, more
