"""A report says what each version does differently, by task and beside noise, in numbers, words and plots."""

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.drift.token_kl import HISTOGRAM_BOUNDS
from evaluators.judge.verdict import Verdict
from evaluators.observation import Drift, Kind, Outcome, Score, ScoredPair, Unscored
from gateway.admin.models.shadow import ShadowReport
from gateway.admin.shadow.api import mirror_lines, summaries
from gateway.admin.shadow.discoveries import FALSE_DISCOVERIES
from gateway.admin.shadow.intervals import e_against, e_against_noise, estimate_of
from gateway.admin.shadow.report import MAX_POINTS, MAX_TASKS, comparisons_of, quantile, thin
from gateway.cli.shadow_html import PlotsMissing, page
from gateway.cli.shadow_table import show
from gateway.observe.mirror_counts import MirrorCounts
from gateway.pages.render import TEMPLATES
from gateway.plots.shadow import MAX_PANELS, plot_log_ratios, plot_scores_by_task
from gateway.rollout.gates.evidence_curve import MAX_EVIDENCE, trace_evidence
from gateway.rollout.gates.evidence_curve import MAX_POINTS as MAX_CURVE_POINTS
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.rollout import Phase, Rollout

CONTROL, CANDIDATE = "support@24e3a56d83d9", "support@9d1c44aa0b17"
HOSTILE = "<script>$x_$&'\"\n"


def score(value: float, control: float | None = None, candidate: float | None = None) -> Score:
    return Score(value=value, version="1", control=control, candidate=candidate)


def expected(control: float, candidate: float) -> Score:
    return score((1 + candidate - control) / 2, control, candidate)


def drift(nats: float, **more: Any) -> Drift:
    histogram = (8, 2, *(0,) * (len(HISTOGRAM_BOUNDS) - 1))
    values = {"n_tokens": 10, "log_ratio": nats, "moved_share": 0.1, "top1_agreement": 0.9, "histogram": histogram}
    return Drift(**{"kl": nats, "kl_bound": max(0.0, nats), **values, **more})


def judged(number: int, kind: Kind = Kind.CANDIDATE, **more: Any) -> ScoredPair:
    values: dict[str, Any] = {
        "number": number,
        "sample": f"{number:032x}",
        "session": f"{number:016x}",
        "alias": "support",
        "kind": kind,
        "control": CONTROL,
        "other": CONTROL if kind is Kind.NOISE else CANDIDATE,
        "at": 1_000.0 + number,
        "scored_at": 1_002.0 + number,
        "task": "facts",
        "control_tokens": 20,
        "other_tokens": 30,
        "prompt_tokens": 9,
    }
    return ScoredPair(**{**values, **more})


def pairs() -> list[ScoredPair]:
    """Forty pairs of two tasks, of which one got worse, and ten of noise."""
    found = []
    for number in range(1, 51):
        is_noise, is_fact = number % 5 == 0, number % 2 == 0
        is_bad = is_fact and not is_noise
        scores: dict[str, Outcome] = {
            "chrf": score(0.4 if is_bad else 0.9),
            "judge": score(0.0 if is_bad else 0.5),
            "expected": expected(1.0, 0.0 if is_bad else 1.0)
            if is_fact
            else Unscored(reason="no_expected", version="1"),
        }
        moved = ((HOSTILE, 3, -0.1, -9.0),) if is_bad else ()
        found.append(
            judged(
                number,
                Kind.NOISE if is_noise else Kind.CANDIDATE,
                task="facts" if is_fact else "support",
                scores=scores,
                drift=drift(1.0 if is_bad else 0.0 if is_noise else 0.1, top_moved=moved),
            )
        )
    return found


def figure(view: Any, name: str) -> Any:
    return next(each for each in view.figures if each.comparator == name)


def test_each_task_is_told_apart_from_the_others_and_held_against_its_own_noise() -> None:
    candidate, noise = comparisons_of(pairs())
    assert (candidate.kind, candidate.n, candidate.sessions) == (Kind.CANDIDATE, 40, 40)
    facts, support = candidate.tasks
    assert (facts.task, facts.n, support.task, support.n) == ("facts", 20, "support", 20)
    assert figure(facts, "kl").mean == pytest.approx(1.0)
    assert figure(support, "kl").mean == pytest.approx(0.1)
    assert figure(facts, "chrf").excess == pytest.approx(0.5)
    assert figure(support, "chrf").excess == pytest.approx(0.0)
    told = figure(candidate, "expected")
    assert (told.control, told.candidate, told.n, told.noise) == (1.0, 0.0, 20, 0.5)
    assert told.unscored == {"no_expected": 20}
    assert (noise.kind, noise.n, noise.version, noise.control) == (Kind.NOISE, 10, CONTROL, CONTROL)


