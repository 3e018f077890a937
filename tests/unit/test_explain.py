"""Records as sentences: what a reader of the journal is told of readings, evidence, accounts and controls."""

from typing import Any

from evaluators.judge.verdict import Verdict
from gateway.rollout.explain import Record, sentences, standing_lines
from gateway.rollout.gates.reading import Reading


def stage_passed(*readings: dict[str, Any], **changes: Any) -> Record:
    """A record of a rollout that goes from its first stage to its second."""
    before = {"phase": "canary", "stage": 1, "weight": 1000, "home": "support@one"}
    return {
        "kind": "rollout",
        "at": 0.0,
        "who": "ann",
        "alias": "support",
        "candidate": "support@two",
        "control": "support@one",
        "n": 7,
        "before": before,
        "after": {**before, "stage": 2, "weight": 5000},
        "event": {"type": "StepPassed", "stage": 1, "readings": readings},
        **changes,
    }


def reading(**changes: Any) -> dict[str, Any]:
    return {"gate": "refusal", "verdict": "fail", "reason": "refusal +0.4 > +0.1", **changes}


def test_what_counts_as_slow_in_a_stage_is_told_when_it_begins() -> None:
    (line,) = [each for each in sentences(stage_passed(threshold_seconds=1.5)) if "slower" in each]
    assert line == "  in this stage a request slower than 1.5 s counts as slow."


def test_a_gate_that_is_muted_or_not_critical_is_marked_so() -> None:
    told = "\n".join(sentences(stage_passed(reading(is_muted=True), reading(gate="chrf", is_critical=False))))
    assert "gate `refusal` (muted, decides nothing): fail" in told
    assert "gate `chrf` (not critical): fail" in told


def test_pairs_behind_a_reading_are_named_and_those_most_against_it() -> None:
    told = sentences(stage_passed(reading(first=3, last=90, e_value=1234.5, against=("s-1", "s-2"))))
    assert "    on pairs 3 to 90, e-value 1.23e+03." in told
    assert "    most against it: samples s-1, s-2." in told


def test_pairs_without_an_e_value_and_a_pass_tell_no_more_than_which() -> None:
    told = "\n".join(sentences(stage_passed(reading(verdict="pass", first=3, last=9, against=("s-1",)))))
    assert "on pairs 3 to 9.\n" in told + "\n"
    assert "against" not in told


def test_another_control_is_told() -> None:
    record = stage_passed()
    changed = {**record, "after": {**record["after"], "home": "support@two"}}
    assert "  the control is `support@two`; before `support@one`." in sentences(changed)


def test_how_a_stage_stands_is_told_only_if_a_gate_has_a_reading() -> None:
    assert standing_lines([]) == []
    now = Reading(gate="refusal", verdict=Verdict.INCONCLUSIVE, reason="too few pairs")
    assert standing_lines([now])[0] == "As it stands now:"
