"""One function for each promise, each from settings to plain figures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, TypedDict

import numpy as np

from evaluators.judge.criteria import WEIGHT_ROOM
from evaluators.statistics import two_sample
from evaluators.statistics.betting import Evidence, evidence_of
from evaluators.statistics.confidence_sequence import lower_bound, upper_bound
from evaluators.statistics.multiple import bonferroni
from simulations.capital import (
    Array,
    Mask,
    chunks,
    crossings,
    first_crossings,
    log_e_above,
    log_e_below,
    run_lengths,
)
from simulations.traffic import Draw, Traffic, kl_values

KL_LIMIT = 0.5
KL_BOUNDARY = 1 - KL_LIMIT / 5
TURNS, CORRELATION = 10, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is simulated.

    Attributes:
        runs: Of each simulation.
        looks: Pairs in each run, with a look after each.
        seed: Of everything.
        alpha: One rollout's.
    """

    runs: int = 2_000
    looks: int = 5_000
    seed: int = 20_260_301
    alpha: float = 0.01

    @property
    def many(self) -> int:
        """Runs where shares close to alpha are counted: 2,000 leave them uncertain by a fifth of a point."""
        return 5 * self.runs

    def traffic(self, name: str, looks: int | None = None) -> Traffic:
        """Return traffic with a seed of its own for each simulation."""
        return Traffic(self.seed + sum(map(ord, name)), looks or self.looks)


def _pulled(draw: Draw) -> Draw:
    """Preferences as they are counted with weights of 1: drawn towards a half (`CriterionEvidence`)."""
    return lambda runs: 0.5 + (draw(runs) - 0.5) / WEIGHT_ROOM


def _rate(found: Array, within: float | None = None) -> float:
    return float(np.mean(np.isfinite(found) if within is None else found <= within))


def false_rollbacks(size: Size) -> dict[str, float]:
    """Return, for each kind of metric, the share of harmless candidates that ever fail, looked at after every pair."""
    traffic = size.traffic("false rollbacks")
    cases: dict[str, tuple[Draw, float]] = {
        "binary, 12 % discordant": (traffic.pass_rates(0.0, 0.12), 0.5),
        "binary, 2 % discordant": (traffic.pass_rates(0.0, 0.02), 0.5),
        "score": (traffic.scores(), 0.5),
        "kl, at its limit": (traffic.divergences(KL_LIMIT), KL_BOUNDARY),
        "kl, 0.1 nats below": (traffic.divergences(KL_LIMIT - 0.1), KL_BOUNDARY),
        "judge": (_pulled(traffic.wins(0.5)), 0.5),
        "judge, 40 % ties": (_pulled(traffic.wins(0.5, 0.4)), 0.5),
        "binary, worse by the whole margin": (traffic.pass_rates(-0.05, 0.12), 0.475),
    }
    return {
        name: _rate(crossings(draw, partial(log_e_below, boundary=boundary), size.many, size.alpha))
        for name, (draw, boundary) in cases.items()
    }


def false_passes(size: Size) -> dict[str, float]:
    """Return the share of candidates exactly at what is forbidden that ever pass."""
    traffic = size.traffic("false passes")
    cases: dict[str, tuple[Draw, float]] = {
        "binary, worse by the margin": (traffic.pass_rates(-0.05, 0.12), 0.475),
        "kl, at its limit": (traffic.divergences(KL_LIMIT), KL_BOUNDARY),
        "judge, worse by the margin": (lambda runs: 0.45 + (traffic.wins(0.45)(runs) - 0.45) / WEIGHT_ROOM, 0.45),
    }
    return {
        name: _rate(crossings(draw, partial(log_e_above, boundary=boundary), size.many, size.alpha))
        for name, (draw, boundary) in cases.items()
    }


def ten_criteria(size: Size, count: int = 10) -> dict[str, float]:
    """Return how often any of ten harmless criteria of the same pairs fails: alone, by Bonferroni, by e-BH."""
    traffic = size.traffic("ten criteria")
    draw = traffic.pass_rates(0.0, 0.12)
    hits = {"each at the whole alpha": 0, "Bonferroni": 0, "e-BH": 0}
    ranks = np.arange(1, count + 1)
    for runs in chunks(size.runs, 20):
        common = draw(runs)
        found = np.empty((runs, size.looks, count))
        for each in range(count):  # a half of the pairs tells all criteria the same
            own = np.where(traffic.rng.random(common.shape) < 0.5, common, draw(runs))
            found[:, :, each] = log_e_below(own, 0.5)
        found[:, :, ::-1].sort(axis=2)  # the largest first
        hits["each at the whole alpha"] += int((found[:, :, 0] >= -log(size.alpha)).any(axis=1).sum())
        hits["Bonferroni"] += int((found[:, :, 0] >= -log(bonferroni(size.alpha, count))).any(axis=1).sum())
        by_rank = found + np.log(ranks) >= log(count / size.alpha)
        hits["e-BH"] += int(by_rank.any(axis=(1, 2)).sum())
    return {name: hit / size.runs for name, hit in hits.items()}


