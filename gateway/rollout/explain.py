"""Describe journal records in sentences. Pure. Records of unknown kinds get one short sentence."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from gateway.rollout.events import AUTOMATION
from gateway.rollout.gates.reading import Reading
from gateway.rollout.gates.traffic import OTHERS

Record = Mapping[str, Any]

_DEEDS: Final = {
    "Created": "drafted the rollout of `{candidate}` on `{alias}`, whose control is `{control}`",
    "Started": "started it",
    "AuditPassed": "noted that the candidate's audit passed",
    "AuditMissing": "noted that the candidate has no audit that passed",
    "Approved": "approved stage {stage}",
    "StepPassed": "found that stage {stage} passes, with {n:,} samples of the candidate",
    "StepFailed": "found that stage {stage} fails, with {n:,} samples of the candidate, and rolled back",
    "StepInconclusive": "could not decide stage {stage}, with {n:,} samples of the candidate, and paused",
    "Paused": "paused it",
    "Resumed": "let the stage begin anew",
    "Promoted": "promoted `{candidate}`",
    "Aborted": "aborted it",
    "RolledBack": "rolled `{candidate}` back",
}
# Fields of a route that are left out of the description of its change.
_UNTOLD: Final = frozenset(("created", "salt"))
_UNSAID: Final = "no reason was given"


class UnknownDecision(LookupError):
    """No journal entry has this number, and no rollout this id."""


class InvalidHead(ValueError):
    """A head is written NUMBER:HASH."""


def when_of(record: Record) -> str:
    """Return the record's time in UTC, as text."""
    at = record.get("at")
    if not isinstance(at, int | float):
        return "at an unknown time"
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


def sentences(record: Record) -> list[str]:
    """Return a record as sentences: the time, author, act and reason, the change, and the figures behind it."""
    kind = record.get("kind")
    try:
        if kind == "rollout":
            return _rollout(record)
        if kind in ("route", "rollback"):
            return _route(record)
        if kind == "threshold":
            return _threshold(record)
        if kind == "drift":
            return _drift(record)
    except (KeyError, TypeError, ValueError, AttributeError):  # of a later release, or tampered with
        return [f"{_when_and_who(record)}: a record of kind `{kind}` that this release cannot read."]
    return [f"{_when_and_who(record)}: `{kind}` of `{record.get('alias', '-')}`: {record.get('why') or _UNSAID}."]


def _when_and_who(record: Record) -> str:
    who = record.get("who")
    return f"{when_of(record)}, {'automation' if who == AUTOMATION else f'`{who}`'}"


def _rollout(record: Record) -> list[str]:
    event, before, after = record["event"], record["before"], record["after"]
    readings = event.get("readings", ())
    words = {"candidate": record["candidate"], "alias": record["alias"], "control": record["control"]}
    deed = _DEEDS.get(event["type"], event["type"]).format(
        **words, stage=event.get("stage", after["stage"]), n=record["n"]
    )
    # The record's `why` includes the readings, which get lines of their own here, so the event's reason is used.
    reason = event.get("reason") or event.get("override")
    lines = [f"{_when_and_who(record)} {deed}" + (f": {reason}." if reason else ".")]
    lines += [line for each in readings for line in _reading_lines(each)]
    lines += _moves(record, before, after)
    if event["type"] == "Created":
        lines.append(f"  plan {record['config_hash'][:12]}: {plan_line(event['plan'])}.")
    if after["phase"] == "canary" and (before is None or before["stage"] != after["stage"]):
        seconds = record.get("threshold_seconds")
        if seconds is not None:
            lines.append(f"  in this stage a request slower than {seconds:g} s counts as slow.")
    return lines


def _reading_lines(each: Mapping[str, Any]) -> list[str]:
    """Return the lines on a gate's reading, with the pairs behind it if the gate reads pairs."""
    flags = " (muted, decides nothing)" if each.get("is_muted") else ""
    if not each.get("is_critical", True):
        flags += " (not critical)"
    lines = [f"  gate `{each['gate']}`{flags}: {each['verdict']}: {each['reason']}."]
    if each.get("first") is not None:
        e_value = each.get("e_value")
        evidence = f", e-value {e_value:,.3g}" if e_value is not None else ""
        lines.append(f"    on pairs {each['first']} to {each['last']}{evidence}.")
    against = each.get("against") or ()
    if against and each["verdict"] != "pass":
        lines.append(f"    most against it: samples {', '.join(against)}.")
    return lines + [f"    {share_of_account(account)}." for account in each.get("accounts") or ()]


