"""Which requests are copied, for what, and what a copy says of its session and task."""

from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.admin.rollouts.apply import route_after
from gateway.decide.assign import Arm, Split, bucket
from gateway.decide.authenticate import Principal, Role
from gateway.decide.route import Base, EngineState, Route, RouteTable
from gateway.decide.sample import Mirror, noise_of_control, pick_copy
from gateway.mirror.captured import CapturedRequest, NoPair, sample_of, session_of, task_of
from gateway.pipeline import Call, answer
from gateway.records.routes import JudgePolicy, MirrorPolicy, RouteRecord, Shadow
from gateway.records.state import Desired
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.record import RolloutRecord
from gateway.rollout.rollout import Phase, Rollout
from gateway.rollout.stage_evidence import needs_noise
from gateway.store.snapshot import encode, of_state, to_table
from tests.support.state_records import rollout

A, B = "support@" + "a" * 12, "support@" + "b" * 12
IDS = [b"req-4f3c-%x" % number for number in range(20_000)]
ROLLOUT = rollout(stage=2)


def mirror(**fields: Any) -> Mirror:
    return Mirror(**{"kind": "candidate", "control": A, "other": B, "salt": "s:mirror", "share": 10_000, **fields})


def test_a_share_of_requests_is_copied_and_of_those_a_share_for_noise() -> None:
    picked = [pick_copy(mirror(share=1000, noise_share=2000), A, each) for each in IDS]
    copies = [copy for copy in picked if copy is not None]
    assert 1800 < len(copies) < 2200
    noise = [copy for copy in copies if copy.kind == "noise"]
    assert 320 < len(noise) < 480
    assert {(copy.control, copy.other, copy.served) for copy in noise} == {(A, A, "control")}
    assert {copy for copy in copies if copy.kind != "noise"} == {("candidate", A, B, "control")}


def test_being_copied_tells_nothing_of_the_arm() -> None:
    units = [f"unit{number}" for number in range(len(IDS))]
    candidate = [bucket("s", unit) < 5000 for unit in units]
    copied = [pick_copy(mirror(share=2000), A, each) is not None for each in IDS]
    both = sum(one and other for one, other in zip(candidate, copied, strict=True))
    assert both == pytest.approx(len(IDS) * 0.5 * 0.2, rel=0.1)


def test_what_is_asked_anew_is_the_version_that_the_caller_did_not_get() -> None:
    assert pick_copy(mirror(noise_share=0), A, b"1") == ("candidate", A, B, "control")
    assert pick_copy(mirror(noise_share=0), B, b"1") == ("candidate", A, B, "candidate")
    assert pick_copy(mirror(noise_share=10_000), A, b"1") == ("noise", A, A, "control")
    assert pick_copy(mirror(noise_share=10_000), B, b"1") == ("candidate", A, B, "candidate")
    of_base = mirror(kind="base", control="base", other=A, noise_share=10_000)
    assert pick_copy(of_base, A, b"1") == ("noise", A, A, "control")
    assert pick_copy(mirror(), "support@" + "c" * 12, b"1") is None
    assert pick_copy(mirror(share=0), A, b"1") is None


def test_a_mirror_refuses_shares_that_are_none() -> None:
    with pytest.raises(ValueError, match="share `10001`"):
        mirror(share=10_001)
    with pytest.raises(ValueError, match="noise_share `-1`"):
        mirror(noise_share=-1)


# Of which routes, and which of their requests


def built(record: RouteRecord, base: Base | None = Base(name="base"), rollout: RolloutRecord | None = None) -> Any:  # noqa: B008 (a value)
    state = Desired(routes=(record,), rollouts=(rollout,) if rollout else ())
    made = of_state(state, version=1, base=base, engines=(), with_keys=False)
    return to_table(encode(made)).routes["support"].mirror  # through its bytes, as a worker gets it


def route(**fields: Any) -> RouteRecord:
    return RouteRecord(**{"alias": "support", "control": A, "salt": "s", **fields})


