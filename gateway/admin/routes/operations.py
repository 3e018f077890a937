"""Operations on routes: plan, apply, split, show the history, and revert. Each is at most one change of the state."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from adapters.lifecycle import State
from adapters.reference import InvalidReference, check_name
from evaluators.compare import comparators
from gateway.admin.route_journal import check_no_rollout, route_records
from gateway.admin.routes.files import Declaration, DeclaredRoute, InvalidRoutes, policy_fields
from gateway.admin.routes.plan import Circumstances, FieldChange, RoutePlan, compare, plan_routes
from gateway.admin.state import Conflict, LiveState, retry_overtaken
from gateway.mirror.redactors import redactor_names
from gateway.records.routes import RouteRecord, RouteVersion
from gateway.records.state import Desired


class UnknownRoute(LookupError):
    """There is no alias of this name, or its route has no version of this number."""


class StateMoved(Exception):
    """The state is no longer at the version that the change was made for (`If-Match`); nothing was changed."""


def is_name(alias: str) -> bool:
    """Return whether a text has the form of an alias."""
    try:
        check_name(alias)
    except InvalidReference:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRequest:
    """The author and the reason of a change. `if_version`: make it only if the state is still at this version."""

    by: str
    reason: str = ""
    if_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDifference:
    """The difference between two versions of a route; `first` is None for the time before the first version."""

    first: RouteVersion | None
    second: RouteVersion
    fields: tuple[FieldChange, ...]


class RouteOperations:
    """Plans and makes changes of routes.

    Args:
        state: The live state that they change.
    """

    def __init__(self, state: LiveState) -> None:
        self._state = state

    def find(self, alias: str) -> RouteRecord:
        """Return the route of an alias.

        Raises:
            UnknownRoute: There is no such alias.
        """
        route = self._state.desired.route(alias)
        if route is None:
            raise UnknownRoute(f"no alias `{alias}`; `loragate routes ls` lists them")
        return route

    def plan(self, declaration: Declaration) -> RoutePlan:
        """Return the changes that applying a declaration would make; change nothing.

        Raises:
            InvalidRoutes: A version is not registered or not unique, or an alias is not allowed.
        """
        return self._plan(declaration, lambda: secrets.token_hex(8))

    def _plan(self, declaration: Declaration, new_salt: Callable[[], str]) -> RoutePlan:
        base = self._state.engines.base()
        circumstances = Circumstances(
            now=int(self._state.now()),
            new_salt=new_salt,
            base_names=(base.name, *base.names) if base is not None else (),
            redactors=redactor_names(),
            comparators=tuple(comparators()),
        )
        return plan_routes(
            self._state.desired, declaration.routes, prune=declaration.prune, circumstances=circumstances
        )

    async def apply(self, declaration: Declaration, order: ChangeRequest) -> RoutePlan:
        """Make the routes as declared, all or none; return the plan that was carried out.

        Raises:
            InvalidRoutes: A version is not registered or not unique, or an alias is not allowed.
            StateMoved: The state is not at `order.if_version`.
            Conflict: A rollout decides a field that would change, a control is not ready, or another gateway was first.
        """
        return await self._carry_out(lambda: self.plan(declaration), order)

    async def _carry_out(self, make_plan: Callable[[], RoutePlan], order: ChangeRequest) -> RoutePlan:
        async def work() -> RoutePlan:
            self._check_version(order)
            plan = make_plan()
            if plan.conflicts:
                raise Conflict("; ".join(plan.conflicts))
            if plan.changes:
                await self._change(plan.after, order)
            return plan

        async with self._state.turn:
            return await retry_overtaken(work)

    def _check_version(self, order: ChangeRequest) -> None:
        version = self._state.desired.version
        if order.if_version is not None and order.if_version != version:
            raise StateMoved(
                f"the state is at version {version}, and the change was made for version {order.if_version}; "
                "nothing was changed: plan it anew"
            )

    async def _change(self, after: Desired, order: ChangeRequest) -> None:
        state = self._state
        records = route_records(
            state.desired, after, by=order.by, reason=order.reason, at=state.now(), catalog=state.catalog
        )
        await state.change(after, by=order.by, reason=order.reason, journal=records)

    async def split(self, alias: str, candidate: str | None, weight: int, order: ChangeRequest) -> RouteRecord:
        """Send `weight` basis points of an alias's units to a candidate version; without a candidate, end the split.

        Raises:
            UnknownRoute, UnknownVersion: The alias or the candidate is not registered.
            Conflict: The weight is out of range, the candidate is not ready, or a rollout decides the split.
        """
        if not 0 <= weight <= 10_000:
            raise Conflict(f"weight `{weight}` is not in 0..10000 basis points")
        state = self._state

        async def work() -> RouteRecord:
            self._check_version(order)
            route = self.find(alias)
            check_no_rollout(state.desired, alias)
            moved = self._split(route, candidate, weight)
            if moved != route:
                await self._change(state.desired.with_route(moved), order)
            return moved

        async with state.turn:
            return await retry_overtaken(work)

    def _split(self, route: RouteRecord, candidate: str | None, weight: int) -> RouteRecord:
        if candidate is None:
            return msgspec.structs.replace(route, candidate=None, weight=0)
        entry = self._state.find(candidate)
        if entry.state is not State.READY:
            raise Conflict(f"`{entry.ref.version}` is {entry.state}, so it cannot be a candidate: {entry.reason}")
        return msgspec.structs.replace(route, candidate=entry.ref.version, weight=weight)

    async def history(self, alias: str, *, before: int | None, limit: int) -> tuple[RouteVersion, ...]:
        """Return the versions of an alias's route below number `before`, the newest first.

        Raises:
            UnknownRoute: There has never been such an alias.
        """
        found: tuple[RouteVersion, ...] = ()
        if is_name(alias):  # other texts cannot be stored aliases, and PostgreSQL rejects some of them
            found = await asyncio.to_thread(self._state.store.history, alias, before=before, limit=limit)
        if not found and before is None:
            raise UnknownRoute(f"there is no alias `{alias}`, and never was; `loragate routes ls` lists them")
        return found

    async def version(self, alias: str, number: int) -> RouteVersion:
        """Return one version of an alias's route.

        Raises:
            UnknownRoute: There is no such version.
        """
        found = await self.history(alias, before=number + 1, limit=1)
        if not found or found[0].number != number:
            raise UnknownRoute(f"`{alias}` has no version `{number}`; `loragate routes history {alias}` lists them")
        return found[0]

    async def difference(self, alias: str, first: int | None, second: int | None) -> RouteDifference:
        """Return the difference between the versions `first` and `second` of an alias's route.

        Args:
            alias: The alias.
            first: The older version; None: the one before `second`; 0: the time before the first version.
            second: The newer version; None: the newest.

        Raises:
            UnknownRoute: There is no such version.
        """
        newest = (await self.history(alias, before=None, limit=1))[0]
        to = newest if second is None or second == newest.number else await self.version(alias, second)
        number = to.number - 1 if first is None else first
        since = await self.version(alias, number) if number else None
        return RouteDifference(
            first=since, second=to, fields=compare(since.route if since is not None else None, to.route)
        )

    async def revert(self, alias: str, number: int, order: ChangeRequest) -> RoutePlan:
        """Make an alias's route as it was in version `number`, as a new version; return the plan that was carried out.

        Raises:
            UnknownRoute: There is no such version.
            StateMoved: The state is not at `order.if_version`.
            Conflict: Version `number` is the alias's removal, the adapters that it served are removed or not ready, or
                a rollout decides the split.
        """
        then = (await self.version(alias, number)).route
        if then is None:
            raise Conflict(
                f"version {number} of `{alias}` is its removal; remove it by `loragate apply --prune` with a file that "
                f"lacks it, or with all its versions by `loragate adapters rm {alias}`"
            )
        return await self._carry_out(lambda: self._plan_revert(then, number), order)

    def _plan_revert(self, then: RouteRecord, number: int) -> RoutePlan:
        try:
            # An alias that was removed meanwhile gets its old salt, so that every unit is on its old arm again.
            wanted = DeclaredRoute(**policy_fields(then), where=then.alias)
            plan = self._plan(Declaration(routes=(wanted,)), lambda: then.salt)
        except InvalidRoutes as error:
            raise Conflict(
                f"`{then.alias}` cannot be as in version {number}: {'; '.join(error.problems)}; register it again first"
            ) from None
        now = self._state.desired.route(then.alias)
        if now is None or (now.control, now.candidate, now.weight) != (then.control, then.candidate, then.weight):
            check_no_rollout(self._state.desired, then.alias)
        return replace(plan, left_alone=())  # only this alias was to change, so others are not listed
