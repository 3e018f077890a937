"""Who is calling, what the name means, which arm, which engine, and the sentence that they make."""

from dataclasses import replace
from types import MappingProxyType

import pytest

from gateway.decide.assign import (
    DEFAULT_SOURCES,
    MAX_SOURCES,
    TOTAL_WEIGHT,
    Arm,
    Split,
    bucket,
    check_sources,
    headers_of,
    pick_arm,
)
from gateway.decide.authenticate import ANYONE, EXPIRED, Principal, Role, authenticate, caller_of, digest_of
from gateway.decide.exposure import RolloutTag
from gateway.decide.place import place
from gateway.decide.route import Base, EngineState, Route, RouteTable, find_target, usable_models
from gateway.errors import BadRequest, EngineUnavailable, Forbidden, ModelNotFound, Unauthenticated, VersionNotReady
from gateway.pipeline import Call, answer

V1, V2, OTHER = "support@111111111111", "support@222222222222", "legal@111111111111"
BASE = Base(name="base")
APP = Principal(id="app", role=Role.APP)
PIN = Principal(id="pin", role=Role.APP_PIN)
LIMITED = Principal(id="limited", role=Role.APP_PIN, models=frozenset({"legal"}))
NOBODY = Principal(id="nobody", role=Role.APP, models=frozenset())


def table(
    split: Split | None = None, engines: tuple[EngineState, ...] | None = None, base: Base | None = BASE
) -> RouteTable:
    """A table with the aliases `support` and `legal`."""
    routes = {
        "support": Route(alias="support", split=split or Split(V1), salt="s"),
        "legal": Route(alias="legal", split=Split(OTHER), salt="l"),
    }
    if engines is None:
        engines = (
            EngineState(url="a", versions=frozenset({V1, V2, OTHER})),
            EngineState(url="b", versions=frozenset({V1})),
        )
    return RouteTable(base=base, routes=MappingProxyType(routes), versions=frozenset({V1, V2, OTHER}), engines=engines)


# Authenticate


def never() -> float:
    """No clock: only a key that expires may ask for the time."""
    raise AssertionError("the time was asked for")


def test_a_known_key_is_its_principal_in_either_header() -> None:
    keys = {digest_of(b"secret"): APP}
    for credential in (b"Bearer secret", b"bearer  secret ", b"BEARER secret", b"secret"):
        assert authenticate(credential, keys, never) is APP


@pytest.mark.parametrize(
    "credential", [None, b"", b"Bearer ", b"Bearer wrong", b"wrong", b"Basic secret", b"Bearersecret"]
)
def test_any_other_credential_is_refused(credential: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        authenticate(credential, {digest_of(b"secret"): APP}, never)


def test_a_key_that_has_expired_is_refused_and_says_so() -> None:
    keys = {digest_of(b"old"): Principal(id="old", role=Role.APP, expires=10)}
    assert authenticate(b"old", keys, lambda: 9.0).id == "old"
    with pytest.raises(Unauthenticated, match="has expired") as refused:
        authenticate(b"old", keys, lambda: 10.0)
    assert refused.value.code == EXPIRED


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"api-key"])
def test_the_first_header_that_holds_a_good_key_counts(name: bytes) -> None:
    keys = {digest_of(b"secret"): APP}
    assert caller_of({b"authorization": b"Basic proxy", name: b"secret"}, keys, never) is APP


def test_of_several_bad_credentials_the_error_is_the_first_ones_unless_one_has_expired() -> None:
    keys = {digest_of(b"old"): Principal(id="old", role=Role.APP, expires=10)}

    def refusal(headers: dict[bytes, bytes]) -> Unauthenticated:
        with pytest.raises(Unauthenticated) as refused:
            caller_of(headers, keys, lambda: 10.0)
        return refused.value

    assert "didn't provide" in str(refusal({}))
    assert "Incorrect" in str(refusal({b"api-key": b"wrong"}))
    assert "Incorrect" in str(refusal({b"authorization": b"wrong", b"x-api-key": b"wrong"}))
    assert refusal({b"authorization": b"wrong", b"x-api-key": b"wrong", b"api-key": b"old"}).code == EXPIRED
    assert refusal({b"x-api-key": b"old", b"api-key": b"wrong"}).code == EXPIRED


