"""Routes as people read and write them: a plan as one line, a field as a few words, changes as lines.

It works on the JSON values that the admin API hands out, so that the command line shows them with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from gateway.admin.routes.mirror import shown_mirror, written_mirror
from gateway.decide.assign import DEFAULT_SOURCES
from gateway.rollout.plan import MIN_SAMPLES, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.plan_values import DEFAULT_TIME

SIGNS: Final = {"add": "+", "change": "~", "remove": "-"}
_MAX_NOTES: Final = 60
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60))
_LIMITS: Final = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "max_in_flight": "in flight",
}


def share(weight: int) -> str:
    """Return basis points as per cent."""
    return f"{weight / 100:g} %"


def plan_line(plan: Mapping[str, Any]) -> str | None:
    """Return a plan, as `canonical` writes it, in one line; None if no line says all of it."""
    parts = []
    shadow = plan.get("shadow")
    if shadow is not None:
        time = f" {_time(shadow['min_time'])}" if shadow["min_time"] else ""
        parts.append(f"shadow {shadow['pairs']} pairs{time}")
    seconds = DEFAULT_TIME
    for step in plan["steps"]:
        words = [share(step["weight"])]
        if step.get("min_time", seconds) != seconds:
            seconds = step["min_time"]
            words.append(_time(seconds))
        if step.get("min_samples", MIN_SAMPLES) != MIN_SAMPLES:
            words.append(f"{step['min_samples']} samples")
        parts.append(" ".join(words))
    line = " → ".join(parts)
    try:
        return line if canonical(parse_plan(line)) == plan else None
    except InvalidPlan:
        return None


def _time(seconds: int) -> str:
    for unit, size in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def written(route: Mapping[str, Any]) -> dict[str, Any]:
    """Return what routes.yaml has to say of a route, with nothing in it that goes without saying."""
    values = {key: route[key] for key in ("alias", "control")}
    if route["candidate"] is not None:
        values["candidate"] = route["candidate"]
    if route["weight"]:
        values["weight"] = share(route["weight"])
    if tuple(route["unit"]) != DEFAULT_SOURCES:
        values["unit"] = list(route["unit"])
    if route["mirror"] is not None:
        values["mirror"] = written_mirror(route["mirror"])
    if route["plan"] is not None:
        values["plan"] = plan_line(route["plan"]) or route["plan"]
    if route["limits"] is not None:
        values["limits"] = {key: value for key, value in route["limits"].items() if value is not None}
    if route.get("engine_fields"):
        values["engine_fields"] = route["engine_fields"]
    if route["notes"]:
        values["notes"] = route["notes"]
    return values


def shown(field: str, value: Any) -> str:
    """Return the value of one of a route's fields in a few words."""
    if value is None or value == "":
        return "none"
    match field:
        case "weight":
            return share(value)
        case "unit":
            return ", ".join(value)
        case "mirror":
            return shown_mirror(value)
        case "plan":
            return f"'{plan_line(value) or _plan_name(value)}'"  # its arrows are not those of a change
        case "limits":
            return ", ".join(f"{value[key]} {unit}" for key, unit in _LIMITS.items() if value.get(key) is not None)
        case "engine_fields":
            return ", ".join(f"{name} {rule}" for name, rule in value.items()) or "none"
        case "notes":
            text = value if len(value) <= _MAX_NOTES else value[: _MAX_NOTES - 1] + "…"
            return repr(text)  # on one line, whatever is in it
        case _:
            return str(value)


def _plan_name(plan: Mapping[str, Any]) -> str:
    steps = [share(step["weight"]) for step in plan["steps"]]
    if "shadow" in plan:
        steps.insert(0, f"shadow {plan['shadow']['pairs']} pairs")
    return f"{' → '.join(steps)} (config {parse_plan(plan).config_hash[:12]})"


def field_lines(changes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each field that changes."""
    for change in changes:
        before, after = (shown(change["field"], change[side]) for side in ("before", "after"))
        yield f"    {change['field']:<10} {before} → {after}"


def plan_lines(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a plan's lines, each with what it is: `add`, `change`, `remove`, `field`, `meaning`, `warning`, `note`."""
    for change in plan["changes"]:
        yield change["action"], f"{SIGNS[change['action']]} {change['alias']}"
        for line in field_lines(change["fields"]):
            yield "field", line
        for meaning in change["meaning"]:
            yield "meaning", f"      {meaning}"
    for warning in plan["warnings"]:
        yield "warning", f"warning: {warning}"
    if plan["left_alone"]:
        yield "note", f"Not in the file, and left alone: {', '.join(plan['left_alone'])}."
    counts = [sum(change["action"] == action for change in plan["changes"]) for action in SIGNS]
    if any(counts):
        added, changed, removed = counts
        yield "note", f"Plan: {added} to add, {changed} to change, {removed} to remove."
    else:
        yield "note", "No changes: the routes are as declared."