# Name → drawn how, against which boundary, after how many pairs at most, and the demand on the median.
Power = tuple[Callable[[Traffic], Draw], float, int, int | None]
POWER: dict[str, Power] = {
    "pass rate -5 points, 12 % discordant": (lambda t: t.pass_rates(-0.05, 0.12), 0.5, 4_000, 550),
    "pass rate -10 points, 12 % discordant": (lambda t: t.pass_rates(-0.10, 0.12), 0.5, 1_000, 140),
    "judge's win rate 0.45": (lambda t: _pulled(t.wins(0.45)), 0.5, 8_000, 950),
    "judge's win rate 0.40": (lambda t: _pulled(t.wins(0.40)), 0.5, 2_000, None),
    "pass rate -2 points, 12 % discordant": (lambda t: t.pass_rates(-0.02, 0.12), 0.5, 12_000, None),
    "score -5 points": (lambda t: t.scores(-0.05), 0.5, 4_000, None),
    "kl 0.7 nats, limit 0.5": (lambda t: t.divergences(0.7), KL_BOUNDARY, 4_000, None),
    "pass rate from 100 % to 0": (lambda t: t.pass_rates(-1.0, 1.0), 0.5, 100, None),
    "judge never for the candidate": (lambda t: _pulled(t.wins(0.0)), 0.5, 200, None),
}
PASSING: dict[str, Power] = {
    "as good, 12 % discordant, margin 5 points": (lambda t: t.pass_rates(0.0, 0.12), 0.475, 4_000, None),
    "as good, 2 % discordant, margin 5 points": (lambda t: t.pass_rates(0.0, 0.02), 0.475, 2_000, None),
    "as good, 1 % discordant, margin 2 points": (lambda t: t.pass_rates(0.0, 0.01), 0.49, 4_000, None),
    "kl 0.1 nats, limit 0.5": (lambda t: t.divergences(0.1), KL_BOUNDARY, 1_000, None),
    "kl 0.3 nats, limit 0.5": (lambda t: t.divergences(0.3), KL_BOUNDARY, 4_000, None),
    "judge 0.5, 40 % ties, margin 0.05": (
        lambda t: lambda runs: 0.45 + (t.wins(0.5, 0.4)(runs) - 0.45) / WEIGHT_ROOM,
        0.45,
        8_000,
        None,
    ),
}


class PairsNeeded(TypedDict):
    """How many pairs a decision takes; `nine_in_ten` is None where fewer came to one."""

    median: float
    nine_in_ten: float | None
    demand: float | None


def power(size: Size, cases: dict[str, Power], *, failing: bool) -> dict[str, PairsNeeded]:
    """Return how many pairs (of sessions of one pair) it takes to fail, or to pass: median and nine in ten."""
    evidence = log_e_below if failing else log_e_above
    told: dict[str, PairsNeeded] = {}
    for name, (make, boundary, looks, demand) in cases.items():
        draw = make(size.traffic(name, looks))
        found = crossings(draw, partial(evidence, boundary=boundary), size.runs, size.alpha)
        quantiles = np.quantile(found, [0.5, 0.9], method="higher")
        told[name] = {
            "median": float(quantiles[0]),
            "nine_in_ten": float(quantiles[1]) if np.isfinite(quantiles[1]) else None,
            "demand": demand,
        }
    return told


def coverage(size: Size, alpha: float = 0.05) -> dict[str, dict[str, Any]]:
    """Return how often the truth is ever outside of its bounds, and by which look."""
    traffic = size.traffic("coverage")
    cases: dict[str, tuple[Draw, float]] = {
        "zeros and ones, 0.05": (traffic.ones(0.05), 0.05),
        "zeros and ones, 0.5": (traffic.ones(0.5), 0.5),
        "Beta(8, 2)": (traffic.shares(8, 2), 0.8),
        "binary difference": (traffic.pass_rates(-0.05, 0.12), 0.475),
        "kl of 0.5 nats": (traffic.divergences(0.5), 0.9),
    }
    told: dict[str, dict[str, Any]] = {}
    for name, (draw, truth) in cases.items():
        found = []
        for runs in chunks(size.runs):
            values = draw(runs)
            sides = np.maximum(log_e_above(values, truth), log_e_below(values, truth))
            found.append(first_crossings(sides, alpha / 2))
        told[name] = _by_look(np.concatenate(found), size.looks)
    told["a mean that wanders, its mean so far"] = _wandering(size, alpha)
    return told