def test_no_keys_at_all_is_deny_by_default_and_none_means_no_authentication() -> None:
    with pytest.raises(Unauthenticated):
        authenticate(b"Bearer x", {}, never)
    assert authenticate(None, None, never) is ANYONE


def test_each_role_includes_those_before_it() -> None:
    roles = list(Role)
    for at, role in enumerate(roles):
        principal = Principal(id="x", role=role)
        assert [principal.is_at_least(other) for other in roles] == [other <= at for other in range(len(roles))]
        assert principal.may_pin() is (role is not Role.APP)


# Assign


@pytest.mark.parametrize("weight", [-1, TOTAL_WEIGHT + 1])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match=f"`{weight}`"):
        Split(V1, V2, weight)


def test_a_weight_needs_a_candidate() -> None:
    with pytest.raises(ValueError, match="not named"):
        Split(V1, None, 1)


@pytest.mark.parametrize(
    "sources",
    [DEFAULT_SOURCES, ("trusted:user", "header:x-tenant", "trusted:body:metadata.user_id", "conversation", "key")],
)
def test_sources_of_a_unit_may_be_named_headers_and_paths(sources: tuple[str, ...]) -> None:
    check_sources(sources)


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ((), "no source"),
        (tuple(f"header:x-{number}" for number in range(MAX_SOURCES + 1)), f"has {MAX_SOURCES + 1} sources"),
        (("user", "user"), "name one twice"),
        (("usr",), "`usr` is unknown"),
        (("trusted:key",), "`trusted:key` is unknown"),
        (("trusted:conversation",), "`trusted:conversation` is unknown"),
        (("header:authorization",), "holds a secret"),
        (("trusted:header:cookie",), "holds a secret"),
        (("header:X-Tenant",), "names no header"),
        (("body:a.b.c.d.e",), "is no path in a body"),
        (("body:",), "is no path in a body"),
    ],
)
def test_sources_that_tell_no_unit_are_refused(sources: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_sources(sources)


def test_the_headers_to_look_at_are_those_that_sources_name() -> None:
    assert headers_of(("header", "header:x-a", "trusted:header:x-b", "body:x-c", "user")) == {"x-a", "x-b"}


@pytest.mark.parametrize("number", [-1, TOTAL_WEIGHT])
def test_a_bucket_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"`{number}`"):
        pick_arm(Split(V1), number)


# Route


def test_an_alias_the_base_and_a_version_are_found() -> None:
    assert find_target(table(), "support", APP).split == Split(V1)
    assert find_target(table(), "base", APP).reason == "base"
    for pin in (V2, V2[:-3], "support@222222"):
        target = find_target(table(), pin, PIN)
        assert (target.alias, target.split, target.reason) == ("support", Split(V2), "pin")


