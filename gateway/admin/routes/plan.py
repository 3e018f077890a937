"""Plan how to apply declared routes: the changes, and their meaning for traffic in plain words. Pure.

A plan is made from one version of the state and holds the complete new state, so that exactly the changes that
were shown are made. Planning the same declaration again after it was applied gives no changes.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from adapters.catalog import Catalog, Entry
from adapters.lifecycle import State
from gateway.admin.routes.files import DeclaredRoute, InvalidRoutes, policy_fields
from gateway.admin.routes.meaning import arms, meaning_of
from gateway.admin.routes.policies import share
from gateway.mirror.redactors import REGEX
from gateway.records.routes import MirrorPolicy, RoutePolicy, RouteRecord
from gateway.records.state import Desired

# The fields of a route that a file declares, in the file's order.
FIELDS: Final = tuple(name for name in RoutePolicy.__struct_fields__ if name != "alias")
Action = Literal["add", "change", "remove"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One field of a route, as JSON values."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChange:
    """The change of one alias; `meaning` has a sentence for each effect on its traffic."""

    alias: str
    action: Action
    fields: tuple[FieldChange, ...]
    meaning: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """The changes that applying a declaration makes.

    Attributes:
        version: The version of the state that the plan was made from.
        changes: One for each alias that changes.
        warnings: Consequences that are allowed but may not be intended.
        conflicts: Reasons why the plan cannot be applied to this state.
        unchanged: Aliases that are as declared already.
        left_alone: Aliases that are not declared, and stay as they are.
        after: The new state.
    """

    version: int
    changes: tuple[RouteChange, ...]
    warnings: tuple[str, ...]
    conflicts: tuple[str, ...]
    unchanged: tuple[str, ...]
    left_alone: tuple[str, ...]
    after: Desired

    def view(self) -> dict[str, Any]:
        """Return the plan as JSON values, without the new state."""
        values: dict[str, Any] = msgspec.to_builtins(
            {name: getattr(self, name) for name in self.__slots__ if name != "after"}
        )
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The values beside state and declaration that a plan depends on.

    Attributes:
        now: Unix seconds.
        new_salt: Returns the salt of a new alias.
        base_names: The names of the base model, which no alias may have.
        redactors, comparators: The ones installed on this gateway; None if that is not known.
    """

    now: int
    new_salt: Callable[[], str]
    base_names: tuple[str, ...] = ()
    redactors: Collection[str] | None = None
    comparators: Collection[str] | None = None


def plan_routes(
    desired: Desired, wanted: Sequence[DeclaredRoute], *, prune: bool, circumstances: Circumstances
) -> RoutePlan:
    """Return the plan that makes the routes as declared.

    Args:
        desired: The present state.
        wanted: The declared routes. Other aliases are left alone unless `prune` is set.
        prune: Remove routes that are not declared; their versions stay registered.
        circumstances: The other values that the plan depends on.

    Raises:
        InvalidRoutes: A version is not registered or not unique, or an alias is not allowed; it has every problem.
    """
    planner = _Planner(desired, circumstances)
    before = {route.alias: route for route in desired.routes}
    after = dict(before)
    for declared in wanted:
        route = planner.route(declared, before.get(declared.alias))
        if route is not None:
            after[declared.alias] = route
    if planner.problems:
        raise InvalidRoutes(planner.problems)
    rest = tuple(alias for alias in before if alias not in {declared.alias for declared in wanted})
    if prune:
        for alias in rest:
            planner.check_may_go(alias)
            del after[alias]
    changes = tuple(_changes(before, after))
    changed = {change.alias for change in changes}
    for change in changes:
        planner.judge(before.get(change.alias), after.get(change.alias))
    return RoutePlan(
        version=desired.version,
        changes=changes,
        warnings=tuple(planner.warnings),
        conflicts=tuple(planner.conflicts),
        unchanged=tuple(each.alias for each in wanted if each.alias not in changed),
        left_alone=() if prune else rest,
        after=msgspec.structs.replace(desired, routes=tuple(after.values())) if changes else desired,
    )


def _changes(before: dict[str, RouteRecord], after: dict[str, RouteRecord]) -> Iterator[RouteChange]:
    for alias in dict.fromkeys((*after, *before)):
        old, new = before.get(alias), after.get(alias)
        if new is None:
            meaning: tuple[str, ...] = (f"requests for `{alias}` get 404 from now on; its versions stay registered",)
            yield RouteChange(alias=alias, action="remove", fields=compare(old, None), meaning=meaning)
        elif old is None:
            meaning = (f"requests for `{alias}` are served from now on: {arms(new)}",)
            yield RouteChange(alias=alias, action="add", fields=compare(None, new), meaning=meaning)
        elif old != new and (fields := compare(old, new)):
            yield RouteChange(alias=alias, action="change", fields=fields, meaning=meaning_of(old, new))


def compare(before: RouteRecord | None, after: RouteRecord | None) -> tuple[FieldChange, ...]:
    """Return the declared fields in which two routes differ; None stands for an alias that does not exist."""
    nothing = {**_values(RoutePolicy(alias="", control="")), "control": None}
    old, new = (nothing if each is None else _values(each) for each in (before, after))
    return tuple(
        FieldChange(field=field, before=old[field], after=new[field]) for field in FIELDS if old[field] != new[field]
    )


def _values(route: RoutePolicy) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(route)
    return {**values, "unit": list(route.unit)}