def _by_look(found: Array, looks: int) -> dict[str, Any]:
    marks = sorted({min(looks, mark) for mark in (10, 30, 100, 300, 1_000, 3_000, 5_000)})
    return {"ever": _rate(found), "by_look": {str(mark): _rate(found, mark) for mark in marks}}


def _wandering(size: Size, alpha: float) -> dict[str, Any]:
    """Zeros and ones whose chance follows a daily cycle: what is bounded is the mean of the chances so far."""
    rng = size.traffic("wandering").rng
    at = np.arange(size.looks)
    chance = 0.3 + 0.25 * np.sin(2 * np.pi * at / 1_000)
    means = np.cumsum(chance) / (at + 1)
    marks = np.unique(np.geomspace(5, size.looks, 40).astype(int))
    runs = min(size.runs, 500)
    values = (rng.random((runs, size.looks)) < chance).astype(float)
    ones = values.cumsum(axis=1)
    missed = np.full(runs, np.inf)
    for run in range(runs):
        for mark in marks:
            seen = int(ones[run, mark - 1])
            evidence = Evidence().add(1.0, seen).add(0.0, int(mark) - seen)
            low, high = lower_bound(evidence, alpha / 2), upper_bound(evidence, alpha / 2)
            if not low <= means[mark - 1] <= high:
                missed[run] = mark
                break
    return _by_look(missed, size.looks)


def peeking(size: Size, alpha: float = 0.05) -> dict[str, Any]:
    """Return how often a fixed 1 - alpha interval, watched from n = 30 on, excludes the truth; and ours."""
    traffic = size.traffic("peeking")
    draw, fixed, ours = traffic.ones(0.5), [], []
    n = np.arange(1, size.looks + 1)
    for runs in chunks(size.runs):
        values = draw(runs)
        means = values.cumsum(axis=1) / n
        outside = (np.abs(means - 0.5) > 1.959964 * np.sqrt(means * (1 - means) / n)) & (n >= 30)
        fixed.append(np.where(outside.any(axis=1), outside.argmax(axis=1) + 1.0, np.inf))
        sides = np.maximum(log_e_above(values, 0.5), log_e_below(values, 0.5))
        ours.append(first_crossings(sides, alpha / 2))
    return {
        "fixed 95 % interval": _by_look(np.concatenate(fixed), size.looks),
        "confidence sequence": _by_look(np.concatenate(ours), size.looks),
    }


def sessions(size: Size) -> dict[str, dict[str, Any]]:
    """Return false rollbacks on traffic in sessions: each pair taken for itself, and each session once."""
    traffic = size.traffic("sessions")
    draw = traffic.turns(0.12, CORRELATION, TURNS)
    each, ours = [], []
    for runs in chunks(size.runs):
        pairs = draw(runs)
        each.append(first_crossings(log_e_below(pairs, 0.5), size.alpha))
        means = pairs.reshape(runs, -1, TURNS).mean(axis=2)
        ours.append(first_crossings(log_e_below(means, 0.5), size.alpha) * TURNS)
    return {
        "each pair for itself (naive)": _by_look(np.concatenate(each), size.looks),
        "each session once (ours)": _by_look(np.concatenate(ours), size.looks),
    }


def weights(size: Size, share: float = 0.2) -> dict[str, float]:
    """Return false rollbacks of a judge that sees moved pairs oftener: with weights undone, and without.

    Three pairs in ten have moved; of these the candidate loses more, of the others it wins more, and over all
    pairs it wins half.
    """
    traffic = size.traffic("weights")
    rng, most = traffic.rng, WEIGHT_ROOM / share
    hits = {"weighted (ours)": 0, "taken as they come": 0}
    for runs in chunks(size.runs):
        chance_moved, chance_still = min(1.0, share * 3), share * 0.5
        chosen_moved = 0.3 * chance_moved / (0.3 * chance_moved + 0.7 * chance_still)
        moved = rng.random((runs, size.looks)) < chosen_moved
        won = (rng.random(moved.shape) < np.where(moved, 0.43, 0.53)).astype(
            np.float64
        )  # 0.3 · 0.43 + 0.7 · 0.53 = 0.5
        weight = 1 / np.where(moved, chance_moved, chance_still)
        counted: Array = 0.5 + weight / most * (won - 0.5)
        plain: Array = 0.5 + (won - 0.5) / WEIGHT_ROOM
        for name, values in (("weighted (ours)", counted), ("taken as they come", plain)):
            hits[name] += int(np.isfinite(first_crossings(log_e_below(values, 0.5), size.alpha)).sum())
    return {name: hit / size.runs for name, hit in hits.items()}


