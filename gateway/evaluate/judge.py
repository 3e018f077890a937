"""Ask a language model which of two answers is better, within the share and the budget that the route allows.

Each pair is shown in both orders. Noise pairs, which hold two answers of one version, are judged as well: they show
whether the judge is fit, and opinions of an unfit judge are not kept as scores of other pairs. Questions are not kept;
a bounded cache of digests avoids paying for the same question twice.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from evaluators.observation import Drift, Kind, Outcome, Pair, Score, ScoredPair, Unscored
from evaluators.preference.calibration import Calibration
from evaluators.preference.choosing import chance_of, is_chosen
from evaluators.preference.question import (
    VERSION,
    Choice,
    can_be_judged,
    is_flip,
    is_same_answer,
    preference,
    question,
    read_reply,
)
from gateway.evaluate.calls import CallFailed, ServerConnection
from gateway.records.routes import JudgePolicy

JUDGE: Final = "judge"
MAX_REMEMBERED: Final = 20_000
_MAX_BYTES: Final = 1024 * 1024
# The answer is one letter, a few tokens. Judges that reason before it need more; those that never end are cut off.
_MAX_TOKENS: Final = 1024
_HOUR: Final = 3600.0
# A judge that timed out is not asked for this long: each question to it holds one of the engines' places.
_AWAY_SECONDS: Final = 60.0
_OK: Final = 200
# Some models refuse `temperature`, or name the bound on tokens differently: each is left out once it was refused.
_OPTIONAL: Final = ("temperature", "max_tokens")


class _NoAnswer(Exception):
    """The judge gave no usable answer; the message says why in one word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the judge said about one pair.

    Attributes:
        outcome: The score, or why there is none.
        weight: One over the chance that the pair had of being judged; 1 if it was not judged.
        tokens: The tokens that the judge's endpoint reports as used.
    """

    outcome: Outcome
    weight: float = 1.0
    tokens: int = 0


def version_of(policy: JudgePolicy) -> str:
    """Return a judge's version. Another model, endpoint or rubric is another judge, which is calibrated anew."""
    identity = f"{policy.url}\x1f{policy.model}\x1f{policy.rubric}".encode()
    return f"{VERSION}:{hashlib.sha256(identity).hexdigest()[:8]}"


