"""Read routes that are declared in a file, from YAML or JSON values, and report every problem at once.

    routes:
      - alias: support
        control: support@3f2a9c81d0e4
        candidate: support@9b11c0de77aa
        weight: 5%
        unit: [header, user, key]
        mirror: {share: 2%, capture: metrics_only}
        plan: 1% 10m → 5% → 25% → 100%
        limits: {requests_per_minute: 600, max_in_flight: 50}
        notes: trial of the new tone

An absent optional field takes its default, not the present value, so a file describes its routes completely.
Whether the versions exist is checked by `plan.py`, which knows the state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.reference import InvalidReference, check_name, split_version
from gateway.admin.routes.policies import read_field
from gateway.admin.routes.values import Values
from gateway.decide.assign import DEFAULT_SOURCES, check_sources
from gateway.decide.engine_fields import check_rules
from gateway.records.declared import DeclaredField, find_declared_fields
from gateway.records.routes import MAX_ROUTES, RouteLimits, RoutePolicy
from gateway.rollout.plan import canonical
from gateway.rollout.plan_parser import InvalidPlan, parse_plan

# A kilobyte for each of 10,000 routes; one with every field except long notes takes 400 bytes.
MAX_FILE_BYTES: Final = 10_000_000

_KEYS: Final = ("routes", "prune")
_ROUTE_FIELDS: Final = find_declared_fields(RoutePolicy)
# The greatest number of problems that are reported; a file with more of them is probably no file of routes.
_MAX_PROBLEMS: Final = 100


class InvalidRoutes(ValueError):
    """Declared routes that are invalid; `problems` has each problem with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DeclaredRoute(RoutePolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route as a file declares it; versions may be unique prefixes. `where` is its place in the file."""

    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The routes of a file. `prune`: remove routes that are not in the file."""

    routes: tuple[DeclaredRoute, ...]
    prune: bool = False


def policy_fields(route: RoutePolicy) -> dict[str, Any]:
    """Return the values of a route's declared fields, by name."""
    return {name: getattr(route, name) for name in RoutePolicy.__struct_fields__}


def parse_routes(values: object) -> Declaration:
    """Return the routes that YAML or JSON values declare.

    Raises:
        InvalidRoutes: The values are invalid; each problem has its place, the value and what is allowed.
    """
    reader = _Reader()
    declaration = reader.declaration(values)
    if reader.problems:
        rest = len(reader.problems) - _MAX_PROBLEMS
        more = [f"and {rest} problems more"] if rest > 0 else []
        raise InvalidRoutes([*reader.problems[:_MAX_PROBLEMS], *more])
    return declaration


class _Reader:
    """Reads values and collects problems; a value with a problem is replaced by its default."""

    def __init__(self) -> None:
        self._values = Values()
        self.problems = self._values.problems
        self._seen: dict[str, str] = {}

    def declaration(self, values: object) -> Declaration:
        """Return the declaration, which may be used only if `problems` is empty."""
        if not isinstance(values, Mapping):
            self.problems.append(f"the file is a mapping with `routes`, not {_kind(values)}")
            return Declaration(routes=())
        self._values.check_keys("", values, _KEYS)
        if "routes" not in values:
            self.problems.append("routes: is missing; write a list of routes, which may be empty")
        routes = values.get("routes")
        if routes is not None and (not isinstance(routes, list | tuple) or len(routes) > MAX_ROUTES):
            self.problems.append(f"routes: is {_kind(routes)}, not a list of at most {MAX_ROUTES} routes")
            routes = None
        prune = values.get("prune")
        if prune is not None and not isinstance(prune, bool):
            self._values.problem("prune", prune, "true or false")
        read = [self._route(f"routes[{at}]", each) for at, each in enumerate(routes or ())]
        return Declaration(routes=tuple(each for each in read if each is not None), prune=prune is True)

    def _route(self, where: str, values: object) -> DeclaredRoute | None:
        if not isinstance(values, Mapping):
            self._values.problem(where, values, "a mapping such as {alias: support, control: support@3f2a9c81d0e4}")
            return None
        alias = self._alias(where, values.get("alias"))
        if alias:
            where = f"{where} ({alias})"
        self._values.check_keys(where, values, _ROUTE_FIELDS)
        weight = self._values.share(f"{where}.weight", values.get("weight"))
        if weight and values.get("candidate") is None:
            self.problems.append(f"{where}.weight: `{weight / 100:g} %` is given to no candidate; name one")
        read = {
            field.name: self._field(f"{where}.{key}", values, field)
            for key, field in _ROUTE_FIELDS.items()
            if key not in ("alias", "weight")
        }
        return DeclaredRoute(alias=alias, weight=weight, where=where, **read)

    def _field(self, where: str, values: Mapping[Any, Any], field: DeclaredField) -> Any:
        value = values.get(field.key)
        match field.how.kind:
            case "version":
                return self._version(where, value, field)
            case "sources":
                return self._unit(where, value)
            case "plan":
                return self._plan(where, value)
            case "field_rules":
                return self._engine_fields(where, value)
            case _:
                read = read_field(self._values, where, values, field)
                return None if read == RouteLimits() else read  # limits without any limit are as good as absent

    def _engine_fields(self, where: str, value: object) -> dict[str, str | int]:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
            self._values.problem(where, value, "names of fields, each with `allow`, `deny` or a number")
            return {}
        rules: dict[str, str | int] = dict(value)
        try:
            check_rules(rules)
        except ValueError as error:
            self.problems.append(f"{where}: {str(error).removeprefix('engine_fields: ')}")
            return {}
        return rules

    def _alias(self, where: str, value: object) -> str:
        if value is None:
            self.problems.append(f"{where}.alias: is missing; it is the name that clients send as `model`")
            return ""
        if not isinstance(value, str):
            self._values.problem(f"{where}.alias", value, "text; put it in quotes")
            return ""
        try:
            check_name(value)
        except InvalidReference as error:
            self.problems.append(f"{where}.alias: {_short(error)}")
            return ""
        if value in self._seen:
            self.problems.append(f"{where}.alias: `{value}` stands at {self._seen[value]} already")
        self._seen.setdefault(value, where)
        return value

    def _version(self, where: str, value: object, field: DeclaredField) -> str | None:
        if value is None and not field.is_required:
            return None
        if value is None:
            self.problems.append(f"{where}: is missing; {field.how.missing}")
        elif not isinstance(value, str):
            self._values.problem(where, value, "a version such as support@3f2a9c81d0e4")
        else:
            try:
                split_version(value)
            except InvalidReference as error:
                self.problems.append(f"{where}: {_short(error)}")
            else:
                return value
        return ""

    def _unit(self, where: str, value: object) -> tuple[str, ...]:
        if value is None:
            return DEFAULT_SOURCES
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            self._values.problem(where, value, "a list of names such as [header, user, key]")
            return DEFAULT_SOURCES
        try:
            check_sources(tuple(value))
        except ValueError as error:
            self.problems.append(f"{where}: {_short(error)}")
        return tuple(value)

    def _plan(self, where: str, value: object) -> dict[str, Any] | None:
        if value is None:
            return None
        try:
            return canonical(parse_plan(value))
        except InvalidPlan as error:
            for problem in error.problems:
                inside = problem.removeprefix("plan")
                self.problems.append(where + (inside if inside.startswith((":", ".")) else f".{problem}"))
            return None


def _short(error: Exception) -> str:
    text = str(error)
    return text if len(text) <= 400 else f"{text[:80]}… {text[-300:]}"


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"`{value!r:.80}`"