def test_drift_is_told_with_its_noise_its_spread_and_the_tokens_that_moved_most() -> None:
    view = comparisons_of(pairs())[0].drift
    assert view is not None
    assert view.kl == pytest.approx(0.55)
    assert view.noise == 0.0
    assert view.quantiles == {"p50": 0.1, "p90": 1.0, "p99": 1.0, "max": 1.0}
    assert view.n_tokens == 400
    assert view.histogram == [320, 80, *(0,) * (len(HISTOGRAM_BOUNDS) - 1)]
    assert [(each.token, each.count, each.log_ratio) for each in view.top_moved] == [(HOSTILE, 20, pytest.approx(8.9))]


def told_apart() -> list[ScoredPair]:
    """Pairs whose estimate, bound and bytes differ; in each session of four one estimate is negative."""
    kls = (0.5, 0.3, 0.3, -0.1)
    return [
        judged(number, session=f"{number // 4}", drift=drift(kls[number % 4], kl_bound=0.2, n_tokens=10, n_bytes=40))
        for number in range(80)
    ]


def test_the_estimate_and_the_bound_of_drift_are_told_apart_each_with_its_interval() -> None:
    view = comparisons_of(told_apart())[0].drift
    assert view is not None
    assert (view.kl, view.kl_bound) == (pytest.approx(0.25), pytest.approx(0.2))
    assert view.low is not None
    assert view.kl_bound_low is not None
    assert view.low < 0.25 < (view.high or 0)
    assert view.kl_bound_low < 0.2 < (view.kl_bound_high or 0)
    assert view.quantiles["p50"] == pytest.approx(0.3)
    assert view.bits_per_byte == pytest.approx(0.25 * 10 / math.log(2) / 40)
    (task,) = comparisons_of(told_apart())[0].tasks
    assert figure(task, "kl_bound").mean == pytest.approx(0.2)
    assert figure(task, "kl").mean == pytest.approx(0.25)


