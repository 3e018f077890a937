"""Read compared pairs as they come, and keep the evidence for each open rollout's gates.

Each rollout's pairs are read from the store in the order of their numbers, each once, so any
gateway that reads them comes to the same evidence: a new leader the same as the old one, and a gateway
that shows a rollout the same as the leader. Pairs are read from the store alone; if it is unreachable,
its error is raised to the caller, and no decision is made.

Other readers of pairs (the metrics) register as listeners; they get the pairs that come
while this gateway leads.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from evaluators.observation import ScoredPair
from gateway.decide.assign import Arm
from gateway.observe.tally import MAX_ACCOUNTS
from gateway.rollout.evidence import FEEDBACK, NO_PAIRS, StagePairs
from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.streams import AccountStreams, Streams
from gateway.rollout.gates.traffic import OTHERS
from gateway.rollout.gates.unit_shares import ArmUnits, Count, units_of
from gateway.rollout.plan import Stage
from gateway.rollout.record import RolloutRecord
from gateway.rollout.rollout import Rollout
from gateway.rollout.stage_evidence import StageEvidence
from gateway.store.evaluators import Evaluators
from gateway.store.feedback import Feedbacks
from gateway.store.pairs import PAGE, Pairs
from gateway.store.sql import Store

log = logging.getLogger("loragate.shadow")

# The greatest number of rollouts whose evidence is kept in memory; the leader drops those that have ended sooner.
MAX_BOOKS: Final = 256
# The greatest number of pairs passed to listeners at one look, which takes about a second; the rest waits for the next.
MAX_PASSED_ON: Final = 20_000
NOBODY_COMPARES: Final = (
    "an evaluator: none is alive, so nothing is compared; start one with `loragate evaluate`, or let this gateway "
    "run its own (`evaluator.enabled`)"
)


class PairListener(Protocol):
    """A receiver that is given each new pair once."""

    def observe(self, scored_pair: ScoredPair) -> None:
        """Take in a pair that was compared."""


class Watch:
    """The evidence of open rollouts' pairs. Its methods block, may be called in any thread, and raise StoreError.

    Args:
        store: The store that has the pairs, thumbs and evaluators.
    """

    def __init__(self, store: Store) -> None:
        self._pairs = Pairs(store)
        self._feedbacks = Feedbacks(store)
        self._evaluators = Evaluators(store)
        self._books: dict[str, _Book] = {}
        self._turn = threading.Lock()
        self._last_passed_on: int | None = None
        self.listeners: list[PairListener] = []

    def read(self, record: RolloutRecord, now: float) -> StagePairs:
        """Read a rollout's new pairs, and return the readings of all its pairs.

        Args:
            record: The present record; pairs of stages that it has not entered yet are kept for later.
            now: Unix seconds: sessions that have been silent for long enough by then are counted.
        """
        rollout, stage = record.rollout, record.rollout.current
        wants = [(number, each) for number, each in record.stages() if each.wants_pairs]
        thumbs = self._thumbs(rollout, stage)
        if not wants:
            return StagePairs(stage=rollout.stage, thumbs=thumbs) if thumbs is not None else NO_PAIRS
        with self._turn:
            book = self._books.setdefault(rollout.id, _Book(rollout, record.judged_share))
            book.enter(wants)
            for scored_pair in self._pairs.of(rollout.id, after=book.last):
                book.add(scored_pair)
            book.close(now)
            found = book.summarize(rollout.stage)
            while len(self._books) > MAX_BOOKS:
                del self._books[next(iter(self._books))]
        warnings = () if stage is None or not stage.wants_pairs else self._warnings()
        return replace(found, thumbs=thumbs, warnings=warnings)

    def _thumbs(self, rollout: Rollout, stage: Stage | None) -> Streams | None:
        if stage is None or all(gate.name != FEEDBACK for gate in stage.gates):
            return None
        counts = self._feedbacks.counts(rollout.id, rollout.stage)
        control, candidate = (_units(counts, arm) for arm in Arm)
        by_account = self._feedbacks.counts_by_account(rollout.id, rollout.stage, 2 * MAX_ACCOUNTS)
        accounts = [
            AccountStreams(account=name, control=_units(each, Arm.CONTROL), candidate=_units(each, Arm.CANDIDATE))
            for name, each in by_account.items()
        ]
        weight = rollout.weight
        rest = Streams(control=control, candidate=candidate)
        for each in accounts:
            rest = rest.without(each)
        if rest.control.n or rest.candidate.n:
            accounts.append(AccountStreams(account=OTHERS, control=rest.control, candidate=rest.candidate))
        accounts.sort(key=lambda each: -each.n)
        return Streams(
            control=control, candidate=candidate, accounts=tuple(accounts), callers=len(accounts), weight=weight
        )

    def _warnings(self) -> tuple[str, ...]:
        return () if self._evaluators.alive() else (NOBODY_COMPARES,)

    def look(self, records: Sequence[RolloutRecord], now: float) -> dict[str, StagePairs]:
        """Return the readings of all open rollouts' pairs, by rollout, and pass new pairs on. For the leader."""
        self._pass_on()
        found = {record.rollout.id: self.read(record, now) for record in records}
        with self._turn:
            self._books = {id_: book for id_, book in self._books.items() if id_ in found}
        return found

    def stand_back(self) -> None:
        """Stop passing pairs to listeners, because another gateway leads."""
        self._last_passed_on = None

    def _pass_on(self) -> None:
        if not self.listeners:
            return
        if self._last_passed_on is None:
            self._last_passed_on = self._pairs.head()
        for _ in range(MAX_PASSED_ON // PAGE):
            page = self._pairs.since(self._last_passed_on)
            for scored_pair in page:
                self._last_passed_on = scored_pair.number
                for listener in self.listeners:
                    listener.observe(scored_pair)
            if len(page) < PAGE:
                return


def _units(counts: Mapping[str, tuple[int, int]], arm: Arm) -> ArmUnits:
    n, bad = counts.get(arm, (0, 0))
    return units_of(Count(n=n, bad=bad))


class _Book:
    """One rollout's evidence, by stage."""

    def __init__(self, rollout: Rollout, judged_share: float) -> None:
        self._rollout = rollout
        self._judged_share = judged_share
        self._stages: dict[int, StageEvidence] = {}
        self._early: dict[int, list[ScoredPair]] = {}
        self.last = 0

    def enter(self, wants: Sequence[tuple[int, Stage]]) -> None:
        """Begin the evidence of these stages, with pairs that came before this gateway knew the stages."""
        for number, stage in wants:
            if number not in self._stages:
                self._stages[number] = StageEvidence(stage, self._rollout, self._judged_share)
                for scored_pair in self._early.pop(number, ()):
                    self._stages[number].add(scored_pair)

    def add(self, scored_pair: ScoredPair) -> None:
        """Take in the next pair."""
        self.last = scored_pair.number
        stage = self._stages.get(scored_pair.stage)
        if stage is not None:
            stage.add(scored_pair)
        elif scored_pair.stage > max(self._stages, default=0):  # this gateway does not know of that stage yet
            self._early.setdefault(scored_pair.stage, []).append(scored_pair)

    def close(self, now: float) -> None:
        """Count the sessions that are over."""
        for stage in self._stages.values():
            stage.close(now)

    def summarize(self, present: int) -> StagePairs:
        """Return the readings of stage `present`, and the failures of all other stages."""
        late: list[Reading] = []
        for number, evidence in self._stages.items():
            if number != present:
                late += evidence.failures(number)
        stage = self._stages.get(present)
        if stage is None:
            return StagePairs(stage=present, late=tuple(late))
        return StagePairs(
            stage=present, n=stage.n, readings=stage.readings(), is_settled=stage.is_settled, late=tuple(late)
        )
