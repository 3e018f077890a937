"""Gates on live traffic: units that call as units do, two arms, a look each second.

Truth is known exactly. What a gate makes of a look is asked of the product's own code (`judge_by_account`); only looks
at which it cannot fail are left out: those where the evidence at the control's own mean, of which the e-value is the
least over all means, is too little.
"""

from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators.judge.verdict import Verdict
from evaluators.statistics.betting import BETS, SHARES
from gateway.decide.assign import TOTAL_WEIGHT
from gateway.rollout.gates.gate import Gate
from gateway.rollout.gates.streams import AccountStreams, Streams
from gateway.rollout.gates.traffic import judge_by_account
from gateway.rollout.gates.unit_shares import (
    FRESH,
    IDLE_SECONDS,
    MAX_REQUESTS,
    NO_SHARES,
    RESERVE,
    ROUND_SECONDS,
    TIMES,
    ArmUnits,
    Count,
    Shares,
)
from simulations.capital import Array, Mask

Index = NDArray[np.int64]

GATES = 6  # statistical gates in a plan of three steps with `error_rate` and `latency`
LONGEST = 300  # requests of one unit
# Of a look: what one collection, one beat of the gateways and one look of the leader cost before anything is decided.
DELAY_SECONDS = 2
_ARMS = ((0, "control"), (1, "candidate"))
_HOPELESS = 5.5  # nats; a part of what is less than a sixth of a per cent's evidence adds nothing to it
_ROUNDING = 0.01  # nats
_EACH = 16  # more than requests by which a unit is judged
_BETS, _LOG_SHARES = np.array(BETS), np.log(np.array(SHARES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Some units' account.

    Attributes:
        share: Of the units.
        bad: The chance, of control and of candidate, that a unit's requests all fail.
    """

    share: float
    bad: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A step's traffic.

    Attributes:
        weight: The candidate's share of the units.
        rate: Units a second, in the mean.
        requests: Of a unit, in the mean: geometric, one a second.
        bad: The chance, of control and of candidate, that a unit's requests all fail.
        errors: The chance, of control and of candidate, that a request fails by itself.
        accounts: Who calls, with chances in place of `bad`; one account if empty.
        outage: From when on and for how long everything fails in both arms, seconds; "anywhere": where chance has it.
        tide: Whether traffic goes up and down by nine tenths, once in half an hour.
        seconds: How long the step is.
        margin: The gate's.
        ratio: In its place.
    """

    weight: float
    rate: float = 2.0
    requests: float = 10.0
    bad: tuple[float, float] = (0.0, 0.0)
    errors: tuple[float, float] = (0.001, 0.001)
    accounts: tuple[Account, ...] = ()
    outage: tuple[float | str, float] | None = None
    tide: bool = False
    seconds: int = 1_800
    margin: float = 0.01
    ratio: float | None = None

    @property
    def gate(self) -> Gate:
        """The gate that looks."""
        return Gate(name="error_rate", margin=0.0 if self.ratio is not None else self.margin, ratio=self.ratio)


@dataclass(slots=True)
class Step:
    """One run: what counted, and when, each (n,); `of` 0 stands for a first request, `round` 0 for the whole stage."""

    at: Array
    arm: Array
    account: Array
    bad: Array
    of: Array
    round: Array


def drawn(scene: Scene, rng: np.random.Generator) -> Step:
    """Return a run of the scene."""
    units = begin, _, _, length, _ = _units(scene, rng)
    outage = _outage(scene, rng)
    whole = _counted(scene, rng, units, outage, np.zeros(len(begin)))
    rows = [(*whole, np.zeros(len(whole[0])))]
    number, last = 1, np.minimum(length, MAX_REQUESTS)
    while ROUND_SECONDS * 2 ** (number - 1) < scene.seconds:
        opens = ROUND_SECONDS * 2 ** (number - 1)
        # Who calls for the first time at all counts in the round as in the stage.
        new = np.tile((begin >= opens) & (begin < 2 * opens), 2)
        rows.append((*(column[new] for column in whole), np.full(new.sum(), number)))
        first = np.maximum(np.ceil(opens - begin), last)
        again = (begin < opens) & (first < length) & (begin + first < 2 * opens)
        counted = _counted(scene, rng, tuple(column[again] for column in units), outage, first[again])
        rows.append((*counted, np.full(len(counted[0]), number)))
        last = np.where(again, np.minimum(length, first + MAX_REQUESTS), last)
        number += 1
    return Step(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def _units(scene: Scene, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    mean = scene.rate * scene.seconds
    begin = np.sort(rng.random(rng.poisson(mean)) * scene.seconds)
    if scene.tide:
        keep = rng.random(len(begin)) < (1 + 0.9 * np.sin(2 * np.pi * begin / 1_800)) / 1.9
        begin = begin[keep]
    n = len(begin)
    arm = (rng.random(n) < scene.weight).astype(int)
    accounts = scene.accounts or (Account(share=1.0, bad=scene.bad),)
    account = np.searchsorted(np.cumsum([each.share for each in accounts][:-1]), rng.random(n), side="right")
    chance = np.array([each.bad for each in accounts])[account, arm]
    length = np.minimum(LONGEST, rng.geometric(1 / scene.requests, n))
    return begin, arm, account, length, rng.random(n) < chance


def _outage(scene: Scene, rng: np.random.Generator) -> tuple[float, float] | None:
    if scene.outage is None:
        return None
    begin, seconds = scene.outage
    at = rng.random() * (scene.seconds - seconds) if isinstance(begin, str) else float(begin)
    return at, at + seconds


def _counted(
    scene: Scene, rng: np.random.Generator, units: tuple[Array, ...], outage: tuple[float, float] | None, first: Array
) -> tuple[Array, ...]:
    """Return what units count for from their request `first` on: at once, and when they are over."""
    begin, arm, account, length, always = units
    sent = np.minimum(length - first, MAX_REQUESTS).astype(int)
    of = (2 ** np.floor(np.log2(np.maximum(sent, 1)))).astype(int)
    places = np.arange(MAX_REQUESTS)
    times = begin[:, None] + first[:, None] + places
    fails = always[:, None] | (rng.random(times.shape) < np.array(scene.errors)[arm][:, None])
    if outage is not None:
        fails |= (times >= outage[0]) & (times < outage[1])
    over_at = begin + first + np.where(sent == MAX_REQUESTS, MAX_REQUESTS - 1, sent - 1 + IDLE_SECONDS)
    bad = (fails & (places < of[:, None])).sum(axis=1)
    return (
        np.concatenate([begin + first, over_at]),
        np.tile(arm, 2),
        np.tile(account, 2),
        np.concatenate([fails[:, 0].astype(int), bad]),
        np.concatenate([np.zeros(len(of), int), of]),
    )


def first_verdict(scene: Scene, step: Step, verdict: Verdict, alpha: float = 0.01) -> tuple[float, int]:
    """Return after how many seconds the gate first says `verdict`, and how many candidate's units had called by then.

    Looks come once a second for a failure, and each two per cent later than the one before for a pass. Infinity and 0
    where it never says so.
    """
    looks = np.arange(1, scene.seconds + 1)
    if verdict is Verdict.PASS:
        looks = np.unique(np.ceil(1.02 ** np.arange(0, log(scene.seconds) / log(1.02))).astype(int))
    else:
        looks = looks[_most_evidence(scene, step, looks) >= -log(alpha / GATES)]
    for look in looks:
        streams = _streams(scene, step, float(look))
        if judge_by_account(scene.gate, streams, alpha / GATES, alpha).verdict is verdict:
            return float(look) + DELAY_SECONDS, streams.candidate.n
    return np.inf, 0


def _most_evidence(scene: Scene, step: Step, looks: Index) -> Array:
    """Return (n_looks,) log e-values for failing that are never below the gate's.

    Where several accounts call, a gate fails only if it would without any one, be it that another one hides it.
    """
    names = range(len(scene.accounts))
    if not names:
        return _of_accounts(scene, step, looks, np.full(len(step.at), True))
    without = {
        pair: _of_accounts(scene, step, looks, ~np.isin(step.account, pair))
        for pair in {tuple(sorted({one, other})) for one in names for other in names}
    }
    hidden = [np.max([each for pair, each in without.items() if name in pair], axis=0) for name in names]
    least: Array = np.min(hidden, axis=0)
    return least


def _of_accounts(scene: Scene, step: Step, looks: Index, who: Mask) -> Array:
    """Return (n_looks,) log e-values for failing of some accounts, at the control's mean: the least is below that."""
    parts = [np.full(len(looks), log(FRESH))]
    for number in np.unique(step.round):
        share = 1 - FRESH if number == 0 else FRESH * 2.0 ** -int(number)
        for is_first in (True, False):
            picked = who & (step.round == number) & ((step.of == 0) == is_first)
            evidence = _at_controls_mean if scene.ratio is None else _of_ratio
            parts.append(evidence(scene, step, looks, picked) + log(share / 2))
    together: Array = np.logaddexp.reduce(parts)
    return together


def _at_controls_mean(scene: Scene, step: Step, looks: Index, picked: Mask) -> Array:
    order = np.argsort(step.at[picked], kind="stable")
    at, arm = step.at[picked][order], step.arm[picked][order]
    badness = step.bad[picked][order] / np.maximum(step.of[picked][order], 1)
    upto = np.searchsorted(at, looks, side="right")
    n = [_upto(arm == which, upto) for which in (0, 1)]
    mean = [
        _upto(np.where(arm == which, badness, 0.0), upto) / np.maximum(count, 1)
        for which, count in zip((0, 1), n, strict=True)
    ]
    found = np.full(len(looks), -np.inf)
    allowed = np.minimum(1.0, mean[0] + scene.margin)
    # No bet on numbers in [0, 1] wins more than n times the divergence of a coin with their mean.
    most = np.maximum(n[1], 1) * _divergence(mean[1], allowed)
    may = np.flatnonzero((mean[1] > allowed) & (n[0] > 0) & (most >= _HOPELESS))
    if len(may):
        boundary = allowed[may]
        mine = _capital(badness, arm == 1, upto[may], n[1][may], boundary)
        theirs = _capital(1 - badness, arm == 0, upto[may], n[0][may], 1 - mean[0][may])
        found[may] = mine + theirs
    return found


def _of_ratio(scene: Scene, step: Step, looks: Index, picked: Mask) -> Array:
    """Return (n_looks,) what bets on whose the bad requests are have won: no bound, but the gate's own number."""
    order = np.argsort(step.at[picked], kind="stable")
    arm = step.arm[picked][order]
    badness = step.bad[picked][order] / np.maximum(step.of[picked][order], 1)
    upto = np.searchsorted(step.at[picked][order], looks, side="right")
    allowed = _chance(scene.ratio or 1.0, scene.weight)
    won = []
    for times in TIMES:
        other = _chance((scene.ratio or 1.0) * times, scene.weight)
        gain = np.where(arm == 1, other / allowed - 1, (1 - other) / (1 - allowed) - 1)
        won.append(_upto(np.log1p(badness * gain), upto))
    together: Array = np.logaddexp.reduce(won)
    return together - log(len(TIMES)) + _ROUNDING


def _chance(ratio: float, weight: float) -> float:
    return ratio * weight / (ratio * weight + 1 - weight)


def _divergence(one: Array, other: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, p * np.log(p / q), 0.0) for p, q in ((one, other), (1 - one, 1 - other))]
    found: Array = parts[0] + parts[1]
    return found


def _upto(values: Array, upto: Index) -> Array:
    found: Array = np.concatenate([[0.0], np.cumsum(values)])[upto]
    return found


def _capital(values: Array, mine: Mask, upto: Index, n: Array, boundary: Array) -> Array:
    """Return the log e-values against "the mean is at most `boundary`", with what is kept of the capital."""
    gains = np.array(
        [
            share + _upto(np.where(mine, np.log1p(bet * values), 0.0), upto) - n * np.log1p(bet * boundary)
            for share, bet in zip(_LOG_SHARES, _BETS, strict=True)
        ]
    )
    top = np.maximum(gains.max(axis=0), 0.0)
    found: Array = top + np.log(RESERVE * np.exp(-top) + (1 - RESERVE) * np.exp(gains - top).sum(axis=0))
    return found


def _streams(scene: Scene, step: Step, look: float) -> Streams:
    """Return what had counted by then."""
    seen = step.at <= look
    names = range(max(1, len(scene.accounts)))
    accounts = [
        AccountStreams(
            account=str(name),
            **{arm: _arm(step, seen & (step.arm == which) & (step.account == name)) for which, arm in _ARMS},
        )
        for name in names
    ]
    accounts.sort(key=lambda each: -each.n)
    whole = {arm: _arm(step, seen & (step.arm == which)) for which, arm in _ARMS}
    return Streams(
        control=whole["control"],
        candidate=whole["candidate"],
        accounts=tuple(accounts),
        callers=len(accounts),
        weight=round(TOTAL_WEIGHT * scene.weight),
    )


def _arm(step: Step, picked: Array) -> ArmUnits:
    counts = np.bincount((_EACH * (_EACH * step.round[picked] + step.of[picked]) + step.bad[picked]).astype(int))
    found: dict[int, dict[tuple[int, int], int]] = {}
    for code in np.flatnonzero(counts):
        number, of, bad = int(code) // _EACH**2, int(code) // _EACH % _EACH, int(code) % _EACH
        found.setdefault(number, {})[bad, of] = int(counts[code])
    shares = {number: _shares(kinds) for number, kinds in found.items()}
    return ArmUnits(whole=shares.pop(0, NO_SHARES), rounds=tuple(shares.items()))


def _shares(kinds: dict[tuple[int, int], int]) -> Shares:
    bad = kinds.pop((1, 0), 0)
    first = Count(n=kinds.pop((0, 0), 0) + bad, bad=bad)
    return Shares(first=first, over=tuple(sorted((bad, of, n) for (bad, of), n in kinds.items())))
