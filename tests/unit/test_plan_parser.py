"""Plans: from values and from one line, every problem at once, one canonical form and its hash."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.rollout.gates import GATES, kind_named
from gateway.rollout.gates.gate import Gate
from gateway.rollout.plan import MAX_TIME_SECONDS, Plan, Stage, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.plan_values import NotReadable, seconds_of, share_of, weight_of

STEP_KEYS = "weight, min_time, max_time, min_samples, max_samples, gates, share, idle"
# Of a shadow stage that names no gates, but for `kl`, which is muted.
QUIET = ("failed", "refusal", "repetition", "truncated")
ERROR_RATE = Gate(name="error_rate", margin=0.01)
LATENCY = Gate(name="latency", margin=0.05, quantile=0.95)


def problems(values: object) -> list[str]:
    with pytest.raises(InvalidPlan) as caught:
        parse_plan(values)
    return list(caught.value.problems)


def step(**values: Any) -> dict[str, Any]:
    return {"steps": [{"weight": "1%", **values}]}


def shadow(**values: Any) -> dict[str, Any]:
    return {"shadow": {"pairs": 9, **values}}


# What can be written


def test_a_plan_in_yaml_is_read_with_its_gates_and_defaults() -> None:
    plan = parse_plan(
        yaml.safe_load(
            """
            audit: true
            alpha: 2%
            shadow: {pairs: 500, max_pairs: 900, max_time: 2d, share: 100%, idle: 1m, gates: [manual]}
            steps:
              - {weight: 1%, min_time: 10m, min_samples: 400, max_samples: 90000, gates: [error_rate, manual]}
              - weight: 25 %
                min_time: 2 h
                gates:
                  error_rate: {margin: 0.5%, limit: 3%}
                  latency: {quantile: 0.99, margin: 0.01}
              - weight: 50%
              - weight: 100%
            """
        )
    )
    assert plan == Plan(
        needs_audit=True,
        promotes=True,
        alpha=0.02,
        stages=(
            Stage(
                weight=0,
                min_samples=500,
                max_samples=900,
                max_seconds=2 * 86400,
                gates=(Gate(name="manual"),),
                share=10_000,
                idle_seconds=60,
            ),
            Stage(
                weight=100,
                min_seconds=600,
                min_samples=400,
                max_samples=90_000,
                gates=(ERROR_RATE, Gate(name="manual")),
            ),
            Stage(
                weight=2_500,
                min_seconds=7_200,
                gates=(
                    Gate(name="error_rate", margin=0.005, limit=0.03),
                    Gate(name="latency", margin=0.01, quantile=0.99),
                ),
            ),
            Stage(weight=5_000, min_seconds=600, gates=(ERROR_RATE, LATENCY)),
        ),
    )
    assert plan.alpha_per_gate == 0.02 / 5
    assert [stage.is_shadow for stage in plan.stages] == [True, False, False, False]


@pytest.mark.parametrize("arrow", ["→", "->", " →\n  ", "->  "])
def test_the_one_line_of_the_issue_is_the_same_plan_as_written_out(arrow: str) -> None:
    line = "shadow 500 pairs → 1 % 10 min → 5 % → 25 % → 50 % → 100 %".replace("→", arrow)
    written = {
        "shadow": {"pairs": 500},
        "steps": [{"weight": weight, "min_time": "10m"} for weight in ("1%", "5%", "25%", "50%")]
        + [{"weight": "100%"}],
    }
    plan = parse_plan(line)
    assert plan == parse_plan(written)
    assert [stage.weight for stage in plan.stages] == [0, 100, 500, 2_500, 5_000]
    assert plan.promotes
    assert plan.stages[1].gates == (ERROR_RATE, LATENCY)


def test_in_one_line_a_time_holds_until_the_next_and_samples_for_their_step() -> None:
    plan = parse_plan("shadow 1 pair 1h → 0.5% → 1% 1h30m 5000 samples → 2%")
    assert [(stage.min_seconds, stage.min_samples) for stage in plan.stages] == [
        (3_600, 1),
        (600, 200),
        (5_400, 5_000),
        (5_400, 200),
    ]
    assert (plan.stages[1].weight, plan.promotes) == (50, False)


def test_gates_for_all_steps_may_be_given_once_and_a_step_may_have_its_own() -> None:
    plan = parse_plan({"gates": ["manual"], "steps": [{"weight": "1%"}, {"weight": "2%", "gates": []}]})
    assert [stage.gates for stage in plan.stages] == [(Gate(name="manual"),), ()]
    assert plan.alpha_per_gate == plan.alpha  # none is statistical


def test_shadow_alone_and_100_per_cent_alone_are_plans() -> None:
    assert parse_plan({"shadow": {"pairs": 5, "gates": []}, "steps": None}).stages == (
        Stage(weight=0, min_samples=5, max_samples=20, share=1_000, idle_seconds=30),
    )
    assert parse_plan("100%") == Plan(stages=(), promotes=True)


def test_a_long_least_time_moves_the_longest_along() -> None:
    (stage,) = parse_plan(step(min_time="2d")).stages
    assert (stage.min_seconds, stage.max_seconds) == (2 * 86400, 4 * 86400)
    assert parse_plan(step()).stages[0].max_seconds == MAX_TIME_SECONDS
    assert parse_plan(step(min_time="364d")).stages[0].max_seconds == 365 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        (" 10 min ", 600),
        ("1h30m", 5400),
        ("1 h 30 min", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
        ("30 sec", 30),
        (45, 45),
        ("0s", 0),
    ],
)
def test_times_are_written_as_people_write_them(text: object, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-1m", "10 mins", "0.5s", "1e3s", True, 1.5, None, "1m?", "1" * 40 + "s"]
)
def test_other_times_are_refused(text: object) -> None:
    with pytest.raises(NotReadable):
        seconds_of(text)


@pytest.mark.parametrize(("text", "points"), [("1%", 100), ("0.25 %", 25), ("100%", 10_000), (5, 5), ("0.01%", 1)])
def test_weights_are_per_cents_or_basis_points(text: object, points: int) -> None:
    assert weight_of(text) == points


@pytest.mark.parametrize("text", ["1", "0.001%", 0.5, True, None, "%", "1 percent"])
def test_other_weights_are_refused(text: object) -> None:
    with pytest.raises(NotReadable):
        weight_of(text)


def test_shares_are_per_cents_or_numbers() -> None:
    assert (share_of("1%"), share_of(0.25), share_of(0), share_of("0.1 %")) == (0.01, 0.25, 0.0, 0.001)
    refused: tuple[object, ...] = ("0.01", None, True, [])
    for odd in refused:
        with pytest.raises(NotReadable):
            share_of(odd)


# What is wrong


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        {
            "shadw": {},
            "shadow": {"pair": 5, "gates": ["error_rate"]},
            "steps": [
                {"weight": "5%", "gates": ["eror_rate"], "min_tme": "10m"},
                {"weight": "5%", "min_time": "soon"},
                {"weight": 0},
                {"weight": "101%"},
                "25%",
            ],
            "alpha": 0,
            "audit": "yes",
        }
    )
    assert found == [
        "plan.shadw: is not known; known are shadow, steps, gates, audit, alpha",
        "shadow.pair: is not known; known are pairs, max_pairs, share, idle, min_time, max_time, gates",
        "shadow.pairs: is missing; say how many pairs to compare, such as 500",
        "shadow.gates[0]: `error_rate` needs live traffic, which a candidate in shadow does not have",
        f"steps[0].min_tme: is not known; known are {STEP_KEYS}",
        f"steps[0].gates[0]: `eror_rate` is not one of {', '.join(GATES)}, score:NAME",
        "steps[1].min_time: `soon` is not a time such as 90s, 10m, 1h30m or 2d",
        "steps[2].weight: `0` is not above 0 % up to 100 %, such as 5%, or whole basis points in 1..10000",
        "steps[3].weight: `101%` is not above 0 % up to 100 %, such as 5%, or whole basis points in 1..10000",
        "steps[4]: `25%` is not a mapping such as {weight: 5%, min_time: 10m}",
        "steps[1].weight: `5 %` does not rise above 5 %",
        "alpha: `0` is not a chance between 0 and 1, such as 1%",
        "audit: `yes` is not true or false",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (7, "a plan is a mapping or one line of text, not `7`"),
        ({}, "plan: has neither `shadow` nor `steps`: nothing would be done"),
        ({"steps": []}, "plan: has neither"),
        ({"steps": 5}, "steps: `5` is not a list of at most 100 steps"),
        ({"steps": [{"weight": at + 1} for at in range(101)]}, "is not a list of at most 100 steps"),
        ({"shadow": 500}, "shadow: `500` is not a mapping such as {pairs: 500}"),
        ({"shadow": {"pairs": 0}}, "shadow.pairs: `0` is not a whole number in 1..1000000000"),
        ({"steps": [{}]}, "steps[0].weight: `None` is not above 0 %"),
        ({"steps": [{"weight": 10_001}]}, "steps[0].weight: `10001` is not above 0 %"),
        ({"steps": [{"weight": "100%"}, {"weight": "100%"}]}, "steps[1].weight: `100 %` does not rise above 100 %"),
        ({"steps": [{"weight": "50%"}, {"weight": "5%"}]}, "steps[1].weight: `5 %` does not rise above 50 %"),
        ({"steps": [{"weight": "100%", "min_time": "1h"}]}, "steps[0].min_time: a step of 100 % is the promotion"),
        (step(min_time="366d"), "steps[0].min_time: `366d` is not between 0s and 365d"),
        (step(min_time=-1), "steps[0].min_time: `-1` is not between 0s and 365d"),
        (step(max_time="5m"), "steps[0].max_time: `5m` is not at least min_time (600 s), and 1 s"),
        (step(min_time=0, max_time=0), "steps[0].max_time: `0` is not at least min_time (0 s), and 1 s"),
        (step(min_samples=-1), "steps[0].min_samples: `-1` is not a whole number in 0..1000000000"),
        (step(min_samples=True), "steps[0].min_samples: `True` is not a whole number"),
        (step(min_samples=10, max_samples=9), "steps[0].max_samples: `9` is not at least min_samples (10), and 1"),
        (step(min_samples=0, max_samples=0), "steps[0].max_samples: `0` is not at least min_samples (0), and 1"),
        (step(gates="manual"), "steps[0].gates: `manual` is not a list of error_rate, latency, feedback"),
        (step(gates=["manual", "manual"]), "steps[0].gates: `manual` stands there more than once"),
        (step(gates=[{"manual": {}, "latency": {}}]), "is not one of error_rate, latency, feedback, manual"),
        (step(gates=[7]), "steps[0].gates[0]: `7` is not one of"),
        (step(gates={"latency": 5}), "steps[0].gates[0].latency: `5` is not a mapping with margin, quantile"),
        (step(gates={"manual": "x"}), "steps[0].gates[0].manual: `x` is not a mapping with nothing"),
        (step(gates={"manual": {"margin": 1}}), "steps[0].gates[0].manual.margin: is not known; known are none"),
        (step(gates={"error_rate": {"margin": -0.1}}), "steps[0].gates[0].error_rate.margin: `-0.1` is not a share"),
        (step(gates={"error_rate": {"margin": "100%"}}), "margin: `100%` is not a share from 0 % to below 100 %"),
        (step(gates={"error_rate": {"limit": "much"}}), "limit: `much` is not a share such as 1% or 0.01"),
        (step(gates={"latency": {"quantile": 0}}), "quantile: `0` is not a share from 0 %"),
        ({"alpha": 1.0, "steps": [{"weight": "1%"}]}, "alpha: `1.0` is not a chance between 0 and 1"),
        ({"alpha": "x", "steps": [{"weight": "1%"}]}, "alpha: `x` is not a share such as 1% or 0.01"),
        ({"gates": ["nope"], "steps": [{"weight": "1%"}]}, "gates[0]: `nope` is not one of"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_its_value_and_what_is_allowed(values: object, expected: str) -> None:
    found = problems(values)
    assert len(found) == 1
    assert expected in found[0]


def test_a_line_that_cannot_be_read_quotes_each_part_at_fault() -> None:
    (problem,) = problems("shadow some pairs → 1 % 10 min → 5 → 25 % → shadow 5 pairs")
    assert problem.startswith("plan: cannot read `shadow some pairs`, `5`, `shadow 5 pairs`; write steps such as")
    assert problems("")[0].startswith("plan: cannot read ``;")
    assert "does not rise" in problems("5 % → 1 %")[0]
    assert "takes weight alone" in problems("5 % → 100 % 1h")[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (shadow(max_pairs=8), "shadow.max_pairs: `8` is not at least pairs (9)"),
        (shadow(share="0%"), "shadow.share: `0%` is not above 0 % up to 100 %"),
        (shadow(idle="0s"), "shadow.idle: `0s` is not at least 1s"),
        (shadow(gates=["feedback"]), "`feedback` needs live traffic"),
        (shadow(gates=["score:"]), "shadow.gates[0]: `score:` is not one of error_rate"),
        (shadow(gates=[{"kl": {"limit": 5}}]), "shadow.gates[0].kl.limit: `5` is not a number in 0..5"),
        (shadow(gates=[{"kl": {"muted": 1}}]), "shadow.gates[0].kl.muted: `1` is not true or false"),
        (shadow(gates=[{"exact": {"min_samples": 0}}]), "min_samples: `0` is not a whole number in 1.."),
        (step(gates=[{"manual": {"muted": True}}]), "steps[0].gates[0].manual.muted: is not known; known are none"),
        (step(share="5%"), "steps[0].share: no gate of this step reads pairs"),
    ],
)
def test_what_is_wrong_with_a_shadow_is_named_likewise(values: object, expected: str) -> None:
    found = problems(values)
    assert len(found) == 1
    assert expected in found[0]


def test_a_gate_of_pairs_takes_a_margin_or_a_limit_whichever_is_given() -> None:
    read = parse_plan(
        {"shadow": {"pairs": 9, "gates": ["kl", {"token_flip": {"margin": "3%"}}, {"exact": {"limit": "70%"}}]}}
    )
    assert [(gate.name, gate.margin, gate.limit) for gate in read.stages[0].gates] == [
        ("kl", 0.05, 0.5),
        ("token_flip", 0.03, None),
        ("exact", 0.1, 0.7),
    ]


def test_muted_gates_take_no_part_of_alpha() -> None:
    gates = ["refusal", {"kl": {"muted": True}}, "manual"]
    plan = parse_plan({"shadow": {"pairs": 9, "gates": gates}, "steps": [{"weight": "5%", "gates": ["error_rate"]}]})
    assert plan.alpha_per_gate == plan.alpha / 2


def test_a_step_with_a_gate_of_pairs_goes_on_comparing_the_share_that_shadow_compared() -> None:
    plan = parse_plan(
        {"shadow": {"pairs": 9, "share": "20%"}, "steps": [{"weight": "5%", "gates": ["kl"]}, {"weight": "50%"}]}
    )
    assert [(stage.share, stage.wants_pairs) for stage in plan.stages] == [(2_000, True), (2_000, True), (0, False)]


def test_in_one_line_shadow_may_have_a_share_and_a_least_time() -> None:
    (stage,) = parse_plan("shadow 500 pairs 20 % 1h").stages
    assert (stage.min_samples, stage.share, stage.min_seconds) == (500, 2_000, 3_600)


# Canonical


# Made by the release before shadow evaluation: journals and stores name plans by them.
@pytest.mark.parametrize(
    ("plan", "hash_"),
    [
        ("5 % 10m → 25 % → 50 % → 100 %", "dbc41dfd1b4548bc2512ac42ef7184b9147b9491433e82823b44ba40b59cf97c"),
        (
            {"steps": [{"weight": "5%", "gates": ["manual", {"error_rate": {"limit": "3%"}}]}]},
            "9df02838047866256e61f5d4c11eff209b55b66dbae9c1a821f46046036d8f1b",
        ),
        ("100%", "0a9cd9f358ec993680a992519a892f250f0806930619ba7136db697490422ae7"),
    ],
)
def test_a_plan_without_pairs_keeps_the_hash_that_it_has_always_had(plan: object, hash_: str) -> None:
    assert parse_plan(plan).config_hash == hash_


def test_the_canonical_form_parses_to_the_same_plan_and_hides_no_default() -> None:
    plan = parse_plan("shadow 500 pairs → 1 % 10 min → 100 %")
    form = json.loads(json.dumps(canonical(plan)))
    assert form == {
        "alpha": 0.01,
        "audit": False,
        "shadow": {
            "pairs": 500,
            "max_pairs": 2_000,
            "share": 1_000,
            "idle": 30,
            "min_time": 0,
            "max_time": 86400,
            "gates": [
                *({name: {"margin": 0.05, "limit": None, "min_samples": 50}} for name in QUIET),
                {"kl": {"margin": 0.05, "limit": 0.5, "min_samples": 50, "muted": True}},
            ],
        },
        "steps": [
            {
                "weight": 100,
                "min_time": 600,
                "max_time": 86400,
                "min_samples": 200,
                "max_samples": None,
                "gates": [
                    {"error_rate": {"margin": 0.01, "limit": None}},
                    {"latency": {"margin": 0.05, "quantile": 0.95}},
                ],
            },
            {"weight": 10_000},
        ],
    }
    assert parse_plan(form) == plan
    assert parse_plan(form).config_hash == plan.config_hash


def test_the_hash_is_of_what_the_plan_means_not_of_how_it_is_written() -> None:
    assert (
        parse_plan("1% 10m → 5%").config_hash
        == parse_plan({"steps": [{"weight": 100}, {"weight": "5.0 %"}]}).config_hash
    )
    hashes = {parse_plan(text).config_hash for text in ("1%", "2%", "1% 11m", "1% 9 samples", "1% → 100%")}
    assert len(hashes) == 5


gates = st.one_of(
    st.just("manual"),
    st.builds(
        lambda margin, limit: {"error_rate": {"margin": margin, "limit": limit}}, st.floats(0, 0.99), st.floats(0, 0.99)
    ),
    st.builds(lambda quantile: {"latency": {"quantile": quantile}}, st.floats(0.01, 0.99)),
    st.builds(
        lambda critical, muted: {"feedback": {"critical": critical, "muted": muted}}, st.booleans(), st.booleans()
    ),
)
of_pairs = st.builds(
    lambda name, parameters: {name: parameters},
    st.sampled_from(["kl", "exact", "refusal", "judge", "score:tone"]),
    st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "margin": st.floats(0, 0.99) | st.none(),
            "limit": st.floats(0, 0.99) | st.none(),
            "min_samples": st.integers(1, 999),
            "critical": st.booleans(),
            "muted": st.booleans(),
        },
    ),
)
steps = st.fixed_dictionaries(
    {"weight": st.integers(1, 10_000)},
    optional={
        "min_time": st.integers(0, 1_000) | st.just("10m"),
        "max_time": st.integers(2_000, 100_000),
        "min_samples": st.integers(0, 100),
        "max_samples": st.integers(200, 10_000) | st.none(),
        "gates": st.lists(gates | of_pairs, max_size=3),
    },
)
plans = st.fixed_dictionaries(
    {"steps": st.lists(steps, max_size=4)},
    optional={
        "shadow": st.fixed_dictionaries(
            {"pairs": st.integers(1, 100)},
            optional={
                "max_pairs": st.integers(100, 200),
                "share": st.integers(1, 10_000),
                "idle": st.integers(1, 100),
                "gates": st.lists(of_pairs, max_size=3),
            },
        ),
        "audit": st.booleans(),
        "alpha": st.floats(0.001, 0.5),
        "gates": st.lists(gates, max_size=2),
    },
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1%", "10m"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["steps", "shadow", "weight", "gates", "min_time", "alpha", "pairs"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(plans | junk)
def test_any_values_are_a_plan_that_survives_its_canonical_form_or_a_list_of_problems(values: object) -> None:
    try:
        plan = parse_plan(values)
    except InvalidPlan as error:
        assert error.problems  # noqa: PT017 - either outcome is right, neither is nothing
    else:
        assert parse_plan(json.loads(json.dumps(canonical(plan)))) == plan
        weights = [stage.weight for stage in plan.stages]
        assert weights == sorted(set(weights))
        assert all(0 <= weight < 10_000 for weight in weights)


# How many times control's share


def test_a_ratio_stands_in_place_of_a_margin_and_is_written_back() -> None:
    plan = parse_plan(step(gates=[{"error_rate": {"ratio": 2}}]))
    (gate,) = plan.stages[0].gates
    assert (gate.ratio, gate.margin) == (2.0, 0.0)
    assert parse_plan(canonical(plan)) == plan
    assert '"ratio":2.0' in json.dumps(canonical(plan), separators=(",", ":"))


@pytest.mark.parametrize("ratio", [0.5, True, "2", 1e9])
def test_a_ratio_that_is_no_number_of_times_is_a_problem(ratio: object) -> None:
    (problem,) = problems(step(gates=[{"error_rate": {"ratio": ratio}}]))
    assert "how many times the control's share" in problem


def test_a_margin_beside_a_ratio_is_a_problem() -> None:
    (problem,) = problems(step(gates=[{"error_rate": {"ratio": 2, "margin": "1%"}}]))
    assert "give `margin` or `ratio`" in problem


def test_a_gate_that_nobody_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"`weather` is no gate; gates are .*error_rate"):
        kind_named("weather")
