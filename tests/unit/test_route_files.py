"""routes.yaml: what it may say, every problem at once with its place, and the way back to text."""

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.admin.models.routes import PlanView
from gateway.admin.routes.files import DeclaredRoute, InvalidRoutes, parse_routes, policy_fields
from gateway.admin.routes.text import describe_field, plan_line, plan_lines, write_route
from gateway.cli.routes_file import as_yaml, read_file
from gateway.decide.assign import DEFAULT_SOURCES, SOURCES
from gateway.records.routes import JudgePolicy, MirrorPolicy, RouteLimits, RouteRecord
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import parse_plan

CONTROL, CANDIDATE = "support@3f2a9c81d0e4", "support@9b11c0de77aa"
FULL = f"""
routes:
  - alias: support
    control: {CONTROL}
    candidate: {CANDIDATE}
    weight: 5%
    unit: [header, user, key]
    mirror: {{share: 2%, capture: metrics_only}}
    plan: "1% 10m → 5% → 25% → 100%"
    limits: {{requests_per_minute: 600, tokens_per_minute: 100000, max_in_flight: 50}}
    notes: trial of the new tone
"""


def problems(values: object) -> tuple[str, ...]:
    with pytest.raises(InvalidRoutes) as caught:
        parse_routes(values)
    return caught.value.problems


def one(**fields: Any) -> dict[str, Any]:
    return {"routes": [{"alias": "support", "control": CONTROL, **fields}]}


def file_of(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "routes.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_everything_that_a_route_may_say_is_read(tmp_path: Path) -> None:
    (route,) = read_file(file_of(tmp_path, FULL)).routes
    assert route == DeclaredRoute(
        alias="support",
        control=CONTROL,
        candidate=CANDIDATE,
        weight=500,
        unit=("header", "user", "key"),
        mirror=MirrorPolicy(share=200, capture="metrics_only"),
        plan=canonical(parse_plan("1% 10m → 5% → 25% → 100%")),
        limits=RouteLimits(requests_per_minute=600, tokens_per_minute=100_000, max_in_flight=50),
        notes="trial of the new tone",
        where="routes[0] (support)",
    )


def test_what_is_left_out_or_null_is_none() -> None:
    nulls = dict.fromkeys(("candidate", "weight", "unit", "mirror", "plan", "limits", "notes"))
    for values in (one(), one(**nulls), one(limits={}), one(limits={"max_in_flight": None})):
        (route,) = parse_routes(values).routes
        assert route == DeclaredRoute(alias="support", control=CONTROL, where="routes[0] (support)")
        assert route.unit == DEFAULT_SOURCES


def test_weights_are_shares_or_basis_points() -> None:
    weights = [parse_routes(one(candidate=CANDIDATE, weight=each)).routes[0].weight for each in ("0.25 %", 25, "100%")]
    assert weights == [25, 25, 10_000]


def test_every_problem_is_told_at_once_with_its_place() -> None:
    found = problems(
        {
            "route": [],
            "prune": "yes",
            "routes": [
                {"alias": "support", "control": "support", "weight": "105%", "colour": "red"},
                {"alias": "support", "control": CONTROL, "candidate": 7, "limits": {"max_in_flight": 0, "rps": 1}},
                {"alias": "a b", "weight": "5%"},
                "x",
                {"alias": "legal", "control": CONTROL, "plan": "5% then 10%", "mirror": {"capture": "all"}},
                {"alias": "law", "control": CONTROL, "plan": {"steps": [{"weight": 0}], "x": 1}, "unit": ["ip"]},
                {"alias": 1.5, "control": CONTROL, "unit": "user", "notes": 3, "mirror": 2},
            ],
        }
    )
    places = [problem.split(":")[0] for problem in found]
    assert places == [
        "route",
        "prune",
        "routes[0] (support).colour",
        "routes[0] (support).weight",
        "routes[0] (support).control",
        "routes[1].alias",
        "routes[1] (support).candidate",
        "routes[1] (support).limits.rps",
        "routes[1] (support).limits.max_in_flight",
        "routes[2].alias",
        "routes[2].weight",
        "routes[2].control",
        "routes[3]",
        "routes[4] (legal).mirror.share",
        "routes[4] (legal).mirror.capture",
        "routes[4] (legal).plan",
        "routes[5] (law).unit",
        "routes[5] (law).plan.x",
        "routes[5] (law).plan.steps[0].weight",
        "routes[6].alias",
        "routes[6].unit",
        "routes[6].mirror",
        "routes[6].notes",
    ]
    assert "`105%` is not a share such as 5%" in found[3]
    assert "`support` stands at routes[0] already" in found[5]


@pytest.mark.parametrize("values", [None, [], "routes", {}, {"routes": {"alias": "x"}}])
def test_what_is_no_list_of_routes_is_refused(values: object) -> None:
    assert len(problems(values)) == 1


def test_a_list_without_routes_is_one() -> None:
    assert parse_routes({"routes": None}).routes == parse_routes({"routes": []}).routes == ()


def test_too_many_routes_and_too_many_problems_are_cut_short() -> None:
    assert "at most 10000" in problems({"routes": [{}] * 10_001})[0]
    found = problems({"routes": [{}] * 200})
    assert len(found) == 101
    assert found[-1] == "and 300 problems more"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "routes:\n  - alias: a\n    control: b@123456\n    weight: 5%\n    weight: 50%\n",
            "`weight` stands there more",
        ),
        ("routes: [\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        ("routes: !!python/object:os.system []\n", "not valid YAML"),
        ("routes:\n  - alias: on\n    control: b@123456\n", "put it in quotes"),
        ("routes: " + "[" * 500, "not valid YAML"),
        ("at: 2026-13-45\n", "not valid YAML"),
        ("#" * 10_000_001, "more than 10000000 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, told: str
) -> None:
    with pytest.raises(click.exceptions.Exit) as caught:
        read_file(file_of(tmp_path, text))
    assert caught.value.exit_code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert len(error.splitlines()) == 1


def test_a_file_that_is_not_there_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit):
        read_file(str(tmp_path / "nowhere.yaml"))
    assert "cannot be read" in capsys.readouterr().err