def test_table_and_page_name_the_estimate_the_bound_and_the_bits_a_byte(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(told_apart())
    show(found)
    told = capsys.readouterr().out
    assert "KL estimated 0.2500, at least 0.2000 nats a token" in told
    assert "0.0902 bits a byte" in told
    rows = [line.split()[0] for line in told.splitlines() if line.startswith("  k")]
    assert rows == ["kl", "kl_bound"]
    text = read(page(found)).text
    for words in ("KL, estimated, nats a token", "KL at least", "KL, estimated, bits a byte", "0.0902"):
        assert words in text


def test_pairs_of_before_there_were_estimates_are_told_by_their_bound(capsys: pytest.CaptureFixture[str]) -> None:
    old = [msgspec.structs.replace(each, drift=drift(0.0, kl=None, kl_bound=0.2)) for each in told_apart()]
    view = comparisons_of(old)[0].drift
    assert view is not None
    assert (view.n, view.kl, view.low, view.quantiles, view.bits_per_byte) == (80, None, None, {}, None)
    assert view.kl_bound == pytest.approx(0.2)
    found = report(old)
    show(found)
    assert "KL not estimated, at least 0.2000 nats a token" in capsys.readouterr().out
    assert "KL at least" in read(page(found)).text


def test_words_that_a_route_does_not_keep_are_not_told() -> None:
    bare = drift(1.0, top_moved=(("", 3, -0.1, -9.0),))
    view = comparisons_of([judged(1, drift=bare)])[0].drift
    assert view is not None
    assert view.top_moved == []


def test_a_judge_is_told_with_what_it_says_of_a_version_against_itself() -> None:
    view = comparisons_of(pairs())[0].judge
    assert view is not None
    assert (view.n, view.wins, view.ties, view.losses) == (40, 0, 20, 20)
    assert view.win_ratio == pytest.approx(0.25)
    assert view.low is not None
    assert view.low < 0.25
    assert (view.noise, view.noise_n) == (0.5, 10)


def test_pairs_that_were_drawn_unevenly_are_weighed_and_get_no_plain_interval() -> None:
    drawn = [judged(1, scores={"judge": score(0.0)}, weight=1.0), judged(2, scores={"judge": score(1.0)}, weight=3.0)]
    view = comparisons_of(drawn)[0].judge
    assert view is not None
    assert view.win_ratio == pytest.approx(0.75)
    assert (view.low, view.high) == (None, None)


def test_noise_is_the_controls_and_else_the_versions_own() -> None:
    candidate = judged(1, drift=drift(0.5))
    own = judged(2, Kind.NOISE, control=CANDIDATE, other=CANDIDATE, drift=drift(0.2))
    of_control = judged(3, Kind.NOISE, drift=drift(0.1))
    for noise, floor in (([own], 0.2), ([own, of_control], 0.1), ([], None)):
        view = comparisons_of([candidate, *noise])[0].drift
        assert view is not None
        assert view.noise == floor


def test_an_interval_holds_the_mean_and_counts_a_session_once() -> None:
    low, high = estimate_of((f"s{number}", 0.2) for number in range(100)).interval()
    assert low is not None
    assert high is not None
    assert low < 0.2 < high
    one_by_one = [(f"s{number}", value) for number in range(20) for value in (0.0, 0.4)]
    assert estimate_of(one_by_one) == estimate_of((f"s{number}", 0.2) for number in range(20))
    assert estimate_of([("s", 0.2)] * 100).interval() == (None, None)


def test_an_interval_is_of_the_scale_that_is_given() -> None:
    estimate = estimate_of(((f"s{number}", 9.0 if number % 2 else 1.0) for number in range(200)), largest=5.0)
    low, high = estimate.interval()
    assert estimate.mean == pytest.approx(3.0)
    assert low is not None
    assert high is not None
    assert low < 3.0 < high < 5.0


SESSIONS = st.sampled_from([f"s{number}" for number in range(12)])


@given(st.lists(st.tuples(SESSIONS, st.floats(-1, 9)), min_size=1, max_size=80), st.sampled_from([1.0, 5.0]))
def test_a_mean_lies_in_its_interval_whatever_the_sessions(found: list[tuple[str, float]], largest: float) -> None:
    estimate = estimate_of(found, largest=largest)
    low, high = estimate.interval()
    if len({session for session, _ in found}) < 2:
        assert (low, high) == (None, None)
    else:
        assert low is not None
        assert high is not None
        assert 0 <= low <= estimate.mean <= high <= largest


@given(st.lists(st.tuples(SESSIONS, st.booleans(), st.booleans(), st.floats(0, 9)), min_size=2, max_size=60))
def test_every_mean_of_a_report_lies_in_its_interval(drawn: list[tuple[str, bool, bool, float]]) -> None:
    found = [
        judged(
            number,
            session=session,
            drift=drift(kl),
            scores={
                "expected": expected(float(control), float(candidate)),
                "chrf": score(min(1.0, kl / 9)),
                "judge": score(float(candidate)),
            },
        )
        for number, (session, control, candidate, kl) in enumerate(drawn)
    ]
    (view,) = comparisons_of(found)
    assert view.drift is not None
    assert view.judge is not None
    figures = [*view.figures, *(each for task in view.tasks for each in task.figures)]
    told: list[tuple[float | None, float | None, float | None]]
    told = [(each.mean, each.low, each.high) for each in figures]
    told += [(view.drift.kl, view.drift.low, view.drift.high), (view.judge.win_ratio, view.judge.low, view.judge.high)]
    for mean, low, high in told:
        assert mean is not None
        assert low is None or high is None or low <= mean <= high
    marked = figure(view, "expected")
    assert marked.candidate - marked.control == pytest.approx(2 * marked.mean - 1, abs=1e-9)


def test_a_busy_session_counts_once_in_the_mean_too() -> None:
    busy = [judged(1_000 + number, session="busy", scores={"expected": expected(1, 0)}) for number in range(100)]
    others = [judged(number, scores={"expected": expected(1, 1)}) for number in range(150)]
    told = figure(comparisons_of([*others, *busy])[0], "expected")
    assert (told.n, told.sessions) == (250, 151)
    assert told.candidate == pytest.approx(150 / 151)
    assert told.low <= told.mean <= told.high
    assert told.mean == pytest.approx((1 + 150 / 151 - 1) / 2)


def test_times_count_only_where_the_caller_got_controls_answer() -> None:
    timed = {"ttft": score(0.3)}
    served = [judged(number, scores=timed, served="candidate" if number % 2 else "control") for number in range(40)]
    told = figure(comparisons_of(served)[0], "ttft")
    assert (told.n, told.unscored) == (20, {"candidate_served": 20})


# What stands out


def test_what_differs_for_sure_stands_out_and_what_may_be_chance_does_not() -> None:
    found = [
        judged(
            number,
            Kind.NOISE if number % 3 == 0 else Kind.CANDIDATE,
            drift=drift(0.5 if number % 3 else 0.0),
            scores={
                "expected": expected(1, number % 2),
                "refusal": expected(0, 0),
                "chrf": score(0.9),
                "edit": score(0.5 if number % 3 else 0.9),
                "judge": score(0.5),
            },
        )
        for number in range(300)
    ]
    candidate, noise = comparisons_of(found)
    marks = {each.comparator: each.stands_out for each in candidate.figures}
    assert marks == {"chrf": False, "edit": True, "expected": True, "refusal": False}
    assert candidate.drift is not None
    assert candidate.drift.stands_out == {"kl": True, "token_flip": False, "moved_share": False}
    assert candidate.judge is not None
    assert candidate.judge.stands_out is False
    assert {each.comparator: each.stands_out for each in candidate.tasks[0].figures}["edit"] is True
    assert {each.stands_out for each in noise.figures} == {None}, "what they are held against is not marked"


def test_without_noise_nothing_is_said_of_a_similarity() -> None:
    told = figure(comparisons_of([judged(n, scores={"chrf": score(0.1)}) for n in range(50)])[0], "chrf")
    assert (told.e_value, told.stands_out) == (None, None)


def test_more_figures_ask_for_more_evidence_of_one_and_less_where_many_differ() -> None:
    def report_of(count: int, different: int) -> list[bool | None]:
        same, worse = expected(1, 1), expected(1, 0)
        found = [
            judged(number, scores={f"score:{name}": worse if name < different else same for name in range(count)})
            for number in range(11)
        ]
        return [each.stands_out for each in comparisons_of(found)[0].figures]

    assert report_of(1, 1) == [True]
    assert report_of(60, 1).count(True) == 0
    assert report_of(60, 60) == [True] * 60


def test_a_session_of_both_kinds_says_nothing_of_the_noise() -> None:
    trial = estimate_of((f"s{number}", 0.2) for number in range(60))
    noise = estimate_of((f"s{number}", 0.9) for number in range(30, 90))
    assert e_against_noise(trial, noise) == e_against_noise(trial, estimate_of((f"s{n}", 0.9) for n in range(60, 90)))
    assert e_against_noise(trial, estimate_of((f"s{number}", 0.9) for number in range(30))) is None


@pytest.mark.simulation
def test_of_what_is_marked_no_more_is_chance_than_is_said() -> None:
    draw = random.Random(13)
    shares = []
    for _ in range(40):
        found = [
            judged(
                number,
                task="",
                scores={
                    f"score:{name}": expected(draw.random() < 0.5, draw.random() < (0.5 if name < 12 else 0.05))
                    for name in range(16)
                },
            )
            for number in range(120)
        ]
        marked = [each.comparator for each in comparisons_of(found)[0].figures if each.stands_out]
        wrong = [name for name in marked if int(name.removeprefix("score:")) < 12]
        shares.append(len(wrong) / max(1, len(marked)))
        assert len(marked) - len(wrong) >= 3
    assert sum(shares) / len(shares) <= FALSE_DISCOVERIES


def test_evidence_against_a_mean_is_none_where_there_is_no_number() -> None:
    assert e_against(estimate_of([]), 0.5) == 1.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50).map(sorted), st.floats(0.01, 1))