@pytest.mark.parametrize(
    "model",
    ["nobody", "", "support@", "support@22222", "support@2222zz", "support@333333", "@111111", "auto@111111", "Base"],
)
def test_what_is_not_there_is_not_found_and_the_message_lists_what_is(model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find_target(table(), model, PIN)
    assert caught.value.message.endswith("This key may use: base, legal, support.")


def test_an_ambiguous_pin_names_the_candidates() -> None:
    both = RouteTable(versions=frozenset({"a@123456aaaaaa", "a@123456bbbbbb"}))
    with pytest.raises(ModelNotFound, match="a@123456aaaaaa, a@123456bbbbbb"):
        find_target(both, "a@123456", PIN)


def test_a_long_name_and_a_long_list_are_shortened() -> None:
    routes = {f"a{number:03}": Route(alias=f"a{number:03}", split=Split("x"), salt="") for number in range(50)}
    crowded = RouteTable(base=Base(name="base"), routes=MappingProxyType(routes))
    with pytest.raises(ModelNotFound) as caught:
        find_target(crowded, "x" * 1000, APP)
    assert len(caught.value.message) < 350
    assert caught.value.message.endswith("a018, ….")
    with pytest.raises(EngineUnavailable, match="No engine has been up yet"):
        find_target(RouteTable(), "x", APP)


def test_a_key_may_be_limited_to_models() -> None:
    assert usable_models(table(), LIMITED) == ["legal"]
    assert usable_models(table(base=None), APP) == ["legal", "support"]
    assert find_target(table(), "legal", LIMITED).alias == "legal"
    for model in ("support", "base", V1):
        with pytest.raises(ModelNotFound, match="This key may use: legal"):
            find_target(table(), model, LIMITED)
    with pytest.raises(ModelNotFound, match="This key may use: none"):
        find_target(table(), "base", NOBODY)


@pytest.mark.parametrize("held", [table(), table(base=None), RouteTable()])
@pytest.mark.parametrize(
    ("there", "missing"),
    [("support", "suppork"), ("base", "bass"), (V1, V1.replace("support", "suppork")), (V1[:-2], V1[:-1])],
)
def test_what_a_key_may_not_use_is_told_from_what_is_not_there_by_nothing(
    held: RouteTable, there: str, missing: str
) -> None:
    said = []
    for model in (there, missing):
        with pytest.raises((ModelNotFound, EngineUnavailable)) as caught:
            find_target(held, model, LIMITED)
        error = caught.value
        said.append((type(error), error.status, error.code, error.param, error.message.replace(model, "MODEL")))
    assert said[0] == said[1]


def test_pinning_needs_a_role() -> None:
    with pytest.raises(Forbidden) as caught:
        find_target(table(), V1, APP)
    assert caught.value.code == "pin_not_allowed"


# Place


def test_the_least_loaded_engine_that_has_the_version_serves() -> None:
    assert place(table(), V1, {}).url == "a"
    assert place(table(), V1, {"a": 1}).url == "b"
    assert place(table(), V2, {"a": 9}).url == "a"
    assert place(table(), "base", {"a": 1, "b": 2}).url == "a"
    assert place(table(), V1, {}, ["a"]).url == "b"


def test_an_engine_that_is_down_serves_nothing() -> None:
    down = (EngineState(url="a", is_up=False, versions=frozenset({V1})), EngineState(url="b"))
    assert place(table(engines=down), "base", {}).url == "b"
    with pytest.raises(VersionNotReady):
        place(table(engines=down), V1, {})


def test_no_engine_and_all_tried_are_unavailable() -> None:
    with pytest.raises(EngineUnavailable):
        place(table(engines=()), "base", {})
    with pytest.raises(EngineUnavailable):
        place(table(), V1, {}, ["a", "b"])
    with pytest.raises(EngineUnavailable):
        place(table(), V2, {}, ["a"])


# The sentence


class Named:
    """A request that tells its unit in a header."""

    def __init__(self, unit: str) -> None:
        self.name = unit

    def unit(self, sources: tuple[str, ...]) -> str:
        assert "header" in sources
        return self.name


def call(model: str = "support", unit: str = "u") -> Call:
    return Call(PIN, model, Named(unit))


def test_units_are_split_by_weight_and_stay() -> None:
    split = table(Split(V1, V2, 5_000))
    for number in range(200):
        placed = answer(call(unit=f"u{number}"), split, {})
        is_candidate = bucket("s", f"u{number}") < 5_000
        assert (placed.version, placed.arm) == ((V2, Arm.CANDIDATE) if is_candidate else (V1, Arm.CONTROL))
        assert placed == answer(call(unit=f"u{number}"), split, {})


def test_a_candidate_without_weight_gets_nothing_and_one_with_all_gets_all() -> None:
    assert answer(call(), table(Split(V1, V2, 0)), {}).version == V1
    assert answer(call(), table(Split(V1, V2, TOTAL_WEIGHT)), {}).version == V2
    assert answer(call("base"), table(), {})[:4] == ("base", "base", Arm.CONTROL, "base")


def test_a_candidate_nowhere_ready_gives_way_to_control() -> None:
    only_control = (EngineState(url="b", versions=frozenset({V1})),)
    placed = answer(call(), table(Split(V1, V2, TOTAL_WEIGHT), only_control), {})
    assert placed[:5] == ("support", V1, Arm.CONTROL, "fallback:version_not_ready", "b")


def test_a_candidate_whose_engine_failed_gives_way_to_control_on_another_engine_first() -> None:
    split = Split(V1, V2, TOTAL_WEIGHT)
    placed = answer(call(), table(split), {}, ["a"])
    assert placed[:5] == ("support", V1, Arm.CONTROL, "fallback:engine_unavailable", "b")
    alone = (EngineState(url="a", versions=frozenset({V1, V2})),)
    assert answer(call(), table(split, alone), {}, ["a"]).engine_url == "a"
    with pytest.raises(EngineUnavailable):
        answer(call(), table(split, ()), {}, ["a"])


def test_control_has_nothing_to_give_way_to() -> None:
    with pytest.raises(EngineUnavailable):
        answer(call(), table(), {}, ["a", "b"])
    low = next(f"u{number}" for number in range(10_000) if bucket("s", f"u{number}") >= 5_000)
    with pytest.raises(EngineUnavailable):
        answer(call(unit=low), table(Split(V1, V2, 5_000)), {}, ["a", "b"])


# An arm that a tester chooses


@pytest.mark.parametrize(("arm", "version"), [(Arm.CONTROL, V1), (Arm.CANDIDATE, V2)])
def test_a_tester_gets_the_arm_that_was_asked_for_whatever_the_weight(arm: Arm, version: str) -> None:
    for weight in (0, TOTAL_WEIGHT):
        placed = answer(Call(PIN, "support", Named("u"), arm), table(Split(V1, V2, weight)), {})
        assert (placed.version, placed.arm, placed.reason, placed.exposure) == (version, arm, "override", None)


def test_an_arm_that_is_not_there_is_refused_and_nothing_takes_its_place() -> None:
    with pytest.raises(BadRequest, match="has no candidate now") as refused:
        answer(Call(PIN, "support", Named("u"), Arm.CANDIDATE), table(), {})
    assert refused.value.code == "no_candidate"
    with pytest.raises(BadRequest, match="an exact version and"):
        answer(Call(PIN, V1, Named("u"), Arm.CONTROL), table(), {})
    only_control = (EngineState(url="b", versions=frozenset({V1})),)
    with pytest.raises(VersionNotReady):
        answer(Call(PIN, "support", Named("u"), Arm.CANDIDATE), table(Split(V1, V2), only_control), {})


def test_while_a_rollout_is_open_a_request_tells_its_exposure_whatever_becomes_of_it() -> None:
    tag = RolloutTag(id="ro-1", stage=1)
    for weight, unit in ((0, None), (TOTAL_WEIGHT, "u")):
        split = table(Split(V1, V2, weight))
        route = replace(split.routes["support"], rollout=tag)
        during = replace(split, routes=MappingProxyType({"support": route}))
        exposure = answer(call(), during, {}).exposure
        assert exposure is not None
        assert (exposure.tag, exposure.unit, exposure.arm) == (
            tag,
            unit,
            Arm.CANDIDATE if weight else Arm.CONTROL,
        )
        with pytest.raises(EngineUnavailable) as refused:
            answer(call(), replace(during, engines=()), {})
        assert refused.value.exposure == exposure
