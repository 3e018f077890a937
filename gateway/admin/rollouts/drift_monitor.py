"""Compare pairs with the base model with each version's accepted baseline, and raise an alarm if traffic has changed.

The leader does this. It reads each alias's pairs from where the baseline ends, in order, so a new
leader comes to the same sums. An alarm is raised once for each version and watched statistic:
the next promotion accepts the new state.

Drift over time does not cause a rollback, because a rollback does not remove its causes: users ask other
questions, another season begins, a client has changed its prompt. A rollback would take a good
version away and leave the cause.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from evaluators.judge.over_time import Alarm, BaselineOf, Distance, OverTime
from evaluators.observation import Kind, ScoredPair
from evaluators.statistics.detector import RUN_LENGTH
from gateway.admin.rollouts.drift_baseline import (
    FEWEST_SESSIONS,
    KL,
    OUTPUT_LENGTH,
    Baseline,
    ReportedAlarm,
    complete_baseline,
    decode,
    encode,
    make_baseline,
    sessions_in,
)
from gateway.observe.drift_view import DriftStanding
from gateway.records.routes import RouteRecord
from gateway.rollout.record import UnreadableRollout
from gateway.rollout.rollout import Phase
from gateway.store.baselines import Baselines
from gateway.store.pairs import PAGE, Pairs
from gateway.store.sql import Store

# For how far the mix of tasks and lengths is now: a few hours of a busy alias, and enough that bins are not empty by
# chance.
WINDOW_SESSIONS: Final = 500
FEWEST_SHOWN: Final = 100
# The greatest number of pages of pairs read for one alias at one look; the rest is read at the next.
PAGES_A_LOOK: Final = 5
# The greatest number of baselines loaded at one look: after a start every alias needs one.
NEW_A_LOOK: Final = 20
# Engines that cannot score tokens give no KL. A baseline without it is complete after this many times the usual number
# of sessions.
PATIENCE: Final = 3
# The words for each statistic, by the direction of its change; tasks and prompt lengths have a text of their own.
_WORDS: Final = {
    (OUTPUT_LENGTH, "up"): "answers are longer",
    (OUTPUT_LENGTH, "down"): "answers are shorter",
    ("refusal", "up"): "it refuses more often",
    ("refusal", "down"): "it refuses less often",
    (KL, "up"): "it answers further from the base",
    (KL, "down"): "it answers closer to the base",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlarm:
    """An alarm to report: the statistic `what`, after `n` sessions, with its bound and the baseline's mean."""

    alias: str
    version: str
    what: str
    n: int
    limit: float
    baseline: float
    report: ReportedAlarm


class DriftWatch:
    """Drift over time of all aliases. Its methods block, are called by one at a time, and raise StoreError.

    Args:
        store: Where pairs and baselines are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pairs = Pairs(store)
        self._baselines = Baselines(store)
        self._follows: dict[str, _Follow] = {}
        self._standing: tuple[DriftStanding, ...] = ()

    def look(self, routes: Sequence[RouteRecord], now: float) -> list[DriftAlarm]:
        """Read new pairs, and return the alarms that have not been reported yet.

        Args:
            routes: All routes; each gets a baseline, and pairs are read if the route's mirror policy makes some.
            now: Unix seconds.
        """
        self._follows = {
            route.alias: follow
            for route in routes
            if (follow := self._follows.get(route.alias)) is not None and follow.baseline.version == route.control
        }
        new = [route for route in routes if route.alias not in self._follows]
        for route in new[:NEW_A_LOOK]:
            self._follows[route.alias] = _Follow(self._baseline(route, now))
        found: list[DriftAlarm] = []
        for route in routes:
            is_read = route.mirror is not None and route.mirror.share > 0 and route.mirror.capture != "off"
            follow = self._follows.get(route.alias)
            if follow is not None and is_read:
                self._read(route, follow, now)
                found += follow.pending.values()
        self._stand()
        return found

    def mark_reported(self, alarm: DriftAlarm) -> None:
        """Store that an alarm has been reported, so that it is not reported again."""
        follow = self._follows.get(alarm.alias)
        if follow is None or follow.baseline.version != alarm.version:
            return
        name = alarm.what.partition(":")[0]
        alarms = follow.baseline.alarms | {name: alarm.report}
        follow.baseline = msgspec.structs.replace(follow.baseline, alarms=alarms)
        self._baselines.put(alarm.version, encode(follow.baseline))
        follow.pending.pop(name, None)
        self._stand()

    def stand_back(self) -> None:
        """Forget all baselines, because another gateway leads and may change them."""
        self._follows = {}
        self._standing = ()

    def standing(self) -> tuple[DriftStanding, ...]:
        """Return the drift of every watched statistic at the last look; does not block."""
        return self._standing

    def _stand(self) -> None:
        self._standing = tuple(each for follow in self._follows.values() for each in follow.standing())

    def _baseline(self, route: RouteRecord, now: float) -> Baseline:
        """Return the stored baseline of an alias's control, or the one that its rollout makes."""
        body = self._baselines.get(route.control)
        stored = decode(body) if body is not None else None
        if stored is not None and stored.alias == route.alias:
            return stored
        made = Baseline(version=route.control, alias=route.alias, at=now)
        for record in self._store.rollouts(route.alias, limit=10):
            if isinstance(record, UnreadableRollout):
                continue
            rollout = record.rollout
            if rollout.phase is Phase.LIVE and rollout.candidate == route.control:
                pairs = self._pairs.of(rollout.id)
                made = make_baseline(pairs, version=route.control, alias=route.alias, rollout=rollout.id, at=now)
                break
        if made.rollout:
            self._baselines.put(route.control, encode(made))
        return made

    def _read(self, route: RouteRecord, follow: "_Follow", now: float) -> None:
        before = follow.baseline
        for _ in range(PAGES_A_LOOK):
            page = self._pairs.since(follow.last, PAGE, route.alias)
            for scored_pair in page:
                follow.add(scored_pair)
            if len(page) < PAGE:
                follow.close(now)
                break
        if follow.baseline != before:
            self._baselines.put(route.control, encode(follow.baseline))