def test_a_quantile_is_a_value_that_so_many_do_not_exceed(rising: list[float], share: float) -> None:
    found = quantile(rising, share)
    assert sum(value <= found for value in rising) >= share * len(rising) - 1e-9
    assert sum(value < found for value in rising) < share * len(rising)


@given(st.integers(1, 2_000), st.integers(2, 600))
def test_thinning_keeps_both_ends_and_the_order(count: int, most: int) -> None:
    found = list(thin(range(count), most))
    assert len(found) == min(count, most)
    assert (found[0], found[-1]) == (0, count - 1)
    assert found == sorted(set(found))


def test_a_report_is_bounded_whatever_callers_name_their_tasks() -> None:
    view = comparisons_of([judged(number, task=f"t{number}", drift=drift(0.1)) for number in range(1, 700)])[0]
    assert len(view.tasks) == MAX_TASKS
    assert len(view.points) == MAX_POINTS


def test_a_list_has_a_line_for_each_comparison_and_none_for_noise() -> None:
    (line,) = summaries(pairs())
    assert (line.version, line.control, line.n) == (CANDIDATE, CONTROL, 40)
    assert line.kl == pytest.approx(0.55)
    assert line.kl_noise == 0.0


def test_the_mirror_is_told_in_words() -> None:
    counts = MirrorCounts()
    counts.sample("support", "candidate")
    counts.sample("legal", "base")
    counts.skip("client_gone")
    counts.drop("queue_full")
    assert mirror_lines(counts, "support") == {
        "candidate sampled": 1,
        "skipped (client_gone, all aliases)": 1,
        "dropped (queue_full, all aliases)": 1,
    }