def test_json_anchors_and_a_bare_off_are_read_too(tmp_path: Path) -> None:
    json_file = file_of(tmp_path, f'{{"prune": true, "routes": [{{"alias": "support", "control": "{CONTROL}"}}]}}')
    assert read_file(json_file).prune is True
    (route,) = read_file(file_of(tmp_path, FULL.replace("metrics_only", "off"))).routes
    assert route.mirror == MirrorPolicy(share=200, capture="off")
    anchored = f"routes:\n  - &a {{alias: a, control: {CONTROL}, notes: x}}\n  - {{<<: *a, alias: b}}\n"
    assert [(each.alias, each.notes) for each in read_file(file_of(tmp_path, anchored)).routes] == [
        ("a", "x"),
        ("b", "x"),
    ]


PLANS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "1% 10m → 5% → 25% → 100%",
            "shadow 500 pairs → 1% 90s 5000 samples → 50% 1h30m",
            "shadow 9 pairs 2d",
            "0.5%",
            {"steps": [{"weight": "5%", "gates": ["manual"]}]},
            {"shadow": {"pairs": 5}, "alpha": "5%"},
            {"steps": [{"weight": 1, "min_time": 0}, {"weight": 2}], "audit": True},
        ]
    ),
)
LIMITS = st.one_of(st.none(), st.integers(1, 10**9))
ROUTES = st.builds(
    lambda plan, candidate, weight, limits, **more: RouteRecord(
        alias="support",
        control=CONTROL,
        salt="s",
        candidate=candidate,
        weight=weight if candidate else 0,
        plan=None if plan is None else canonical(parse_plan(plan)),
        limits=limits if limits and any(msgspec.structs.astuple(limits)) else None,
        **more,
    ),
    plan=PLANS,
    candidate=st.one_of(st.none(), st.just(CANDIDATE)),
    weight=st.integers(0, 10_000),
    unit=st.lists(st.sampled_from(SOURCES), min_size=1, unique=True).map(tuple),
    mirror=st.one_of(
        st.none(),
        st.builds(
            MirrorPolicy,
            share=st.integers(0, 10_000),
            capture=st.sampled_from(["full", "metrics_only", "off"]),
            noise_share=st.integers(0, 10_000),
            tokens_per_hour=LIMITS,
            retention_seconds=st.one_of(st.none(), st.integers(0, 10**8)),
            redact=st.lists(st.sampled_from(["email", "regex:a b,[c]", "mine"]), unique=True).map(tuple),
            judge=st.one_of(
                st.none(),
                st.builds(
                    JudgePolicy,
                    url=st.sampled_from(["https://judge.example/v1", "http://127.0.0.1:1"]),
                    model=st.sampled_from(["m", "org/a-b"]),
                    key_env=st.sampled_from(["", "KEY"]),
                    rubric=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
                    share=st.integers(0, 10_000),
                    pairs_per_hour=LIMITS,
                ),
            ),
            comparators=st.one_of(st.none(), st.lists(st.sampled_from(["exact", "score:x"]), unique=True).map(tuple)),
        ),
    ),
    limits=st.builds(RouteLimits, requests_per_minute=LIMITS, tokens_per_minute=LIMITS, max_in_flight=LIMITS),
    notes=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


@given(ROUTES)
@example(RouteRecord(alias="support", control=CONTROL, salt="s", notes="\x85"))
def test_what_is_written_of_a_route_is_read_as_that_route(tmp_path_factory: pytest.TempPathFactory, route: Any) -> None:
    text = as_yaml({"routes": [write_route(msgspec.to_builtins(route))]})
    (read,) = read_file(file_of(tmp_path_factory.getbasetemp(), text)).routes
    assert policy_fields(read) == policy_fields(route)
    for field, value in msgspec.to_builtins(route).items():
        if field not in ("salt", "created", "previous"):
            assert "\n" not in describe_field(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_share", "200%"),
        ("tokens_per_hour", 0),
        ("tokens_per_hour", True),
        ("retention", "soon"),
        ("retention", -1),
        ("retention", "4000d"),
        ("redact", "email"),
        ("redact", ["email", "email"]),
        ("redact", ["Email"]),
        ("redact", ["regex:("]),
        ("redact", [1]),
        ("comparators", ["no name"]),
        ("comparators", "exact"),
        ("judge", "base"),
        ("judge.url", "ftp://x"),
        ("judge.url", "https://me:pw@host/v1"),
        ("judge.url", None),
        ("judge.model", None),
        ("judge.model", "two words"),
        ("judge.key_env", "no-name"),
        ("judge.rubric", "x" * 10_001),
        ("judge.share", "half"),
        ("judge.pairs_per_hour", 0),
        ("judge.key", "secret"),
    ],
)
def test_what_a_mirror_cannot_be_is_told_with_its_place(field: str, value: Any) -> None:
    judge = {"url": "https://judge.example/v1", "model": "m"}
    mirror: dict[str, Any] = {"share": "2%", "judge": judge}
    if field.startswith("judge."):
        judge[field.removeprefix("judge.")] = value
    else:
        mirror[field] = value
    with pytest.raises(InvalidRoutes) as caught:
        parse_routes({"routes": [{"alias": "support", "control": CONTROL, "mirror": mirror}]})
    (problem,) = caught.value.problems
    assert problem.startswith(f"routes[0] (support).mirror.{field}: ")


def test_a_plan_is_one_line_where_a_line_says_all_of_it() -> None:
    line = "shadow 500 pairs → 1 % → 5 % 90s 2000 samples → 100 %"
    assert plan_line(canonical(parse_plan(line))) == line
    by_hand = canonical(parse_plan({"steps": [{"weight": "5%", "gates": ["manual"]}, {"weight": "9%"}]}))
    assert plan_line(by_hand) is None
    assert describe_field("plan", by_hand).startswith("'5 % → 9 % (config ")


def test_a_plan_of_changes_is_told_in_lines() -> None:
    change = {
        "alias": "support",
        "action": "change",
        "meaning": ["nothing changes for traffic"],
        "fields": [{"field": "notes", "before": "", "after": "two\nlines"}],
    }
    plan = {
        "version": 1,
        "changes": [change],
        "warnings": ["w"],
        "left_alone": ["legal"],
        "unchanged": [],
        "conflicts": [],
    }
    assert [text for _, text in plan_lines(PlanView.model_validate(plan))] == [
        "~ support",
        "    notes      none → 'two\\nlines'",
        "      nothing changes for traffic",
        "warning: w",
        "Not in the file, and left alone: legal.",
        "Plan: 0 to add, 1 to change, 0 to remove.",
    ]