def standing_lines(readings: Iterable[Reading]) -> list[str]:
    """Return the lines on the present readings of an open rollout's stage, which are in no record yet."""
    lines = [line for each in readings for line in _reading_lines(asdict(each))]
    return ["As it stands now:", *lines] if lines else []


def share_of_account(share: Mapping[str, Any]) -> str:
    """Return a phrase on one account's part in a gate's counts."""
    units = f"{share['units']:,} units; " if share["units"] else ""
    whose = (
        "all accounts that are too small to be told apart" if share["account"] == OTHERS else f"`{share['account']}`"
    )
    return (
        f"of {whose}: {units}candidate {share['bad']:,} bad of {share['n']:,}, "
        f"control {share['control_bad']:,} bad of {share['control_n']:,}"
    )


def _moves(record: Record, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    """Return the lines on how a transition changed traffic and phase."""
    if before is None:
        return []
    lines = []
    if before["weight"] != after["weight"]:
        lines.append(
            f"  `{record['candidate']}` gets {_share(after['weight'])} of `{record['alias']}` as candidate; "
            f"before {_share(before['weight'])}."
        )
    if before["home"] != after["home"]:
        lines.append(f"  the control is `{after['home']}`; before `{before['home']}`.")
    for effect in record.get("effects", ()):
        if effect["type"] == "SetMirror":
            share = f"{_share(effect['share'])} of the requests are" if effect.get("share") else "no requests are"
            lines.append(f"  {share} compared on both versions.")
    if before["phase"] != after["phase"]:
        lines.append(f"  it is `{after['phase']}` now; before `{before['phase']}`.")
    return lines


def _route(record: Record) -> list[str]:
    before, after = record["before"], record["after"]
    alias = record["alias"]
    did = "rolled back" if record["kind"] == "rollback" else "made" if before is None else "changed"
    if after is None:
        did = "removed"
    lines = [f"{_when_and_who(record)} {did} `{alias}`: {record.get('why') or _UNSAID}."]
    if record.get("rollout"):
        lines.append(f"  this takes back rollout `{record['rollout']}`.")
    old, new = before or {}, after or {}
    return lines + [
        f"  {name}: `{_render_value(name, new.get(name))}`; before `{_render_value(name, old.get(name))}`."
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in _UNTOLD
    ]


def _threshold(record: Record) -> list[str]:
    return [
        f"{_when_and_who(record)} found from when a request of stage {record['stage']} is slow: {record['why']}.",
        f"  a request slower than {record['after']:g} s counts as slow.",
    ]


def _drift(record: Record) -> list[str]:
    found = f"found that traffic to `{record['version']}` is not what it was when it was accepted"
    return [
        f"{_when_and_who(record)} {found}: {record['why']}.",
        "  nothing was changed: drift over time has causes that no rollback mends.",
    ]


def _render_value(name: str, value: object) -> str:
    return _share(value) if name == "weight" and isinstance(value, int) else "none" if value is None else str(value)


def _share(weight: int) -> str:
    return f"{weight / 100:g} %"


def plan_line(plan: Mapping[str, Any]) -> str:
    """Return a plan in canonical form as one line."""
    parts = []
    shadow = plan.get("shadow")
    if shadow is not None:
        gates = _gates(shadow)
        share = f" of {_share(shadow['share'])}" if "share" in shadow else ""
        parts.append(f"shadow {shadow['pairs']:,} pairs{share}" + (f" ({gates})" if gates else ""))
    for step in plan["steps"]:
        gates = _gates(step)
        times = f" ≥ {step['min_time']} s, ≥ {step['min_samples']:,} samples" if "min_time" in step else ""
        parts.append(f"{_share(step['weight'])}{times}" + (f" ({gates})" if gates else ""))
    return " → ".join(parts)


def _gates(step: Mapping[str, Any]) -> str:
    named = [(name, parameters or {}) for gate in step.get("gates", ()) for name, parameters in gate.items()]
    return ", ".join(name + (" muted" if parameters.get("muted") else "") for name, parameters in named)