def report(found: list[ScoredPair] | None = None, **more: Any) -> ShadowReport:
    return ShadowReport.model_validate(answer(found, **more))


def answer(found: list[ScoredPair] | None = None, **more: Any) -> dict[str, Any]:
    """A report as the admin API answers with it."""
    comparisons = [each.model_dump(mode="json") for each in comparisons_of(pairs() if found is None else found)]
    gates = [
        {
            "gate": "kl",
            "verdict": "fail",
            "reason": "kl 0.55 > 0.1 (n=40, e=2,312)",
            "observed": 0.55,
            "limit": 0.1,
            "n": 40,
            "e_value": 2312.0,
            "is_muted": False,
            "is_critical": True,
            "first": 1,
            "last": 50,
            "against": [],
        },
    ]
    curve = {
        "gate": "kl",
        "bound": 400.0,
        "pass_bound": 100.0,
        "sessions": [0, 20, 40],
        "e_fail": [1.0, 30.0, 2312.0],
        "e_pass": [1, 0, 0],
    }
    rollout = {
        "id": "ro-5e1f09ab",
        "candidate": CANDIDATE,
        "control": CONTROL,
        "phase": "rolled_back",
        "is_open": False,
        "stage": 1,
        "gates": gates,
        "evidence": [curve],
    }
    values = {
        "alias": "support",
        "at": 2_000.0,
        "since": 900.0,
        "pairs": 50,
        "is_cut": False,
        "comparisons": comparisons,
        "rollout": rollout,
        "feedback": [{"arm": "control", "n": 4, "bad": 1}],
        "over_time": [
            {
                "version": CONTROL,
                "what": "output_length",
                "n": 900,
                "psi": 0.31,
                "js": 0.05,
                "evidence": 40.0,
                "bound": 30.0,
                "run_length": 10_000.0,
                "alarm_at": 1_500.0,
                "why": "answers are longer",
            }
        ],
        "queue": {"pending": 3, "claimed": 1, "failed": 2, "oldest_seconds": 12.0},
        "mirror": {"candidate sampled": 50},
        "calibration": ["ok: win rate 0.500 (right: 0.5)"],
        "shed": {"engine_busy": 7},
        "failed": {},
        "spent_tokens": 1234,
    }
    whole: dict[str, Any] = json.loads(json.dumps({**values, **more}))
    return whole


PLAN = parse_plan(
    {
        "shadow": {"pairs": 100, "idle": "1s", "gates": [{"kl": {"limit": 0.5}}, {"expected": {"margin": "20%"}}]},
        "steps": [{"weight": "50%", "gates": ["error_rate", {"kl": {"limit": 0.5}}]}, {"weight": "100%"}],
    }
)
ROLLOUT = Rollout(
    id="ro-1",
    alias="support",
    control=CONTROL,
    candidate=CANDIDATE,
    home=CONTROL,
    plan=PLAN,
    phase=Phase.SHADOW,
    stage=1,
)