class Judge:
    """The judge of one alias.

    Args:
        policy: The judge that the route names.
        key: The API key for the judge's endpoint; None for none.
        seconds: The bound on one question.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: JudgePolicy, key: str | None, seconds: float, clock: Callable[[], float]) -> None:
        self.policy = policy
        self.version = version_of(policy)
        self.calibration = Calibration()
        self.read_up_to: int | None = None  # the number of the newest pair that has calibrated this judge
        self.sharers = 1  # evaluators that share the hourly bound on judged pairs
        self._server = ServerConnection(policy.url, {"authorization": f"Bearer {key}"} if key else None)
        self._seconds = seconds
        self._clock = clock
        self._away_until = 0.0
        self._known: dict[str, Choice] = {}
        self._asked_at: deque[float] = deque()
        self._left_out: set[str] = set()

    async def close(self) -> None:
        await self._server.close()

    async def opinion(self, sample: str, pair: Pair, scored_pair: ScoredPair) -> Opinion:
        """Return the judge's opinion of a pair, or why it was not asked.

        Args:
            sample: The sample's id, by which pairs are drawn.
            pair: Both answers.
            judged: The pair's scores so far; the more it drifts, the likelier it is judged.
        """
        is_noise = pair.kind is Kind.NOISE
        share = self.policy.share / 10_000
        drift = scored_pair.drift if isinstance(scored_pair.drift, Drift) else scored_pair.drift_back
        chance = chance_of(share, None if is_noise else drift) if share else 0.0
        if not is_chosen(self.version, sample, chance):
            return self._none("not_chosen")
        if not (can_be_judged(pair.control) and can_be_judged(pair.candidate)):
            return self._none("empty")
        if self.calibration.is_flagged and not is_noise:
            return self._none("uncalibrated")
        if self._clock() < self._away_until:
            return self._none("judge_away")
        if not self._may_ask():
            return self._none("budget")
        tokens: list[int] = []
        try:
            if is_same_answer(pair.control, pair.candidate) and not is_noise:
                first = second = Choice.TIE
            else:
                first = await self._ask(pair, tokens, swapped=False)
                second = await self._ask(pair, tokens, swapped=True)
        except _NoAnswer as none:
            return Opinion(outcome=Unscored(reason=str(none), version=self.version), tokens=sum(tokens))
        return Opinion(outcome=self._score(first, second), weight=1 / chance, tokens=sum(tokens))

    def learn(self, pairs: Sequence[ScoredPair]) -> None:
        """Calibrate this judge with its scores of noise pairs, whichever evaluator asked it."""
        for each in pairs:
            score = each.scores.get(JUDGE)
            if each.kind is Kind.NOISE and isinstance(score, Score) and score.version == self.version:
                self.calibration = self.calibration.after(score.value, flipped=score.control == score.candidate == 0.5)

    def describe(self) -> dict[str, Any]:
        """Return the judge's calibration, for heartbeats and reports."""
        calibration = self.calibration
        return {
            "state": "flagged" if calibration.is_flagged else "ok",
            "pairs": calibration.pairs,
            "win_rate": round(calibration.win_rate, 4),
            "flip_rate": round(calibration.flip_rate, 4),
            "e_value": float(f"{calibration.e_value:.4g}"),
            "text": calibration.describe(),
        }

    def _score(self, first: Choice, second: Choice) -> Score:
        # Each arm's own number is the share of the two orders in which it won.
        control = ((first is Choice.FIRST) + (second is Choice.SECOND)) / 2
        candidate = ((first is Choice.SECOND) + (second is Choice.FIRST)) / 2
        assert is_flip(first, second) == (control == candidate == 0.5)
        return Score(value=preference(first, second), version=self.version, control=control, candidate=candidate)

    def _none(self, reason: str) -> Opinion:
        return Opinion(outcome=Unscored(reason=reason, version=self.version))

    def _may_ask(self) -> bool:
        most = self.policy.pairs_per_hour
        if most is None:
            return True
        now = self._clock()
        while self._asked_at and self._asked_at[0] <= now - _HOUR:
            self._asked_at.popleft()
        if len(self._asked_at) >= max(1, most // self.sharers):
            return False
        self._asked_at.append(now)
        return True

    async def _ask(self, pair: Pair, tokens: list[int], *, swapped: bool) -> Choice:
        answers = (pair.candidate, pair.control) if swapped else (pair.control, pair.candidate)
        # The digest delimits the texts in the question: no text can contain the digest of a question that holds it.
        plain = msgspec.json.encode(question(pair.prompt, *answers, self.policy.rubric, ""))
        digest = hashlib.sha256(self.version.encode() + plain).hexdigest()
        if digest not in self._known:
            messages = question(pair.prompt, *answers, self.policy.rubric, digest[:16])
            choice = read_reply(await self._reply(messages, tokens))
            if choice is None:
                raise _NoAnswer("nonsense")
            if len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[digest] = choice
        return self._known[digest]

    async def _reply(self, messages: list[dict[str, str]], tokens: list[int]) -> str:
        body = {"model": self.policy.model, "messages": messages, "temperature": 0, "max_tokens": _MAX_TOKENS}
        while True:
            fields = {name: value for name, value in body.items() if name not in self._left_out}
            try:
                reply = await self._server.call(
                    "chat/completions", msgspec.json.encode(fields), seconds=self._seconds, most_bytes=_MAX_BYTES
                )
            except CallFailed as failed:
                if failed.reason == "late":
                    self._away_until = self._clock() + _AWAY_SECONDS
                raise _NoAnswer(f"judge_{failed.reason}") from None
            blamed = {name for name in _OPTIONAL if name in fields and name.encode() in reply.body}
            if reply.status != 400 or not blamed:
                break
            self._left_out |= blamed
        if reply.status != _OK:
            raise _NoAnswer(f"judge_status_{reply.status}")
        try:
            value = msgspec.json.decode(reply.body)
            used = (value.get("usage") or {}).get("total_tokens")
            tokens.append(used if type(used) is int and 0 <= used <= _MAX_BYTES else 0)
            text = value["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _NoAnswer("nonsense") from None
        if not isinstance(text, str):
            raise _NoAnswer("nonsense")
        return text