def test_an_alias_is_compared_with_its_candidate_and_else_with_the_base() -> None:
    policy = MirrorPolicy(share=200, noise_share=50, capture="metrics_only")
    against_base = built(route(mirror=policy))
    assert (against_base.kind, against_base.control, against_base.other) == ("base", "base", A)
    assert (against_base.share, against_base.noise_share, against_base.capture) == (200, 50, "metrics_only")
    copy = pick_copy(replace(against_base, share=10_000, noise_share=0), A, b"1")
    assert copy == ("base", "base", A, "candidate")
    against_candidate = built(route(mirror=policy, candidate=B, weight=500))
    assert (against_candidate.kind, against_candidate.control, against_candidate.other) == ("candidate", A, B)
    assert against_base.salt != "s"


def test_a_rollouts_stage_decides_the_candidate_and_the_share_and_the_policy_all_else() -> None:
    shadow = Shadow(candidate=B, share=10_000)
    found = built(route(shadow=shadow, mirror=MirrorPolicy(share=5, capture="metrics_only", noise_share=0)))
    assert (found.kind, found.other, found.share, found.capture, found.noise_share) == (
        "candidate",
        B,
        10_000,
        "metrics_only",
        0,
    )
    assert built(route(shadow=shadow)).capture == "full"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mirror": MirrorPolicy(share=0)},
        {"mirror": MirrorPolicy(share=9, capture="off")},
        {"mirror": MirrorPolicy(share=9, capture="off"), "shadow": Shadow(candidate=B, share=9)},
    ],
)
def test_nothing_is_copied_without_a_share_or_where_nothing_may_be_kept(fields: dict[str, Any]) -> None:
    assert built(route(**fields)) is None


def test_there_is_no_base_to_compare_with_before_an_engine_has_told_its_name() -> None:
    assert built(route(mirror=MirrorPolicy(share=9)), base=None) is None


def test_only_what_the_split_serves_is_copied() -> None:
    engine = EngineState(url="http://e", versions=frozenset([A]))
    split = Split(A, B, 10_000)
    table = RouteTable(
        base=Base(name="base"),
        versions=frozenset([A, B]),
        engines=(engine,),
        routes={"support": Route(alias="support", split=split, salt="s", mirror=mirror())},
    )

    class Anyone:
        def unit(self, _sources: tuple[str, ...]) -> str:
            return "u"

    def placed(model: str, arm: Arm | None = None) -> Any:
        return answer(Call(Principal(id="k", role=Role.APP_PIN), model, Anyone(), arm), table, {})

    assert placed("support").reason == "fallback:version_not_ready"
    assert placed("support").mirror is None
    assert placed("support", Arm.CONTROL).mirror is None
    assert placed(A).mirror is None
    assert placed("base").mirror is None
    both = EngineState(url="http://e", versions=frozenset([A, B]))
    object.__setattr__(table, "engines", (both,))
    assert placed("support").mirror == mirror()


# How many pairs are noise


def shares(found: Mirror, weight: int) -> dict[str, float]:
    """What share of an alias's copies is of each kind and was served by whom, at a candidate's weight."""
    counts: Counter[str] = Counter()
    for number, each in enumerate(IDS):
        version = B if number * 7_919 % 10_000 < weight else A
        copy = pick_copy(replace(found, share=10_000), version, each)
        assert copy is not None
        assert copy.kind != "noise" or copy.control == A
        counts[f"{copy.kind} {copy.served}"] += 1
    return {name: count / len(IDS) for name, count in counts.items()}


@pytest.mark.parametrize("weight", [0, 100, 2_500, 5_000])
def test_where_a_gate_is_held_against_noise_a_third_of_the_pairs_is_noise_whatever_the_weight(weight: int) -> None:
    shadow = Shadow(candidate=B, share=10_000, needs_noise=True)
    found = shares(built(route(shadow=shadow, candidate=B, weight=weight)), weight)
    assert 0.3 < found["noise control"] < 0.4
    assert found["candidate control"] >= 0.14  # `ttft` and `itl` compare these alone