def staged(number: int, kl: float, **more: Any) -> ScoredPair:
    return judged(number, **{"rollout": "ro-1", "stage": 1, "drift": drift(kl), **more})


def test_the_evidence_of_a_rollout_grows_to_what_its_gates_say() -> None:
    strangers = [staged(9_000, 5.0, rollout="ro-2"), staged(9_001, 5.0, other="support@000000000000")]
    found = trace_evidence(ROLLOUT, [*strangers, *(staged(number, 2.0) for number in range(60))], now=2_000.0)
    assert found is not None
    assert found.stage == 1
    kl, nothing = found.readings
    assert (kl.gate, kl.verdict, kl.n, kl.limit) == ("kl", Verdict.FAIL, 60, pytest.approx(0.5))
    assert (nothing.gate, nothing.verdict, nothing.n) == ("expected", Verdict.INCONCLUSIVE, 0)
    curve = found.curves[0]
    assert curve.sessions == list(range(61))  # a point for each session, not for the last look alone
    assert curve.e_fail[0] == 1.0
    assert curve.e_fail == sorted(curve.e_fail)
    assert curve.e_fail[-1] == pytest.approx(min(MAX_EVIDENCE, kl.e_value or 0.0))
    assert curve.bound == pytest.approx(1 / PLAN.alpha_per_gate)
    assert curve.pass_bound == pytest.approx(1 / PLAN.alpha)
    assert max(curve.e_fail) >= curve.bound


def test_a_curve_has_so_many_points_however_many_pairs_there_are() -> None:
    found = trace_evidence(ROLLOUT, (staged(number, 0.4) for number in range(3_000)), now=9_000.0)
    assert found is not None
    for curve in found.curves:
        assert len(curve.sessions) == len(curve.e_fail) == len(curve.e_pass) <= MAX_CURVE_POINTS + 1
    assert found.curves[0].sessions[-1] == found.readings[0].n == 3_000


def test_the_last_stage_that_has_pairs_is_told() -> None:
    ramping = replace(ROLLOUT, phase=Phase.CANARY, index=1, stage=2, weight=5_000)
    shadowed = [staged(number, 0.1) for number in range(10)]
    before = trace_evidence(ramping, shadowed, now=2_000.0)
    assert before is not None
    assert (before.stage, [each.gate for each in before.readings]) == (1, ["kl", "expected"])
    after = trace_evidence(ramping, [*shadowed, staged(11, 0.1, stage=2)], now=2_000.0)
    assert after is not None
    assert (after.stage, [each.gate for each in after.readings]) == (2, ["kl"])
    assert trace_evidence(ramping, [], now=2_000.0) is None


def test_pairs_of_a_stage_that_the_plan_does_not_have_have_no_curve() -> None:
    assert trace_evidence(ROLLOUT, [staged(1, 0.1, stage=9)], now=2_000.0) is None


class Reader(HTMLParser):
    """Collects the tags and the text of a page, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.fetches: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = {"src", "href", "xlink:href", "action"}
        self.fetches += [f"{tag} {value}" for name, value in attrs if name in links and not str(value).startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    return reader


@pytest.fixture(scope="module")
def plain_page() -> str:
    """The page of `report()`: drawn once, since its four plots take a second."""
    return page(report())


def test_the_page_stands_for_itself(plain_page: str) -> None:
    reader = read(plain_page)
    assert "script" not in reader.tags
    assert reader.fetches == []
    assert "<script>$x_$&" in reader.text
    assert reader.tags.count("svg") == 4


def with_every_text(value: Any, change: Callable[[str], str]) -> Any:
    """A report with each text changed but those that are words of ours, of which there are a few, fixed ones."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [with_every_text(each, change) for each in value]
    if isinstance(value, dict):
        of_ours = ("kind", "verdict", "phase")
        return {name: each if name in of_ours else with_every_text(each, change) for name, each in value.items()}
    return value


