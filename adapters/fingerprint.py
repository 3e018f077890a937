"""Judge by fixed probes whether an engine serves the weights that it should.

A fingerprint is a model's answers to `PROBES`: for each, the most likely first tokens and their log-probabilities. The
distance of two fingerprints is their largest difference, in nats. It is judged against limits that come from this
engine's own noise (docs/decisions/0007-fingerprint-tolerances.md). `prober.py` asks the engine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

# Prose, a chat turn, code, another language: an adapter may change one kind of text and leave another as it is.
PROBES: Final = (
    "The sea was calm, and the harbour",
    "User: Explain in one sentence why the sky is blue.\nAssistant:",
    "def total(prices):\n    return 19.99 *",
    "Guten Morgen! Heute ist das Wetter in München",
)
# Raised at each change of PROBES or TOP, since fingerprints of different probes cannot be compared.
PROBES_VERSION: Final = 1
# Tokens for each probe: as many as vLLM allows by default (--max-logprobs 20).
TOP: Final = 20

# Limits, in nats; the figures behind them are in docs/decisions/0007-fingerprint-tolerances.md.
# `same` and `null` are multiples of the largest observed noise, since more readings would observe more. `null` is the
# smaller one, so that a weak adapter is not taken for none.
NOISE_FACTOR: Final = 4.0
NULL_FACTOR: Final = 2.0
SAME_FLOOR: Final = 0.01
NULL_FLOOR: Final = 0.001
ACROSS_FLOOR: Final = 1.0
# The upper bound on `same` and `null`. An engine that is noisier is faulty, and must not pass because of its noise.
CEILING: Final = 0.5

Top = tuple[tuple[int, float], ...]
"""Token ids with log-probabilities, the most likely first."""

BASE: Final = "the base"
_NOT_TOGETHER: Final = (
    ": this engine cannot serve the base and adapters together. On a CPU, vLLM answers the base with an adapter's "
    "weights unless Loragate's cure is on (LORAGATE_CPU_LORA_CURE must not be 0); else use a vLLM that has it fixed"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """An engine's answers: its name for its own configuration ("" if it has none), and a Top for each prompt."""

    engine: str
    tops: tuple[Top, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """One model's answers to the probes, or to the first few of them.

    `engine` is the engine's name for its own version and configuration (vLLM's `system_fingerprint`).
    """

    probes_version: int
    engine: str
    tokens: tuple[Top, ...]

    @classmethod
    def of(cls, answers: Answers) -> Self:
        """Return the fingerprint of `answers`: sorted, and rounded to save space."""
        tops = tuple(
            tuple(sorted(((token, round(each, 4)) for token, each in top), key=lambda pair: (-pair[1], pair[0])))
            for top in answers.tops
        )
        return cls(probes_version=PROBES_VERSION, engine=answers.engine, tokens=tops)


def distance(a: Fingerprint, b: Fingerprint) -> float:
    """Return the distance of two fingerprints: the largest difference of a log-probability, in nats.

    A token that only one of them lists is at most as likely in the other as the other's last listed token, and counts
    with that value. Only the probes that both have are compared. Infinite if there is nothing to compare.
    """
    probes = list(zip(a.tokens, b.tokens, strict=False))
    if a.probes_version != b.probes_version or not probes or not all(x and y for x, y in probes):
        return math.inf
    return max(_distance(dict(x), dict(y)) for x, y in probes)


def _distance(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    if not all(map(math.isfinite, (*a.values(), *b.values()))):
        return math.inf  # answers with NaN match no answers, not even themselves
    shared = max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=0.0)
    return max(shared, _surplus(a, b), _surplus(b, a))


def _surplus(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Return by how much the tokens that only `a` lists are likelier in `a` than they can be in `b`, at most."""
    least = min(b.values())
    return max((a[token] - least for token in a.keys() - b.keys()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far apart two fingerprints of the same weights may be, in nats.

    `noise` is the largest distance in `readings` comparisons of a model with itself. Three limits follow from it:
    `same` within one configuration of the engine, `across` between different ones, `null` for equality with the base.
    """

    noise: float = 0.0
    readings: int = 0
    same: float = SAME_FLOOR
    across: float = ACROSS_FLOOR
    null: float = NULL_FLOOR

    @classmethod
    def of(cls, noises: Sequence[float]) -> Self:
        """Return the limits that follow from a model's distances to itself; without any, the smallest limits."""
        noise = max(noises, default=0.0)
        same = max(SAME_FLOOR, min(NOISE_FACTOR * noise, CEILING))
        return cls(
            noise=noise,
            readings=len(noises),
            same=same,
            across=max(ACROSS_FLOOR, same),
            null=max(NULL_FLOOR, min(NULL_FACTOR * noise, CEILING)),
        )

    def between(self, a: Fingerprint, b: Fingerprint) -> float:
        return self.same if a.engine == b.engine else self.across


class FingerprintVerdict(StrEnum):
    """The possible results of a fingerprint check."""

    OK = "ok"
    NO_OP = "no_op"
    """The engine serves the base under the version's name."""
    MISMATCH = "mismatch"
    """The engine does not serve what it served when the version was recorded, or not beside others."""
    SPLIT_BRAIN = "split_brain"
    """This engine serves other weights under the name than other engines."""


class Where(StrEnum):
    """Whether a fault showed when the model was asked alone, or in a batch with others."""

    ALONE = "alone"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintFinding:
    """A verdict on one subject (a version or `BASE`), with its figures in nats."""

    verdict: FingerprintVerdict
    subject: str
    where: Where
    distance: float
    limit: float
    reason: str

    @property
    def is_ok(self) -> bool:
        return self.verdict is FingerprintVerdict.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReading:
    """One model's answers now: asked alone, and, where that was done, in one batch with others."""

    alone: Fingerprint
    mixed: Fingerprint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """One subject's fingerprints that were found `ok`, by engine, oldest first.

    `own` is this engine's key in `by_engine`, whether it has a record there or not. Only record what was `ok`, and
    delete this engine's record at a `split_brain`, since the wrong one may have been recorded.
    """

    own: str = ""
    by_engine: Mapping[str, Fingerprint] = field(default_factory=lambda: MappingProxyType({}))

    def comparable(self) -> dict[str, Fingerprint]:
        """Return the records that were made with the current probes."""
        return {name: each for name, each in self.by_engine.items() if each.probes_version == PROBES_VERSION}


def judge(
    version: str,
    now: ProbeReading,
    base: ProbeReading,
    records: Records,
    tolerance: Tolerance,
    *,
    may_be_null: bool = False,
) -> FingerprintFinding:
    """Return the finding on `version` on one engine: the first of these faults, else `ok`.

    1. It equals the base: `no_op`. With `may_be_null` (a version scaled by 0) it must equal the base, or is a
    `mismatch`.
    2. It differs from this engine's own record: `mismatch`.
    3. It differs from the records of at least as many other engines as it agrees with: `split_brain`. In a tie, the
    side with the oldest record is taken to be right, so that one engine goes out of service and not all.
    4. It answers differently in a mixed batch than alone: `mismatch`, mixed.
    """
    from_base = distance(now.alone, base.alone)
    if may_be_null and from_base > tolerance.same:
        note = "from the base's, which a version scaled by 0 equals"
        return _finding(FingerprintVerdict.MISMATCH, version, now.alone, from_base, tolerance.same, note)
    if not may_be_null and from_base <= tolerance.null:
        record = records.comparable().get(records.own)
        was = f" (when recorded it differed by {_figure(distance(record, base.alone))})" if record else ""
        note = f"from the base's, which is no more than noise: the adapter changes nothing here{was}"
        return _finding(FingerprintVerdict.NO_OP, version, now.alone, from_base, tolerance.null, note)
    new = "from the base's, and there is no record yet"
    unrecorded = _finding(FingerprintVerdict.OK, version, now.alone, from_base, tolerance.null, new)
    return _judge_further(version, now, records, tolerance, unrecorded)


def judge_base(now: ProbeReading, records: Records, tolerance: Tolerance) -> FingerprintFinding:
    """Return the finding on an engine's base, by the rules 2 to 4 of `judge`."""
    new = "from themselves, and there is no record yet"
    unrecorded = _finding(FingerprintVerdict.OK, BASE, now.alone, 0.0, tolerance.same, new)
    return _judge_further(BASE, now, records, tolerance, unrecorded)


def _judge_further(
    subject: str, now: ProbeReading, records: Records, tolerance: Tolerance, unrecorded: FingerprintFinding
) -> FingerprintFinding:
    if not math.isfinite(distance(now.alone, now.alone)):
        note = "even from themselves: the model answers with no finite numbers"
        return _finding(FingerprintVerdict.MISMATCH, subject, now.alone, math.inf, tolerance.same, note)
    found = _judge_own(subject, now, records, tolerance) or unrecorded
    if not found.is_ok:
        return found
    outvoted = _judge_others(subject, now, records, tolerance)
    if outvoted is not None:
        return outvoted
    mixed = _judge_mixed(subject, now, tolerance)
    return found if mixed is None or mixed.is_ok else mixed


def _judge_own(subject: str, now: ProbeReading, records: Records, tolerance: Tolerance) -> FingerprintFinding | None:
    record = records.comparable().get(records.own)
    if record is None:
        return None
    far, limit = distance(now.alone, record), tolerance.between(now.alone, record)
    verdict = FingerprintVerdict.MISMATCH if far > limit else FingerprintVerdict.OK
    return _finding(verdict, subject, now.alone, far, limit, "from this engine's record")


def _judge_others(subject: str, now: ProbeReading, records: Records, tolerance: Tolerance) -> FingerprintFinding | None:
    known = records.comparable()
    far = {name: distance(now.alone, each) for name, each in known.items()}
    others = [name for name in known if name != records.own]
    against = [name for name in others if far[name] > tolerance.between(now.alone, known[name])]
    agreeing = 1 + len(others) - len(against)
    # `known` has the oldest record first; in a tie its side is taken to be right.
    if agreeing > len(against) or (agreeing == len(against) and next(iter(known)) not in against):
        return None
    worst = max(against, key=far.__getitem__)
    more = f" and of {len(against) - 1} more" if len(against) > 1 else ""
    limit = tolerance.between(now.alone, known[worst])
    return _finding(
        FingerprintVerdict.SPLIT_BRAIN, subject, now.alone, far[worst], limit, f"from the record of {worst}{more}"
    )


def _judge_mixed(subject: str, now: ProbeReading, tolerance: Tolerance) -> FingerprintFinding | None:
    if now.mixed is None:
        return None
    far = distance(now.alone, now.mixed)
    verdict = FingerprintVerdict.MISMATCH if far > tolerance.same else FingerprintVerdict.OK
    note = "from those alone"
    if subject == BASE and verdict is FingerprintVerdict.MISMATCH:
        note += _NOT_TOGETHER
    return _finding(verdict, subject, now.mixed, far, tolerance.same, note, Where.MIXED)


def _finding(
    verdict: FingerprintVerdict,
    subject: str,
    probed: Fingerprint,
    far: float,
    limit: float,
    note: str,
    where: Where = Where.ALONE,
) -> FingerprintFinding:
    relation = ">" if far > limit else "<="
    figures = f"{_figure(far)} nats {relation} limit {_figure(limit)} ({len(probed.tokens)} probes, {where})"
    reason = f"{subject}: top log-probabilities differ by {figures} {note}"
    return FingerprintFinding(verdict=verdict, subject=subject, where=where, distance=far, limit=limit, reason=reason)


def _figure(nats: float) -> str:
    return f"{nats:.2g}" if nats else "0"
