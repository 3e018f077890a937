"""What is exported of pairs: means over bounded windows, noise beside them, counts that only grow."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric

from evaluators.observation import Drift, Kind, NoDrift, Outcome, Score, ScoredPair, Unscored
from gateway.admin.shadow.metrics_collector import ShadowMetricsCollector, calibrations
from gateway.admin.shadow.windows import (
    BLOCK_PAIRS,
    MAX_BLOCKS,
    MAX_SECONDS,
    MAX_WINDOWS,
    Block,
    Board,
    mean_scores,
)
from gateway.observe.drift_view import DriftStanding
from gateway.observe.shadow_counts import ShadowReading
from gateway.observe.shadow_metrics import shadow_series

CONTROL, CANDIDATE = "support@24e3a56d83d9", "support@9d1c44aa0b17"
KEY = ("support", CANDIDATE, "candidate")


def drift(kl: float, top1: float = 1.0, moved: float = 0.0) -> Drift:
    return Drift(n_tokens=10, log_ratio=kl, kl=kl, kl_bound=max(0.0, 0.75 * kl), moved_share=moved, top1_agreement=top1)


def judged(kind: Kind = Kind.CANDIDATE, *, at: float = 1_000.0, alias: str = "support", **more: Any) -> ScoredPair:
    other = CONTROL if kind is Kind.NOISE else CANDIDATE
    values: dict[str, Any] = {
        "sample": "0" * 32,
        "alias": alias,
        "kind": kind,
        "control": CONTROL,
        "other": other,
        "at": at,
        "scored_at": at + 2,
    }
    return ScoredPair(**{**values, **more})


def score(value: float) -> Score:
    return Score(value=value, version="1")


def board_of(pairs: Iterable[ScoredPair]) -> Board:
    board = Board()
    for each in pairs:
        board.observe(each)
    return board


def samples(reading: ShadowReading) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families: list[Metric] = list(shadow_series(reading))
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value for family in families for each in family.samples
    }


def test_a_window_has_the_means_of_what_could_be_scored() -> None:
    outcomes: list[dict[str, Outcome]] = [
        {"chrf": score(1.0)},
        {"chrf": score(0.5), "judge": score(0.0)},
        {"chrf": Unscored(reason="empty", version="1")},
    ]
    board = board_of(judged(scores=each, drift=drift(0.2, top1=0.9, moved=0.1)) for each in outcomes)
    window = board.reading(1_010.0).windows[KEY]
    assert window.n == 3
    assert window.scores == pytest.approx(
        {"chrf": 0.75, "judge": 0.0, "kl": 0.2, "kl_bound": 0.15, "token_flip": 0.1, "moved_share": 0.1}
    )


def test_a_pair_whose_drift_could_not_be_scored_counts_for_no_divergence() -> None:
    board = board_of([judged(drift=NoDrift(reason="no_tokens", version="1")), judged(drift=drift(0.4))])
    reading = board.reading(1_010.0)
    assert reading.windows[KEY].scores["kl"] == pytest.approx(0.4)
    assert reading.pairs[KEY] == 2
    assert sum(reading.kl[KEY].counts) == 1


def test_excess_is_what_noise_does_not_explain() -> None:
    pairs = [judged(scores={"chrf": score(0.6)}, drift=drift(0.5))]
    pairs += [judged(Kind.NOISE, scores={"chrf": score(0.9)}, drift=drift(0.1))]
    window = board_of(pairs).reading(1_010.0).windows[KEY]
    assert window.noise == pytest.approx(
        {"chrf": 0.9, "kl": 0.1, "kl_bound": 0.075, "token_flip": 0.0, "moved_share": 0.0}
    )
    assert window.excess["chrf"] == pytest.approx(0.3)
    assert window.excess["kl"] == pytest.approx(0.4)
    assert "kl_bound" not in window.excess, "a bound less a bound bounds nothing"


def test_a_negative_estimate_is_part_of_the_mean_and_counts_as_0_in_the_histogram() -> None:
    reading = board_of([judged(drift=drift(-0.2)), judged(drift=drift(0.4))]).reading(1_010.0)
    assert reading.windows[KEY].scores["kl"] == pytest.approx(0.1)
    assert (reading.kl[KEY].counts[0], reading.kl[KEY].sum) == (1, pytest.approx(0.4))


def test_pairs_of_before_there_were_estimates_show_their_bound_alone() -> None:
    old = msgspec.structs.replace(drift(0.4), kl=None)
    window = board_of([judged(drift=old)]).reading(1_010.0).windows[KEY]
    assert window.scores == pytest.approx({"kl_bound": 0.3, "token_flip": 0.0, "moved_share": 0.0})


def test_noise_has_no_floor_of_its_own() -> None:
    reading = board_of([judged(Kind.NOISE, drift=drift(0.0))]).reading(1_010.0)
    assert reading.windows["support", CONTROL, "noise"].noise == {}


def test_a_window_forgets_the_oldest_pairs_and_counts_go_on() -> None:
    first = [judged(scores={"chrf": score(0.0)}) for _ in range(BLOCK_PAIRS)]
    then = [judged(scores={"chrf": score(1.0)}) for _ in range(BLOCK_PAIRS * MAX_BLOCKS)]
    reading = board_of([*first, *then]).reading(1_010.0)
    assert reading.windows[KEY].scores["chrf"] == 1.0
    assert reading.windows[KEY].n == BLOCK_PAIRS * MAX_BLOCKS
    assert reading.pairs[KEY] == BLOCK_PAIRS * (MAX_BLOCKS + 1)


def test_a_window_of_yesterday_is_not_shown_as_today() -> None:
    board = board_of([judged(scores={"chrf": score(1.0)})])
    assert KEY in board.reading(1_002.0 + MAX_SECONDS).windows
    assert KEY not in board.reading(1_003.0 + MAX_SECONDS).windows


def test_the_windows_of_ever_new_versions_do_not_add_up_without_end() -> None:
    board = board_of(judged(alias=f"a{number}") for number in range(MAX_WINDOWS + 5))
    reading = board.reading(1_010.0)
    assert len(reading.pairs) == len(reading.windows) == len(reading.lag) == MAX_WINDOWS
    assert ("a4", CANDIDATE, "candidate") not in reading.pairs
    assert (f"a{MAX_WINDOWS + 4}", CANDIDATE, "candidate") in reading.pairs


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 30))
def test_blocks_add_up_however_pairs_are_spread_over_them(values: list[float], cut: int) -> None:
    blocks = [Block(), Block()]
    whole = Block()
    for place, value in enumerate(values):
        pair = judged(scores={"chrf": score(value)})
        blocks[place >= cut].add(pair)
        whole.add(pair)
    assert mean_scores(blocks) == pytest.approx(mean_scores([whole]))


def test_every_series_carries_what_the_board_saw() -> None:
    pairs = [
        judged(scores={"chrf": score(0.6), "judge": score(0.0)}, drift=drift(0.5, top1=0.8)),
        judged(Kind.NOISE, scores={"chrf": score(0.9), "judge": score(0.5)}, drift=drift(0.0)),
    ]
    found = samples(board_of(pairs).reading(1_010.0))
    labels = (("alias", "support"), ("kind", "candidate"), ("version", CANDIDATE))
    of_chrf = tuple(sorted((*labels, ("comparator", "chrf"))))
    assert found["loragate_shadow_pairs_total", labels] == 1
    assert found["loragate_drift_kl_nats_sum", labels] == 0.5
    assert found["loragate_drift_kl_nats_bucket", tuple(sorted((*labels, ("le", "0.3"))))] == 0
    assert found["loragate_drift_kl_nats_bucket", tuple(sorted((*labels, ("le", "1.0"))))] == 1
    assert found["loragate_token_flip_ratio", labels] == pytest.approx(0.2)
    assert found["loragate_shadow_score", of_chrf] == 0.6
    assert found["loragate_shadow_noise_floor", of_chrf] == 0.9
    assert found["loragate_shadow_excess", of_chrf] == pytest.approx(0.3)
    assert found["loragate_judge_win_ratio", labels] == 0.0
    assert found["loragate_judge_calibration", labels] == 0.5
    assert found["loragate_shadow_lag_seconds_count", (("alias", "support"),)] == 2


STANDING = DriftStanding(
    alias="support",
    version=CONTROL,
    what="output_length",
    n=900,
    psi=0.31,
    js=0.05,
    evidence=40.0,
    bound=30.0,
    run_length=10_000.0,
    alarm_at=1_000.0,
    why="answers are longer",
)


def heard(*, leads: bool = True) -> ShadowMetricsCollector:
    """One that is told by hand: the store is asked in `run` alone."""
    rollouts: Any = SimpleNamespace(
        watch=SimpleNamespace(listeners=[]),
        drift=SimpleNamespace(standing=lambda: (STANDING,)),
        state=SimpleNamespace(now=lambda: 1_010.0),
    )
    store: Any = None
    return ShadowMetricsCollector(store, rollouts, lambda: leads)


def test_evaluators_that_come_and_go_never_make_a_counter_fall() -> None:
    told = heard()
    told.take({"a": {"shed": {"engine_busy": 5}, "completed": 10}, "b": {"shed": {"engine_busy": 1}, "completed": 2}})
    told.take({"b": {"shed": {"engine_busy": 4}, "completed": 3}})
    told.take({"a": {"shed": {"engine_busy": 6}, "completed": 10}, "c": {"failed": {"refused": 2}, "completed": 1}})
    assert told.counts.shed == {"engine_busy": 10}
    assert told.counts.failed == {"refused": 2}
    assert told.counts.completed == 14
    assert told.counts.alive == 2


def test_what_an_evaluator_of_another_release_says_is_left_out() -> None:
    told = heard()
    told.take({"a": {"shed": ["engine_busy"], "failed": {"x": "many"}, "completed": None}})
    assert (told.counts.shed, told.counts.failed, told.counts.completed, told.counts.alive) == ({}, {}, 0, 1)


def test_a_judge_is_unfit_when_any_evaluator_has_found_it_so() -> None:
    told = heard()
    fit, unfit = {"state": "ok", "text": "ok: n=9"}, {"state": "flagged", "text": "flagged: n=9"}
    alive: dict[str, dict[str, Any]] = {
        "a": {"judge": {"support": fit, "legal": fit}},
        "b": {"judge": {"support": unfit, "legal": fit}},
        "c": {"judge": "none"},
    }
    told.take(alive)
    found = samples(told.reading())
    assert found["loragate_judge_flagged", (("alias", "support"),)] == 1.0
    assert found["loragate_judge_flagged", (("alias", "legal"),)] == 0.0
    assert calibrations(alive, "support") == ["flagged: n=9", "ok: n=9"]
    assert calibrations(alive, "legal") == ["ok: n=9"]


def test_a_gateway_that_does_not_lead_exports_nothing_of_pairs() -> None:
    for leads in (True, False):
        told = heard(leads=leads)
        told.observe(judged())
        assert bool(told.reading().pairs) is leads
        assert bool(told.reading().drift) is leads


def test_drift_over_time_is_exported_with_its_alarm() -> None:
    found = samples(heard().reading())
    labels = (("alias", "support"), ("metric", "output_length"), ("version", CONTROL))
    assert found["loragate_drift_psi", labels] == 0.31
    assert found["loragate_drift_evidence", labels] == 40.0
    assert found["loragate_drift_bound", labels] == 30.0
    assert found["loragate_drift_alarm", labels] == 1.0