def against_noise(size: Size, noise_share: float = 0.1) -> dict[str, float]:
    """Return false rollbacks of a similarity that is the same as noise pairs', with a look after every pair.

    The e-value is the least over what the noise's mean might be, so it is at most that for the true
    mean; only where that one reaches 1/alpha the least is looked for.
    """
    rng = size.traffic("against noise").rng
    runs, hits = size.runs, 0
    for chunk in chunks(runs):
        values = rng.beta(8, 2, (chunk, size.looks))
        is_noise = rng.random(values.shape) < noise_share
        at_truth = log_e_above(1 - values, 0.2, ~is_noise) + log_e_above(values, 0.8, is_noise)
        for run, look in _first_looks(at_truth >= -log(size.alpha)):
            hits += any(
                two_sample.log_e_worse(
                    evidence_of(values[run, : each + 1][~is_noise[run, : each + 1]]),
                    evidence_of(values[run, : each + 1][is_noise[run, : each + 1]]),
                    0.0,
                )
                >= -log(size.alpha)
                for each in look
            )
    return {"similarity, margin 0": hits / runs}


def _first_looks(reached: Mask) -> list[tuple[int, list[int]]]:
    return [(int(run), np.flatnonzero(reached[run]).tolist()) for run in np.flatnonzero(reached.any(axis=1))]


def noise_power(size: Size) -> dict[str, dict[str, float]]:
    """Return how many pairs it takes to find 10 points less similarity than noise, beyond a margin of 5."""
    rng = size.traffic("noise power").rng
    found: dict[str, list[float]] = {"one e-value for both (ours)": [], "two confidence sequences": []}
    runs = min(size.runs, 100)
    for _ in range(runs):
        candidate, noise = Evidence(), Evidence()
        waiting = dict.fromkeys(found, np.inf)
        for pair in range(1, 6_001):
            if rng.random() < 0.1:
                noise = noise.add(float(rng.beta(8, 2)))
            else:
                candidate = candidate.add(float(rng.beta(7, 3)))
            if pair % 20 or not noise.n:
                continue
            ours = two_sample.log_e_worse(candidate, noise, 0.05) >= -log(size.alpha)
            both = upper_bound(candidate, size.alpha / 2) < lower_bound(noise, size.alpha / 2) - 0.05
            for name, hit in zip(found, (ours, both), strict=True):
                waiting[name] = min(waiting[name], pair if hit else np.inf)
            if all(np.isfinite(each) for each in waiting.values()):
                break
        for name, each in waiting.items():
            found[name].append(each)
    return {name: {"median": float(np.median(each))} for name, each in found.items()}


def _ones(rng: np.random.Generator, rate: float, n: int) -> Array:
    """Return numbers that are 1 at that rate, and else 0."""
    return (rng.random(n) < rate).astype(float)


def alarms(size: Size, run_length: float = 1_000.0) -> dict[str, dict[str, float]]:
    """Return mean run lengths without a change, and delays after one."""
    rng = size.traffic("alarms").rng
    runs, most = size.runs, 20_000
    kl = kl_values(0.5) / 5
    steady: dict[str, tuple[Callable[[int], Array], float]] = {
        "zeros and ones at the limit 0.05": (partial(_ones, rng, 0.05), 0.05),
        "zeros and ones, 0.05, limit 0.10": (partial(_ones, rng, 0.05), 0.10),
        "kl of 0.5 nats at its limit": (lambda n: kl[rng.integers(0, len(kl), n)], 0.1),
        "Beta(8, 2) at the limit 0.8": (lambda n: rng.beta(8, 2, n), 0.8),
    }
    told = {}
    for name, (draw, limit) in steady.items():
        found = run_lengths(draw, limit, run_length, runs, most)
        told[name] = {"promised": run_length, "mean": float(found.mean()), "cut_off": float((found == most).mean())}
    for name, rate in (("refusals 5 % → 15 %, limit 10 %", 0.15), ("refusals 5 % → 30 %, limit 10 %", 0.30)):
        found = run_lengths(partial(_ones, rng, rate), 0.10, 100_000.0, runs, most)
        told[name] = {"promised": 100_000.0, "delay": float(np.median(found))}
    return told
