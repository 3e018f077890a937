"""Write routes for people: a rollout plan as one line, a field in a few words, changes as lines.

The input is the JSON values of the admin API's replies, so that the command line can use it too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.admin.routes.policies import describe_policy, share, time_text, worth_writing, write_value
from gateway.records.declared import DeclaredField, find_declared_fields
from gateway.records.routes import RoutePolicy
from gateway.rollout.plan import MIN_SAMPLES, canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan
from gateway.rollout.plan_values import DEFAULT_TIME

if TYPE_CHECKING:
    from gateway.admin.models.routes import FieldView, PlanView

SIGNS: Final = {"add": "+", "change": "~", "remove": "-"}
_MAX_NOTES: Final = 60
_FIELDS: Final = {field.name: field for field in find_declared_fields(RoutePolicy).values()}


def plan_line(plan: Mapping[str, Any]) -> str | None:
    """Return a rollout plan, as `canonical` writes it, in one line; None if a line cannot express all of it."""
    parts = []
    shadow = plan.get("shadow")
    if shadow is not None:
        time = f" {time_text(shadow['min_time'])}" if shadow["min_time"] else ""
        parts.append(f"shadow {shadow['pairs']} pairs{time}")
    seconds = DEFAULT_TIME
    for step in plan["steps"]:
        words = [share(step["weight"])]
        if step.get("min_time", seconds) != seconds:
            seconds = step["min_time"]
            words.append(time_text(seconds))
        if step.get("min_samples", MIN_SAMPLES) != MIN_SAMPLES:
            words.append(f"{step['min_samples']} samples")
        parts.append(" ".join(words))
    line = " → ".join(parts)
    try:
        return line if canonical(parse_plan(line)) == plan else None
    except InvalidPlan:
        return None


def write_route(route: Mapping[str, Any]) -> dict[str, Any]:
    """Return a route as routes.yaml has it, without fields that have their default value."""
    return {field.key: _write(field, route[field.name]) for field in worth_writing(RoutePolicy, route)}


def _write(field: DeclaredField, value: Any) -> Any:
    return plan_line(value) or value if field.how.kind == "plan" else write_value(field, value)


def describe_field(name: str, value: Any) -> str:
    """Return the value of one of a route's fields in a few words."""
    if value is None or value == "":
        return "none"
    field = _FIELDS.get(name)
    if field is None:
        return str(value)
    match field.how.kind:
        case "sources":
            return ", ".join(value)
        case "policy":
            return describe_policy(field.policy, value)
        case "plan":
            return f"'{plan_line(value) or _plan_name(value)}'"  # quoted, since changes are written with arrows too
        case "field_rules":
            return ", ".join(f"{field} {rule}" for field, rule in value.items()) or "none"
        case "text":
            text = value if len(value) <= _MAX_NOTES else value[: _MAX_NOTES - 1] + "…"
            return repr(text)  # escapes line breaks, so that it stays on one line
        case _:
            return str(write_value(field, value))


def _plan_name(plan: Mapping[str, Any]) -> str:
    steps = [share(step["weight"]) for step in plan["steps"]]
    if "shadow" in plan:
        steps.insert(0, f"shadow {plan['shadow']['pairs']} pairs")
    return f"{' → '.join(steps)} (config {parse_plan(plan).config_hash[:12]})"


def field_lines(changes: Sequence["FieldView"]) -> Iterator[str]:
    """Yield a line for each field that changes."""
    for change in changes:
        before, after = (describe_field(change.field, value) for value in (change.before, change.after))
        yield f"    {change.field:<10} {before} → {after}"


def plan_lines(plan: "PlanView") -> Iterator[tuple[str, str]]:
    """Yield (kind, line) for each line of a plan.

    Kinds are `add`, `change`, `remove`, `field`, `meaning`, `warning` and `note`.
    """
    for change in plan.changes:
        yield change.action, f"{SIGNS[change.action]} {change.alias}"
        for line in field_lines(change.fields):
            yield "field", line
        for meaning in change.meaning:
            yield "meaning", f"      {meaning}"
    for warning in plan.warnings:
        yield "warning", f"warning: {warning}"
    if plan.left_alone:
        yield "note", f"Not in the file, and left alone: {', '.join(plan.left_alone)}."
    counts = [sum(change.action == action for change in plan.changes) for action in SIGNS]
    if any(counts):
        added, changed, removed = counts
        yield "note", f"Plan: {added} to add, {changed} to change, {removed} to remove."
    else:
        yield "note", "No changes: the routes are as declared."
