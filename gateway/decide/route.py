"""What a model name means: the route table, immutable, swapped whole.

A client may send the base's name, an alias, or (role `app:pin` or better) one exact
version, in full or shortened to a unique prefix of six digits or more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from adapters.reference import InvalidReference, split_version
from gateway.decide.assign import DEFAULT_SOURCES, Split
from gateway.decide.authenticate import Principal
from gateway.decide.exposure import RolloutTag
from gateway.decide.limit import Rates
from gateway.decide.sample import Mirror
from gateway.errors import EngineUnavailable, Forbidden, ModelNotFound

# How many names a 404 lists, so that an error stays readable with 500 adapters.
NAMES_IN_ERROR: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The frozen base model.

    `name` is the engines' own name for it, `names` are all that they know it under: clients may send any, engines are
    sent the first. `root` is what an engine says it was loaded from, empty if that is not known.
    """

    name: str
    created: int = 0
    max_model_len: int | None = None
    names: tuple[str, ...] = ()
    root: str = ""

    def is_called(self, name: str) -> bool:
        """Whether `name` means it."""
        return name == self.name or name in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An alias, the split behind it, and the salt that keeps its assignment apart from other routes'.

    `unit` says where the unit is looked for; `rollout` is set while one is open, `mirror` where copies are wanted.
    """

    alias: str
    split: Split
    salt: str
    created: int = 0
    unit: tuple[str, ...] = DEFAULT_SOURCES
    rates: Rates | None = None
    rollout: RolloutTag | None = None
    mirror: Mirror | None = None
    engine_fields: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What a worker needs to know of one engine: where it is, whether it may be sent requests, what it has loaded.

    One that answers and serves another base than the table's is not up.
    """

    url: str
    is_up: bool = True
    versions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """Everything a decision may depend on, at one version of the desired state.

    `keys` is None when the gateway runs without authentication; `base` is None until an
    engine has told its name. `replicas` gateways share every limit; `has_rates` tells whether any
    alias has one; `unit_headers` are those that some route looks for its unit in.
    `has_engine_fields` tells whether any has rules for fields.
    """

    version: int = 0
    base: Base | None = None
    keys: Mapping[bytes, Principal] | None = field(default_factory=lambda: MappingProxyType({}))
    routes: Mapping[str, Route] = field(default_factory=lambda: MappingProxyType({}))
    versions: frozenset[str] = frozenset()
    engines: tuple[EngineState, ...] = ()
    replicas: int = 1
    has_rates: bool = False
    unit_headers: tuple[bytes, ...] = ()
    has_engine_fields: bool = False


class Target(NamedTuple):
    """What a model name stands for: a split to be assigned by its route, or exactly one version."""

    alias: str
    split: Split
    route: Route | None = None
    reason: str = "split"


def find_target(table: RouteTable, model: str, caller: Principal) -> Target:
    """Return what `model` means to `caller`.

    What the caller may not use is not there for him: the same answer, so that no key can find out which names exist.

    Raises:
        ModelNotFound: Nothing that the caller may use has this name; the message lists what he may use.
        Forbidden: The caller may not pin a version.
    """
    route = table.routes.get(model)
    if route is not None and caller.may_use(model):
        return Target(model, route.split, route)
    if table.base is not None and table.base.is_called(model) and caller.may_use(model):
        return Target(model, Split(table.base.name), reason="base")
    if "@" in model:
        return _pinned(table, model, caller)
    if table.base is None:
        raise EngineUnavailable("No engine has been up yet, so its models are not known. Try again shortly.")
    raise _not_found(table, model, caller)


def _pinned(table: RouteTable, model: str, caller: Principal) -> Target:
    try:
        name, _ = split_version(model)
    except InvalidReference:
        raise _not_found(table, model, caller) from None
    if not caller.may_pin():
        raise Forbidden(
            f"This key may not ask for the exact version `{model}`: its role is `{caller.role}`, "
            f"pinning needs `app:pin` or better. Send the alias `{name}` instead.",
            param="model",
            code="pin_not_allowed",
        )
    if not caller.may_use(name):
        raise _not_found(table, model, caller)
    # Written in full, a version is one look-up, however many there are.
    matches = [model] if model in table.versions else [each for each in table.versions if each.startswith(model)]
    if len(matches) != 1:
        raise _not_found(table, model, caller, ambiguous=matches)
    return Target(name, Split(matches[0]), reason="pin")


def usable_models(table: RouteTable, caller: Principal) -> list[str]:
    """Return the names `caller` may send, the base first, then the aliases in order."""
    names = list(table.base.names or (table.base.name,)) if table.base is not None else []
    names = [name for name in names if name not in table.routes] + sorted(table.routes)
    return [name for name in names if caller.may_use(name)]


def _not_found(table: RouteTable, model: str, caller: Principal, ambiguous: list[str] | None = None) -> ModelNotFound:
    shown = model if len(model) <= 100 else model[:100] + "…"
    if ambiguous:
        return ModelNotFound(f"The version `{shown}` is not unique: it may mean {', '.join(sorted(ambiguous))}.")
    names = usable_models(table, caller)
    listed = ", ".join(names[:NAMES_IN_ERROR]) + (", …" if len(names) > NAMES_IN_ERROR else "")
    return ModelNotFound(
        f"The model `{shown}` does not exist or you do not have access to it. This key may use: {listed or 'none'}."
    )
