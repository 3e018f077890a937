"""The rollout machine under random events: never off its table, never forward after a rollback, equal to its replay."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.judge.verdict import Verdict
from gateway.decide.assign import Split
from gateway.rollout.automation import decide
from gateway.rollout.events import (
    Aborted,
    Approved,
    AuditMissing,
    AuditPassed,
    Created,
    Event,
    Paused,
    Promoted,
    Resumed,
    RolledBack,
    Started,
    StepFailed,
    StepInconclusive,
    StepPassed,
)
from gateway.rollout.gates.look import Facts
from gateway.rollout.gates.reading import Reading, worst
from gateway.rollout.gates.streams import Streams
from gateway.rollout.gates.unit_shares import Count, units_of
from gateway.rollout.journal import JournalEntry, append, verify
from gateway.rollout.machine import TRANSITIONS, IllegalEvent, advance, create
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.replay import record_of, replay
from gateway.rollout.rollout import Effect, FlipControl, Phase, Rollout, SetMirror, SetWeight, Transition
from tests.support.examples import examples

V1, V2, V0 = "support@111111111111", "support@222222222222", "support@000000000000"
PLANS = (
    "shadow 10 pairs → 1 % 10 min → 50 % → 100 %",
    "1 % 10 min → 5 %",
    "shadow 10 pairs",
    "100 %",
    {
        "shadow": {"pairs": 10, "max_pairs": 400, "share": "100%", "gates": ["kl", {"exact": {"critical": False}}]},
        "steps": [{"weight": "5%", "gates": ["kl", {"edit": {"muted": True}}]}, {"weight": "50%"}, {"weight": "100%"}],
    },
    {
        "audit": True,
        "steps": [{"weight": "1%", "gates": ["manual"]}, {"weight": "20%", "gates": []}, {"weight": "100%"}],
    },
)
CASES = settings(max_examples=examples(100), deadline=None)

words = st.sampled_from(["because", "x", "", " "])
overrides = st.sampled_from([None, "because", "because", ""])
verdicts = st.sampled_from([Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL])


def drafted(plan: object) -> Transition:
    return create(
        Created(
            at=0.0, by="key-1", reason="new", id="r", alias="support", control=V1, candidate=V2, plan=parse_plan(plan)
        )
    )


@st.composite
def events(draw: st.DrawFn, state: Rollout) -> Event:
    """Any event: mostly one that may fit `state`, often one that does not."""
    who: dict[str, Any] = {"at": draw(st.floats(-10, 1e5)), "by": draw(st.sampled_from(["key-1", "automation", ""]))}
    kind = draw(st.sampled_from([StepPassed, StepPassed, StepPassed, Started, Resumed, Approved, None]))
    step = who | {"stage": draw(st.sampled_from([state.stage, state.stage, state.stage + 1]))}
    samples = draw(st.sampled_from([0, 199, 200, 5000]))
    gates = state.current.gates if state.current is not None else ()
    read = tuple(
        Reading(
            gate=gate.name,
            verdict=draw(verdicts),
            reason="r",
            n=samples,
            e_value=draw(st.none() | st.just(1e300)),
            is_muted=gate.is_muted,
            is_critical=gate.is_critical,
            first=1,
            last=samples,
            against=("ab",),
        )
        for gate in gates
    )
    read = draw(st.sampled_from([read, read, read, ()]))
    said = who | {"reason": draw(words)}
    made: Sequence[Event] = (
        AuditPassed(**said),
        AuditMissing(**said),
        Paused(**said),
        Aborted(**said),
        StepFailed(**step, samples=samples, readings=read),
        StepInconclusive(**step, reason="r", samples=samples, readings=read),
        Promoted(**who, override=draw(overrides)),
        RolledBack(**said, to_version=draw(st.sampled_from([None, V0, V2]))),
    )
    if kind is StepPassed:
        return StepPassed(**step, samples=samples, readings=read)
    if kind is Started:
        return Started(**who, override=draw(overrides))
    if kind is Resumed:
        return Resumed(**said)
    if kind is Approved:
        return Approved(**step, reason="r")
    return draw(st.sampled_from(made))


class Shell:
    """Carries effects out on a route, as whoever applies them must."""

    def __init__(self) -> None:
        self.control, self.candidate, self.weight, self.mirrors = V1, "", 0, False

    def apply(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SetWeight):
                self.candidate, self.weight = effect.candidate, effect.weight
            elif isinstance(effect, FlipControl):
                assert self.control in (effect.before, effect.after)
                self.control = effect.after
            elif isinstance(effect, SetMirror):
                self.mirrors = effect.is_on

    def split(self) -> Split:
        return Split(self.control, self.candidate, self.weight) if self.weight else Split(self.control)


@CASES
@given(st.sampled_from(PLANS), st.data())
def test_random_events_never_leave_the_table_and_the_journal_replays_to_the_same_state(
    plan: object, data: st.DataObject
) -> None:
    transition = drafted(plan)
    state = transition.after
    entries: list[JournalEntry] = [append(None, record_of(transition))]
    shell = Shell()
    for _ in range(data.draw(st.integers(1, 15))):
        event = data.draw(events(state))
        copy = replace(state)
        try:
            transition = advance(state, event)
        except IllegalEvent:
            assert state == copy  # nothing has changed, and nothing was returned to apply
            continue
        assert state == copy
        after = transition.after
        assert after.phase in TRANSITIONS[state.phase, type(event)].targets
        assert after.sequence == state.sequence + 1
        check_forward(state, event, after)
        entries.append(append(entries[-1], record_of(transition)))
        shell.apply(transition.effects)
        shell.apply(transition.effects)  # a crash after the effect and before it was noted: done twice, it is the same
        assert (shell.split(), shell.mirrors) == (after.split(), after.is_mirrored)
        state = after
    assert verify(entries) is None
    assert replay(json.loads(json.dumps(entry.record)) for entry in entries) == state


def check_forward(before: Rollout, event: Event, after: Rollout) -> None:
    """Forward by the plan or by a person alone; never a weight that the plan does not name."""
    assert after.weight in {0, *(stage.weight for stage in after.plan.stages)}
    if after.weight > before.weight:
        assert isinstance(event, StepPassed | Started)
    if isinstance(event, StepPassed):
        assert worst(event.readings) is Verdict.PASS
        assert before.may_pass(event.at, event.samples)
    if after.phase is Phase.LIVE:
        assert isinstance(event, StepPassed | Started | Promoted)
    if after.phase in (Phase.ROLLED_BACK, Phase.ABORTED):
        assert after.split().candidate is None
        assert after.home != after.candidate


@CASES
@given(st.sampled_from(PLANS), st.booleans(), st.data())
def test_no_event_at_all_gives_the_candidate_traffic_after_a_rollback_or_an_abort(
    plan: object, is_aborted: bool, data: st.DataObject
) -> None:
    state = advance(drafted(plan).after, Started(at=0.0, by="key-1", override="yes")).after
    kind = Aborted if is_aborted and state.phase is not Phase.LIVE else RolledBack
    state = advance(state, kind(at=1.0, by="key-1", reason="bad")).after
    for _ in range(5):
        with suppress(IllegalEvent):
            state = advance(state, data.draw(events(state))).after
        assert (state.weight, state.home, state.split()) == (0, V1, Split(V1))
        assert decide(state, Facts(stage=state.stage, samples=10**6), 1e9) is None


counts = st.builds(
    lambda n, share: units_of(Count(n=n, bad=round(n * share))),
    st.integers(0, 20_000),
    st.sampled_from([0, 0.001, 0.02, 0.5, 1]),
)
streams = st.builds(Streams, control=counts, candidate=counts)
pair_readings = st.dictionaries(
    st.sampled_from(["kl", "exact", "edit", "refusal", "repetition", "truncated"]),
    st.builds(Reading, gate=st.just(""), verdict=st.sampled_from(Verdict), reason=st.just("r"), n=st.integers(0, 99)),
).map(lambda readings: {gate: replace(reading, gate=gate) for gate, reading in readings.items()})
late = st.lists(
    st.builds(Reading, gate=st.just("kl"), verdict=st.sampled_from(Verdict), reason=st.just("in stage 1: r")),
    max_size=1,
)


@CASES
@given(st.sampled_from(PLANS), st.lists(st.tuples(streams, streams, st.integers(0, 30_000)), max_size=12), st.data())
def test_whatever_automation_decides_is_legal_and_never_promotes_on_less_than_a_pass(
    plan: object, looks: list[tuple[Streams, Streams, int]], data: st.DataObject
) -> None:
    """Muted gates never decide, and only critical ones roll back, of this stage or of an earlier one."""
    state = advance(drafted(plan).after, Started(at=0.0, by="key-1", override="yes")).after
    now = 0.0
    for errors, latency, seconds in looks:
        now += seconds
        facts = Facts(
            stage=state.stage,
            samples=errors.candidate.n,
            streams={"error_rate": errors, "latency": latency},
            pair_readings=data.draw(pair_readings),
            late=tuple(data.draw(late)),
            is_settled=data.draw(st.booleans()),
        )
        event = decide(state, facts, now)
        if event is None:
            if state.phase is Phase.PAUSED and not state.is_complete and data.draw(st.booleans()):
                state = advance(state, Resumed(at=now, by="key-1", reason="again")).after
            continue
        after = advance(state, event).after  # never IllegalEvent
        assert isinstance(event, StepFailed) is any(reading.rolls_back for reading in event.readings)
        bad = {reading.verdict for reading in event.readings if not reading.is_muted}
        if isinstance(event, StepFailed):
            assert after.phase is Phase.ROLLED_BACK
        elif bad - {Verdict.PASS}:
            assert (after.phase, after.weight) == (Phase.PAUSED, state.weight)
        state = after