def test_the_candidates_own_noise_is_never_asked_and_control_is_compared_up_to_the_end() -> None:
    for weight in (7_500, 9_900):
        shadow = Shadow(candidate=B, share=10_000, needs_noise=True)
        found = shares(built(route(shadow=shadow, candidate=B, weight=weight)), weight)
        assert found["candidate control"] > 0.25 * (1 - weight / 10_000)
    by_hand = built(route(mirror=MirrorPolicy(share=9), candidate=B, weight=10_000))
    assert shares(by_hand, 10_000) == {"candidate candidate": 1.0}


def test_no_noise_is_asked_in_a_stage_where_nobody_reads_it() -> None:
    shadow = Shadow(candidate=B, share=10_000)
    for policy in (None, MirrorPolicy(share=9), MirrorPolicy(share=9, noise_share=5_000)):
        assert shares(built(route(shadow=shadow, mirror=policy)), 0) == {"candidate control": 1.0}


def test_a_stage_that_an_earlier_release_stored_is_read_as_one_that_needs_no_noise() -> None:
    stored = b'{"candidate": "%s", "share": 500}' % B.encode()
    assert msgspec.json.decode(stored, type=Shadow) == Shadow(candidate=B, share=500, needs_noise=False)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_noise_of_control_is_never_more_than_asked_and_leaves_some_of_controls_copies(share: int, weight: int) -> None:
    of_control = noise_of_control(share, weight)
    assert 0 <= of_control <= 10_000
    assert of_control * (10_000 - weight) <= share * 10_000 + 10_000, "rounding apart"
    assert weight == 0 or of_control <= max(share, 7_000)


def test_a_judge_gets_noise_for_its_calibration_in_a_stage_and_a_route_its_own_share_without_one() -> None:
    judged = MirrorPolicy(share=9, noise_share=2_000, judge=JudgePolicy(url="http://127.0.0.1:1", model="m"))
    shadow = Shadow(candidate=B, share=10_000)
    assert built(route(shadow=shadow, mirror=judged)).noise_share == 2_000
    assert built(route(mirror=MirrorPolicy(share=9, noise_share=2_000))).noise_share == 2_000
    assert built(route(mirror=MirrorPolicy(share=9))).noise_share == 1_000
    by_hand = route(mirror=MirrorPolicy(share=9), candidate=B, weight=5_000)
    assert shares(built(by_hand), 5_000)["noise control"] == pytest.approx(0.1, abs=0.02)


def test_where_a_gate_needs_noise_and_the_route_wants_some_the_greater_share_holds() -> None:
    shadow = Shadow(candidate=B, share=10_000, needs_noise=True)
    for own, found in ((0, 3_500), (1_000, 3_500), (6_000, 6_000)):
        assert built(route(shadow=shadow, mirror=MirrorPolicy(share=9, noise_share=own))).noise_share == found


@pytest.mark.parametrize(
    ("gates", "needed"),
    [
        (["refusal", {"kl": {"limit": 0.5}}], False),
        (["kl"], False),
        (["judge", "failed"], False),
        ([{"kl": {"margin": 0.1}}], True),
        (["refusal", "chrf"], True),
        ([{"chrf": {"limit": 0.5}}], False),
        ([{"ttft": {"muted": True}}], True),
        (["score:missing"], False),
    ],
)
def test_a_stage_asks_for_noise_where_one_of_its_gates_is_held_against_it(gates: list[Any], needed: bool) -> None:
    plan = parse_plan({"shadow": {"pairs": 100, "gates": gates}, "steps": [{"weight": "10%"}]})
    rollout = Rollout(id="ro-1", alias="support", control=A, candidate=B, home=A, plan=plan, phase=Phase.SHADOW)
    assert needs_noise(rollout) is needed
    record = route_after(RouteRecord(alias="support", control=A, salt="s"), rollout, 0)
    assert record.shadow == Shadow(candidate=B, share=1_000, needs_noise=needed)
    stepping = replace(rollout, phase=Phase.CANARY, index=1, weight=1_000)
    assert not needs_noise(stepping), "its gates read no pairs"
    assert route_after(record, stepping, 0).shadow is None


