"""What a plan of routes says: what changes, what it means for traffic, and what does not go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.catalog import Entry
from adapters.reference import AdapterRef
from gateway.admin.routes.files import DeclaredRoute, InvalidRoutes, policy_fields
from gateway.admin.routes.plan import Circumstances, RoutePlan, plan_routes
from gateway.decide.assign import Arm, Split, pick_arm
from gateway.records.routes import MirrorPolicy, Previous, RouteLimits, RoutePolicy, RouteRecord
from gateway.records.state import Desired
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import parse_plan
from tests.support.examples import examples
from tests.support.route_values import ENTRIES, LEGAL, STATE, A, B, C, entry, state
from tests.support.state_records import rollout

NOW = 1_790_000_000


FAILED = "support@" + "f" * 12
OTHER_BASE = "support@" + "9" * 12


def wanted(**fields: Any) -> DeclaredRoute:
    return DeclaredRoute(**{"alias": "support", "control": A, "where": "routes[0]", **fields})


def _declared(route: RoutePolicy) -> DeclaredRoute:
    return DeclaredRoute(**policy_fields(route), where=route.alias)


def plan(desired: Desired, *routes: DeclaredRoute, prune: bool = False) -> RoutePlan:
    circumstances = Circumstances(now=NOW, new_salt=lambda: "fresh", base_names=("base",))
    return plan_routes(desired, routes, prune=prune, circumstances=circumstances)


def meaning(desired: Desired, **fields: Any) -> tuple[str, ...]:
    (change,) = plan(desired, wanted(**fields)).changes
    return change.meaning


def test_what_is_as_declared_does_not_change_and_others_are_left_alone() -> None:
    found = plan(STATE, wanted())
    assert (found.changes, found.warnings, found.conflicts) == ((), (), ())
    assert (found.unchanged, found.left_alone) == (("support",), ("legal",))
    assert found.after is STATE


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            {},
            {"candidate": B, "weight": 500},
            f"about 5 % of units move from control {A} to candidate {B}; the others stay",
        ),
        (
            {"candidate": B, "weight": 500},
            {"candidate": B, "weight": 2500},
            f"about 20 % of units move from control {A} to candidate {B}; the others stay",
        ),
        (
            {"candidate": B, "weight": 2500},
            {"candidate": B, "weight": 500},
            f"about 20 % of units move from candidate {B} to control {A}; the others stay",
        ),
        (
            {"candidate": B, "weight": 500},
            {},
            f"about 5 % of units move from candidate {B} to control {A}; the others stay",
        ),
        ({}, {"candidate": B}, "no unit gets another version by it"),
        ({}, {"control": B}, f"all callers change version now, from control {A} to control {B}"),
        ({}, {"candidate": B, "weight": 10_000}, f"all callers change version now, from control {A} to candidate {B}"),
        (
            {"candidate": B, "weight": 2500},
            {"control": B},
            f"about 75 % of units move from control {A} to control {B}; the others stay",
        ),
        (
            {"candidate": B, "weight": 500},
            {"candidate": C, "weight": 1000},
            (
                f"about 5 % of units move from candidate {B} to candidate {C}; "
                f"about 5 % of units move from control {A} to candidate {C}; the others stay"
            ),
        ),
        (
            {"candidate": B, "weight": 5000},
            {"control": C},
            (
                f"about 50 % of units move from candidate {B} to control {C}; "
                f"about 50 % of units move from control {A} to control {C}"
            ),
        ),
    ],
)
def test_how_many_units_move_is_said(before: dict[str, Any], after: dict[str, Any], said: str) -> None:
    assert meaning(state(**before), **after) == (said,)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"unit": ("user",)}, "the next split goes by other ids; now nobody changes arms for it"),
        (
            {"mirror": MirrorPolicy(share=200)},
            (
                "copies of about 2 % of requests are asked for, to be compared with the base; their words are stored "
                "until they expire, and callers notice nothing"
            ),
        ),
        (
            {"mirror": MirrorPolicy(share=200, capture="metrics_only")},
            (
                "copies of about 2 % of requests are asked for, to be compared with the base; their words are not "
                "stored, and callers notice nothing"
            ),
        ),
        (
            {"mirror": MirrorPolicy(share=200, capture="off")},
            "no requests are copied for evaluators, for a rollout neither",
        ),
        ({"mirror": MirrorPolicy(share=0)}, "no copies of requests are asked for any more, except by rollouts"),
        ({"plan": canonical(parse_plan("5%"))}, "only the next rollout goes by the plan"),
        ({"limits": RouteLimits(max_in_flight=2)}, "requests beyond the limits are refused from now on"),
        ({"notes": "x"}, "nothing changes for traffic"),
    ],
)
def test_what_other_changes_mean_is_said(fields: dict[str, Any], said: str) -> None:
    assert meaning(STATE, **fields) == (said,)


def test_other_ids_for_units_may_move_callers_of_a_split() -> None:
    split = {"candidate": B, "weight": 500}
    assert meaning(state(**split), **split, unit=("user",)) == (
        "units are hashed anew by other ids, so callers may change arms",
    )


def test_a_split_that_begins_moves_nobody_for_its_ids() -> None:
    said = meaning(STATE, candidate=B, weight=500, unit=("user",))
    assert said[1] == "the split goes by these ids from its beginning"


def test_fields_are_told_from_and_to() -> None:
    (change,) = plan(state(notes="old"), wanted(candidate=B, weight=500)).changes
    assert [(each.field, each.before, each.after) for each in change.fields] == [
        ("candidate", None, B),
        ("weight", 0, 500),
        ("notes", "old", ""),
    ]


def test_what_is_not_declared_is_kept_and_a_former_control_remembered() -> None:
    before = state(previous=(Previous(version=C, until=3),), candidate=B, weight=100)
    kept = plan(before, wanted(notes="x")).after.route("support")
    assert kept is not None
    assert (kept.salt, kept.created, kept.previous) == ("salt", 5, (Previous(version=C, until=3),))
    flipped = plan(before, wanted(control=B, candidate=A, weight=100)).after.route("support")
    assert flipped is not None
    assert (flipped.salt, flipped.created, flipped.candidate, flipped.weight) == ("salt", NOW, A, 100)
    assert flipped.previous == (Previous(version=A, until=NOW), Previous(version=C, until=3))


def test_a_new_alias_gets_a_salt_of_its_own_and_a_place_at_the_end() -> None:
    found = plan(STATE, wanted(alias="beta", control=B[:14]))
    assert [route.alias for route in found.after.routes] == ["support", "legal", "beta"]
    assert found.after.routes[-1] == RouteRecord(alias="beta", control=B, salt="fresh", created=NOW)
    (change,) = found.changes
    assert [(each.field, each.before, each.after) for each in change.fields] == [("control", None, B)]
    assert (change.action, change.meaning) == ("add", (f"requests for `beta` are served from now on: all by {B}",))
    assert found.warnings == (f"`beta`: control `{B}` is registered under another name",)


def test_pruned_routes_go_and_their_versions_stay() -> None:
    found = plan(STATE, wanted(), prune=True)
    (change,) = found.changes
    assert (change.alias, change.action) == ("legal", "remove")
    assert "get 404 from now on; its versions stay registered" in change.meaning[0]
    assert [route.alias for route in found.after.routes] == ["support"]
    assert found.after.adapters == STATE.adapters
    assert plan(STATE, prune=True).after.routes == ()


def test_every_version_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(InvalidRoutes) as caught:
        plan(
            STATE,
            wanted(control="support@123456", candidate="nobody@123456"),
            wanted(alias="base", where="routes[1]"),
            wanted(alias="x", candidate=A[:15], where="routes[2]"),
        )
    assert [problem.split("`")[0] for problem in caught.value.problems] == [
        "routes[0].control: ",
        "routes[0].candidate: ",
        "routes[1].alias: ",
        "routes[2].candidate: ",
    ]
    assert "is the control itself" in caught.value.problems[-1]
    twin = msgspec.structs.replace(STATE, adapters=(*ENTRIES, _twin()))
    with pytest.raises(InvalidRoutes, match="is not unique"):
        plan(twin, wanted(control="support@aaaaaa"))


def _twin() -> Entry:
    first = entry("support", "a")
    return replace(first, ref=AdapterRef("support", "a" * 11 + "0" * 53))


def test_a_control_that_is_not_ready_takes_over_nothing_and_stays_where_it_is() -> None:
    found = plan(STATE, wanted(control=FAILED), wanted(alias="new", control=FAILED))
    assert len(found.conflicts) == 2
    assert f"control `{FAILED}` is failed (split brain), so it cannot take over" in found.conflicts[0]
    stays = plan(state(control=FAILED), wanted(control=FAILED, notes="x"))
    assert stays.conflicts == ()
    assert stays.warnings == (f"`support`: control `{FAILED}` is failed (split brain)",)


def test_what_is_doubtful_about_a_candidate_is_told() -> None:
    found = plan(STATE, wanted(candidate=FAILED, weight=500)).warnings
    assert any("its units get control until it is ready" in warning for warning in found)
    assert any("without a rollout" in warning for warning in found)
    assert not any("trained on" in warning for warning in found)
    (warning,) = plan(STATE, wanted(candidate=OTHER_BASE)).warnings
    assert "the candidate on `large`" in warning
    assert plan(STATE, wanted(mirror=MirrorPolicy(share=200))).warnings == ()
    (warning,) = plan(STATE, wanted(mirror=MirrorPolicy(share=200, capture="off"))).warnings
    assert "copies nothing, whatever the share" in warning


def test_a_mirror_that_names_what_is_not_installed_is_told() -> None:
    here = Circumstances(now=NOW, new_salt=lambda: "n", redactors=("email",), comparators=("exact",))
    policy = MirrorPolicy(share=1, redact=("email", "regex:x+", "names"), comparators=("exact", "score:tone"))
    found = plan_routes(STATE, [wanted(mirror=policy)], prune=False, circumstances=here)
    (conflict,) = found.conflicts
    assert "the redactor `names` is not installed here" in conflict
    (warning,) = found.warnings
    assert "no comparator is called `score:tone` here" in warning


# Rollouts

IN_ROLLOUT = state(candidate=B, weight=500).with_rollout(rollout("r-1"))


@pytest.mark.parametrize(
    "fields",
    [
        {"control": C, "candidate": B, "weight": 500},
        {"control": C},
        {"candidate": C, "weight": 500},
        {"candidate": B, "weight": 600},
        {"candidate": B},
    ],
)
def test_what_a_rollout_decides_is_a_conflict(fields: dict[str, Any]) -> None:
    (conflict,) = plan(IN_ROLLOUT, wanted(**fields)).conflicts
    assert "rollout `r-1`" in conflict
    assert "loragate rollout abort support" in conflict


@pytest.mark.parametrize("fields", [{}, {"candidate": B, "weight": 500}])
def test_a_file_that_names_no_candidate_leaves_it_to_the_rollout(fields: dict[str, Any]) -> None:
    found = plan(IN_ROLLOUT, wanted(**fields, notes="x"))
    assert found.conflicts == ()
    route = found.after.route("support")
    assert route is not None
    assert (route.candidate, route.weight, route.notes) == (B, 500, "x")
    assert plan(IN_ROLLOUT, wanted(**fields)).changes == ()


def test_limits_and_units_may_change_in_a_rollout_with_a_warning() -> None:
    found = plan(IN_ROLLOUT, wanted(unit=("user",)))
    assert found.conflicts == ()
    assert any("rollout `r-1` runs" in warning for warning in found.warnings)


def test_an_alias_in_a_rollout_is_not_pruned() -> None:
    found = plan(IN_ROLLOUT, prune=True)
    assert len(found.conflicts) == 1


# Whatever is declared

VERSIONS = st.sampled_from([A, B, C, LEGAL])
RECORDS = st.builds(
    lambda alias, control, candidate, weight, **more: DeclaredRoute(
        alias=alias,
        control=control,
        candidate=candidate if candidate != control else None,
        weight=weight if candidate not in (None, control) else 0,
        where=alias,
        **more,
    ),
    alias=st.sampled_from(["support", "legal", "beta", "gamma"]),
    control=VERSIONS,
    candidate=st.one_of(st.none(), VERSIONS),
    weight=st.integers(0, 10_000),
    unit=st.sampled_from([("header", "user"), ("key",)]),
    mirror=st.sampled_from([None, MirrorPolicy(share=5)]),
    limits=st.sampled_from([None, RouteLimits(max_in_flight=3)]),
    notes=st.sampled_from(["", "x"]),
)
FILES = st.lists(RECORDS, unique_by=lambda each: each.alias)


@given(FILES, FILES, st.booleans(), st.booleans())
def test_planning_again_after_applying_changes_nothing(
    first: Sequence[DeclaredRoute], second: Sequence[DeclaredRoute], prune_first: bool, prune: bool
) -> None:
    before = plan(STATE, *first, prune=prune_first).after
    found = plan(before, *second, prune=prune)
    again = plan(found.after, *second, prune=prune)
    assert again.changes == ()
    assert again.after == found.after
    assert {change.alias for change in found.changes} == {
        alias for alias in ("support", "legal", "beta", "gamma") if before.route(alias) != found.after.route(alias)
    }
    back = plan(found.after, *(_declared(route) for route in before.routes), prune=True).after
    assert [_declared(route) for route in sorted(back.routes, key=lambda each: each.alias)] == [
        _declared(route) for route in sorted(before.routes, key=lambda each: each.alias)
    ]


@settings(max_examples=examples(20))
@given(RECORDS, RECORDS)
def test_the_share_that_moves_is_the_share_of_buckets_that_move(first: DeclaredRoute, second: DeclaredRoute) -> None:
    declared = (msgspec.structs.replace(each, alias="support") for each in (first, second))
    before, after = (plan(STATE, each).after.route("support") for each in declared)
    assert before is not None
    assert after is not None
    moved = plan(STATE.with_route(before), _declared(after)).changes
    said = " ".join(sentence for change in moved for sentence in change.meaning)
    shares = [part.split(" %")[0] for part in said.split("about ") if " % of units move" in part]
    told = 10_000 if "all callers change" in said else round(sum(float(share) for share in shares) * 100)
    assert told == sum(one != other for one, other in zip(_served(before), _served(after), strict=True))


def _served(route: RouteRecord) -> list[str | None]:
    """Return the version that each bucket gets."""
    split = Split(route.control, route.candidate, route.weight)
    versions = {Arm.CONTROL: route.control, Arm.CANDIDATE: route.candidate}
    return [versions[pick_arm(split, number)] for number in range(10_000)]