class _Planner:
    """Makes route records from declarations, and collects problems, conflicts and warnings."""

    def __init__(self, desired: Desired, circumstances: Circumstances) -> None:
        self._desired = desired
        self._catalog: Catalog = desired.catalog()
        self._circumstances = circumstances
        self.problems: list[str] = []
        self.conflicts: list[str] = []
        self.warnings: list[str] = []

    def route(self, declared: DeclaredRoute, existing: RouteRecord | None) -> RouteRecord | None:
        """Return the record for a declared route; None if it has a problem with a version."""
        if declared.alias in self._circumstances.base_names:
            self.problems.append(f"{declared.where}.alias: `{declared.alias}` is the base model's name; take another")
        control = self._find_version(f"{declared.where}.control", declared.control)
        candidate, weight = None, declared.weight
        if declared.candidate is not None:
            candidate = self._find_version(f"{declared.where}.candidate", declared.candidate)
            if candidate is None:
                return None
            if candidate == control:
                self.problems.append(f"{declared.where}.candidate: `{candidate}` is the control itself; name another")
        if control is None:
            return None
        rollout = self._desired.rollout(declared.alias)
        if rollout is not None and existing is not None:
            if candidate is None:  # not declared, so the rollout goes on deciding it
                candidate, weight = existing.candidate, existing.weight
            if (control, candidate, weight) != (existing.control, existing.candidate, existing.weight):
                self.conflicts.append(self._in_rollout(declared.alias))
        now = self._circumstances.now
        route = existing or RouteRecord(
            alias=declared.alias, control="", salt=self._circumstances.new_salt(), created=now
        )
        if control != route.control:
            route = route.with_control(control, now)
        versions = {"control": control, "candidate": candidate, "weight": weight}
        return msgspec.structs.replace(route, **(policy_fields(declared) | versions))

    def check_may_go(self, alias: str) -> None:
        """Note a conflict if a rollout forbids to remove a route."""
        if self._desired.rollout(alias) is not None:
            self.conflicts.append(self._in_rollout(alias))

    def _in_rollout(self, alias: str) -> str:
        rollout = self._desired.rollout(alias)
        assert rollout is not None
        return (
            f"`{alias}` is in rollout `{rollout.id}`, which decides its control, candidate and weight: leave candidate "
            f"and weight out of the file, or first end it with `loragate rollout abort {alias}` or "
            f"`loragate rollback {alias}`"
        )

    def _find_version(self, where: str, version: str) -> str | None:
        if version in self._catalog.entries:
            return version
        matches = [each for each in self._catalog.entries if each.startswith(version)]
        if len(matches) == 1:
            return matches[0]
        what = f"is not unique: {', '.join(matches[:5])}" if matches else "is not registered"
        self.problems.append(f"{where}: `{version}` {what}; `loragate adapters ls` lists the versions")
        return None

    def judge(self, before: RouteRecord | None, after: RouteRecord | None) -> None:
        """Note the conflicts and warnings of a change."""
        if after is None:
            return
        alias = after.alias
        control = self._catalog.get(after.control)
        if control.state is not State.READY:
            text = f"`{alias}`: control `{after.control}` is {_standing(control)}"
            if before is not None and before.control == after.control:
                self.warnings.append(text)
            else:
                self.conflicts.append(f"{text}, so it cannot take over an alias; `loragate adapters show` says more")
        if control.ref.name != alias and (before is None or before.control != after.control):
            self.warnings.append(f"`{alias}`: control `{after.control}` is registered under another name")
        if after.candidate is not None:
            self._judge_candidate(after, control)
        if after.mirror is not None and (before is None or before.mirror != after.mirror):
            self._judge_mirror(alias, after.mirror)
        rollout = self._desired.rollout(alias)
        if rollout is not None and before is not None and (before.unit, before.limits) != (after.unit, after.limits):
            self.warnings.append(f"`{alias}`: rollout `{rollout.id}` runs, and its counts mix before and after this")

    def _judge_mirror(self, alias: str, policy: MirrorPolicy) -> None:
        circumstances = self._circumstances
        for name in policy.redact:
            if (
                circumstances.redactors is not None
                and name not in circumstances.redactors
                and not name.startswith(REGEX)
            ):
                self.conflicts.append(
                    f"`{alias}`: the redactor `{name}` is not installed here, so nothing could be kept of its "
                    f"requests; there are {', '.join(sorted(circumstances.redactors))} and `{REGEX}…`"
                )
        missing = [name for name in policy.comparators or () if name not in (circumstances.comparators or (name,))]
        if missing:
            self.warnings.append(
                f"`{alias}`: no comparator is called {', '.join(f'`{name}`' for name in missing)} here; an evaluator "
                "that has none of this name cannot run it"
            )
        if policy.capture == "off" and policy.share:
            self.warnings.append(f"`{alias}`: `capture: off` copies nothing, whatever the share")

    def _judge_candidate(self, route: RouteRecord, control: Entry) -> None:
        alias, version = route.alias, route.candidate
        candidate = self._catalog.entries.get(version or "")
        if candidate is None:  # it was removed while its rollout is still open
            return
        if candidate.state is not State.READY:
            self.warnings.append(
                f"`{alias}`: candidate `{version}` is {_standing(candidate)}; its units get control until it is ready"
            )
        if candidate.manifest.base != control.manifest.base:
            self.warnings.append(
                f"`{alias}`: control was trained on `{control.manifest.base}`, "
                f"the candidate on `{candidate.manifest.base}`"
            )
        if route.weight and self._desired.rollout(alias) is None:
            self.warnings.append(
                f"`{alias}`: candidate `{version}` has {share(route.weight)} without a rollout: no gate watches it, "
                "and nothing but a person takes it back; `loragate rollout start` would"
            )


def _standing(entry: Entry) -> str:
    return f"{entry.state} ({entry.reason})" if entry.reason else str(entry.state)