# Sessions and tasks


def taken(body: dict[str, Any] | None = None, **fields: Any) -> CapturedRequest:
    data = msgspec.json.encode(body or CHAT)
    made = CapturedRequest(
        "candidate",
        A,
        B,
        "control",
        "support",
        "r1",
        2,
        "full",
        b"/v1/chat/completions",
        b"1",
        "key",
        "salt",
        "",
        None,
        data,
        True,
        0,
        10.0,
    )
    return structs.replace(made, **fields)


TURN = {"role": "user", "content": "hi"}
CHAT: dict[str, Any] = {"model": "m", "messages": [TURN]}


def test_a_session_is_the_conversation_or_who_is_named_and_never_the_key() -> None:
    grown = {**CHAT, "messages": [TURN, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "x"}]}
    assert session_of(taken(CHAT)) == session_of(taken(grown))
    other = {**CHAT, "messages": [{"role": "user", "content": "hello"}]}
    sessions = [
        session_of(each)
        for each in (
            taken(CHAT),
            taken(other),
            taken(CHAT, caller="another"),
            taken(CHAT, salt="another"),
            taken(CHAT, named="ann"),
            taken(CHAT, named="bob"),
            taken(CHAT, named="ann", caller="another"),
        )
    ]
    assert len(set(sessions)) == len(sessions)
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in sessions)
    assert session_of(taken(other, named="ann")) == session_of(taken(CHAT, named="ann"))


def test_a_request_that_tells_of_no_session_is_one_of_its_own() -> None:
    plain = {"model": "m", "prompt": "hi"}
    first, second = (taken(plain, request_id=each) for each in (b"1", b"2"))
    assert session_of(first) != session_of(second)
    assert session_of(first) == session_of(taken(plain, request_id=b"1"))


@pytest.mark.parametrize(
    ("header", "task"),
    [
        (None, ""),
        (b"", ""),
        (b"support.refund-1", "support.refund-1"),
        (b"Refund", ""),
        (b"a" * 33, ""),
        (b"who is this?", ""),
        (b"caf\xe9", ""),
        (b"a\n", ""),
    ],
)
def test_a_task_is_a_short_name_or_none(header: bytes | None, task: str) -> None:
    assert task_of(header) == task


@pytest.mark.parametrize(
    ("prompt", "is_pair"),
    [
        ("one", True),
        (["one"], True),
        (["one", "two"], False),
        ([1, 2, 3], True),
        ([[1, 2], [3]], False),
        ([[1, 2]], True),
        (None, True),
    ],
)
def test_several_prompts_in_one_are_no_pair(prompt: Any, is_pair: bool) -> None:
    request = taken({"model": "m", "prompt": prompt}, endpoint=b"/v1/completions")
    if is_pair:
        assert sample_of(request, "0" * 32, 0.0).body == request.body
    else:
        with pytest.raises(NoPair, match="several_prompts"):
            sample_of(request, "0" * 32, 0.0)
    assert sample_of(structs.replace(request, body=b'{"prompt":["\\ud800","x"]}'), "0" * 32, 0.0).session


def test_a_sample_holds_the_bytes_of_both_sides_and_the_times_between_them() -> None:
    request = taken(CHAT, task=b"refund")
    request.parts = [b"b\r\ndata: {}\r\n\r\n\r\n", b"data: [", b"6\r\nDONE]\n\r\n"]
    request.plain = [1]
    request.first_at, request.ended_at = 10.25, 12.0
    sample = sample_of(request, "0" * 32, 1_800_000_000.0)
    assert sample.reply == b"data: {}\r\n\r\ndata: [DONE]\n"
    assert (sample.ttft_seconds, sample.duration_seconds, sample.at) == (0.25, 2.0, 1_800_000_000.0)
    assert (sample.rollout, sample.stage, sample.task, sample.body) == ("r1", 2, "refund", request.body)
    assert (sample.served, sample.replayed) == ("control", B)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample), type=type(sample)) == sample