def test_no_text_of_a_report_becomes_markup(plain_page: str) -> None:
    """Aliases, versions, tasks, tokens of prompts and outputs, reasons, whatever comes in, wherever it stands."""
    text = "</p><script src='x'><i>&{{7}}$^{"
    changed = with_every_text(answer(), lambda word: word + text)
    plain, hostile = read(plain_page), read(page(ShadowReport.model_validate(changed)))
    assert set(hostile.tags) == set(plain.tags)
    assert {"script", "i"} & set(hostile.tags) == set()
    assert hostile.fetches == []
    assert hostile.tags.count("svg") == 4
    for whole in (f"Shadow report: support{text}", f"facts{text}"):
        assert whole in hostile.text
    for word in (
        CANDIDATE,
        "<script>$x_$&",
        "facts",
        "expected",
        "kl 0.55 > 0.1",
        "answers are longer",
        "ok: win rate",
    ):
        assert word in hostile.text


def test_markup_passes_unescaped_in_one_place_of_the_templates() -> None:
    unescaped = [
        (path.name, line)
        for path in sorted(TEMPLATES.glob("*"))
        for line in path.read_text().splitlines()
        if re.search(r"\|\s*safe|autoescape|Markup", line)
    ]
    assert unescaped == [("parts.html.j2", "{% macro plot(svg) %}{{ svg | safe }}{% endmacro %}")]


def test_the_page_says_what_the_report_says(plain_page: str) -> None:
    text = read(plain_page).text
    for words in (
        CANDIDATE,
        "rolled back",
        "kl 0.55 > 0.1 (n=40, e=2,312)",
        "facts",
        "no_expected",
        "engine_busy",
        "3 waiting",
        "1,234 tokens",
        "answers are longer",
        "-100.0% *",
        "at most 5 % differ by chance",
        "ok: win rate 0.500",
        "against itself: noise",
    ):
        assert words in text


def test_every_plot_is_a_drawing_with_its_words_as_text(plain_page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", plain_page, re.DOTALL)
    for drawing, words in zip(
        drawings,
        (
            ("Gate kl", "fails from 400"),
            ("limit 0.1", "noise 0.0000", "facts", "mean so far"),
            ("80.0%", "noise", "share of the tokens"),
            ("expected: control → version", "chrf: noise → version", "facts (20)"),
        ),
        strict=True,
    ):
        root = ElementTree.fromstring(drawing)
        told = "".join(root.itertext())
        assert root.tag.endswith("svg")
        assert [each for each in words if each not in told] == []


def test_equal_figures_make_equal_plots() -> None:
    candidate = report().comparisons[0]
    assert candidate.drift is not None
    first, second = (plot_log_ratios(candidate, candidate.drift, None) for _ in range(2))
    assert first == second


def test_a_plot_of_tasks_shows_the_comparators_that_moved_most() -> None:
    scores = {f"c{number}": score(1 - number / 20) for number in range(20)}
    same = {f"c{number}": score(1.0) for number in range(20)}
    found = [judged(1, scores=scores), judged(2, Kind.NOISE, scores=same)]
    drawing = plot_scores_by_task(report(found).comparisons[0])
    assert drawing is not None
    assert drawing.count("noise → version") == MAX_PANELS
    assert "c19: noise" in drawing


def test_a_report_without_pairs_is_told_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = report([], rollout=None, over_time=[], pairs=0, spent_tokens=None, feedback=[], shed={}, mirror={})
    assert "Shadow report" in read(page(nothing)).text
    show(nothing)
    assert "0 pairs" in capsys.readouterr().out


def test_without_matplotlib_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(PlotsMissing, match=r"loragate\[plots\]"):
        page(report())


def test_the_table_has_a_column_for_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    show(report())
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if "COMPARATOR" in line)
    assert "facts (20)" in heading
    assert "support (20)" in heading
    of_expected = next(line for line in lines if line.strip().startswith("expected"))
    assert of_expected.count("100.0% → 0.0% *") == 2  # in all, and of the task
    assert any("95 % is at this look" in line and "* stands out" in line for line in lines)
    assert "20 no_expected" in of_expected
    of_kl = next(line for line in lines if line.strip().startswith("kl "))
    assert "1.0000" in of_kl
    assert "0.1000" in of_kl
    assert any("gate kl" in line and "e-value 2.31e+03 of 400" in line for line in lines)
    assert any("output_length PSI 0.31" in line and "answers are longer" in line for line in lines)
    assert any("moved most" in line and "'<script>" in line and "\\n" in line for line in lines)
