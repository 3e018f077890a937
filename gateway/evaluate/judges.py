"""The judges of all aliases: created when a route names one, calibrated from the pairs that all evaluators stored."""

import logging
from collections.abc import Callable
from typing import Any, Final

import httpx

from evaluators.observation import Kind, ScoredPair
from gateway.evaluate.judge import Judge, version_of
from gateway.evaluate.policies import Policies
from gateway.records.routes import JudgePolicy
from gateway.store.pairs import PAGE, Pairs

log = logging.getLogger("loragate.evaluate")

# Pairs from before this process started calibrate a judge if they are at most this old; the store keeps them longer.
CALIBRATION_SECONDS: Final = 7 * 86_400.0


class StoredJudges:
    """The judges by alias.

    Args:
        policies: The routes' mirror policies.
        pairs: The stored pairs of all evaluators.
        key_of: Returns the API key in an environment variable; None if the variable may not be named or is not set.
        seconds: The bound on one question to a judge.
        clock: Monotonic seconds.
        now: Unix seconds.
    """

    def __init__(
        self,
        policies: Policies,
        pairs: Pairs,
        key_of: Callable[[str], str | None],
        *,
        seconds: float,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._policies = policies
        self._pairs = pairs
        self._key_of = key_of
        self._seconds = seconds
        self._clock = clock
        self._now = now
        self._judges: dict[str, Judge] = {}
        self._old: list[Judge] = []
        self._unusable: set[JudgePolicy] = set()

    def of(self, alias: str) -> Judge | None:
        """Return an alias's judge; None if its route names none, or if the judge has not been calibrated yet."""
        judge = self._judges.get(alias)
        return judge if judge is not None and judge.policy == self._policies.of(alias).judge else None

    def learn(self, sharers: int) -> None:
        """Create the judges that routes name, and calibrate them with noise pairs stored since the last call; blocks.

        Args:
            sharers: Evaluators that share the hourly bound on judged pairs.

        Raises:
            StoreError: The store cannot be read.
        """
        for alias in self._policies.aliases_with_judge():
            judge = self._current(alias)
            if judge is None:
                continue
            was_flagged = judge.calibration.is_flagged
            if judge.read_up_to is None:
                self._begin(judge, alias)
            while page := self._pairs.since(judge.read_up_to or 0, PAGE, alias):
                judge.learn(page)
                judge.read_up_to = page[-1].number
            judge.sharers = max(1, sharers)
            if judge.calibration.is_flagged and not was_flagged:
                log.error("the judge of `%s` is not believed any more: %s", alias, judge.calibration.describe())
            self._judges[alias] = judge  # only now: before it is calibrated, it must not be asked

    def _current(self, alias: str) -> Judge | None:
        """Return the judge that the route names, a new one if the policy has changed; None if its address is no URL."""
        policy, judge = self._policies.of(alias).judge, self._judges.get(alias)
        if policy is None or policy in self._unusable:
            return None
        if judge is not None and judge.policy == policy:
            return judge
        if judge is not None:
            self._old.append(judge)
        try:
            return self._make(policy, judge)
        except (ValueError, httpx.InvalidURL):
            log.error("the judge of `%s` has the address `%s`, which is no URL; it is not asked", alias, policy.url)
            self._unusable.add(policy)
            return None

    def calibrations(self) -> dict[str, dict[str, Any]]:
        """Return each judge's calibration, for heartbeats."""
        return {alias: judge.describe() for alias, judge in list(self._judges.items())}

    async def close(self) -> None:
        for judge in (*self._judges.values(), *self._old):
            await judge.close()

    def _begin(self, judge: Judge, alias: str) -> None:
        """Calibrate a new judge with the pairs of the days before.

        The store returns them in the order of requests, not of their numbers. So only pairs up to the newest number at
        the start are taken, and `learn` goes on from that number.
        """
        head, begin = self._pairs.head(), self._now() - CALIBRATION_SECONDS
        noise_pairs: list[ScoredPair] = []
        last: ScoredPair | None = None
        while page := self._pairs.between(alias, begin, float("inf"), PAGE, after=last):
            last = page[-1]
            noise_pairs += [each for each in page if each.kind is Kind.NOISE and each.number <= head]
        judge.learn(sorted(noise_pairs, key=lambda each: each.number))
        judge.read_up_to = head

    def _make(self, policy: JudgePolicy, before: Judge | None) -> Judge:
        """Return a new judge; it keeps its predecessor's calibration if that was the same judge."""
        key = self._key_of(policy.key_env) if policy.key_env else None
        if policy.key_env and key is None:
            log.error(
                "the environment variable `%s` that a judge's policy names is not set, or not among "
                "`evaluator.judge_keys`; it is asked without a key",
                policy.key_env,
            )
        judge = Judge(policy, key, self._seconds, self._clock)
        if before is not None and before.version == version_of(policy):  # only the share or the budget has changed
            judge.calibration, judge.read_up_to = before.calibration, before.read_up_to
        return judge