class _Follow:
    """One version's traffic since it became its alias's control."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self.last = baseline.after
        self.pending: dict[str, DriftAlarm] = {}
        self._gathered: BaselineOf | None = None
        self._watch: OverTime | None = None
        self._distances: dict[str, Distance] = {}
        self._n = 0
        if baseline.after:
            self._watch = OverTime(baseline.version, baseline.read())
        else:
            self._gathered = BaselineOf(baseline.version)

    def add(self, scored_pair: ScoredPair) -> None:
        """Take in the alias's next pair."""
        self.last = scored_pair.number
        if scored_pair.kind is not Kind.BASE or scored_pair.other != self.baseline.version:
            return
        at = max(scored_pair.at, scored_pair.scored_at)
        if self._watch is not None:
            self._raise(self._watch.add(scored_pair), at)
        elif self._gathered is not None:
            self._gathered.add(scored_pair)
            self._complete(self._gathered)

    def close(self, now: float) -> None:
        """Count the sessions that are over."""
        if self._watch is not None:
            self._raise(self._watch.close(now), now)
        elif self._gathered is not None:
            self._gathered.close(now)
            self._complete(self._gathered)

    def _complete(self, gathered: BaselineOf) -> None:
        """Complete the baseline and begin to watch, once there are enough pairs with the base model."""
        window = gathered.window
        n = sessions_in(window)
        if n < FEWEST_SESSIONS or (sessions_in(window, KL) < FEWEST_SESSIONS and n < PATIENCE * FEWEST_SESSIONS):
            return
        self.baseline = complete_baseline(self.baseline, window, self.last)
        self._gathered, self._watch = None, OverTime(self.baseline.version, self.baseline.read())

    def _raise(self, alarms: Sequence[Alarm], at: float) -> None:
        watch = self._watch
        assert watch is not None
        n = sessions_in(watch.current)
        if n >= WINDOW_SESSIONS:
            self._distances = watch.distances()
            self._n += n
            watch.begin_window()
        for alarm in alarms:
            name = alarm.what.partition(":")[0]
            if name in self.baseline.alarms or name in self.pending:
                continue
            words = _WORDS.get((name, alarm.direction), f"more requests than before are of {alarm.what}")
            why = (
                f"{words}, by more than is let pass: {alarm.reason}; a false alarm comes once in {RUN_LENGTH:,.0f} "
                "sessions at most, on average"
            )
            self.pending[name] = DriftAlarm(
                alias=self.baseline.alias,
                version=self.baseline.version,
                what=alarm.what,
                n=alarm.n,
                limit=alarm.limit,
                baseline=alarm.baseline,
                report=ReportedAlarm(number=self.last, at=at, why=why),
            )

    def standing(self) -> list[DriftStanding]:
        """Return the present drift of every watched statistic."""
        watch = self._watch
        if watch is None:
            return []
        present = sessions_in(watch.current)
        distances = watch.distances() if present >= FEWEST_SHOWN else self._distances
        standings = []
        for name, (evidence, bound) in watch.evidence().items():
            far, alarm = distances.get(name), self.baseline.alarms.get(name)
            standings.append(
                DriftStanding(
                    alias=self.baseline.alias,
                    version=self.baseline.version,
                    what=name,
                    n=self._n + present,
                    psi=far.psi if far else None,
                    js=far.jensen_shannon if far else None,
                    evidence=evidence,
                    bound=bound,
                    run_length=RUN_LENGTH,
                    alarm_at=alarm.at if alarm else None,
                    why=alarm.why if alarm else "",
                )
            )
        return standings
