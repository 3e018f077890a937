"""The route table (immutable, replaced as a whole), and what a model name in a request means by it.

A client may send the base's name, an alias, or (with the role `app:pin` or better) an exact version, written in full or
as a unique prefix with at least six digits of its digest.
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

# How many names a 404 lists: the message stays readable with 500 adapters.
NAMES_IN_ERROR: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base model that all adapters belong to.

    `name` is the name that engines are sent, `names` are all names under which they serve it, of which clients may send
    any. `root` is the path or repository that an engine says it was loaded from; empty if unknown.
    """

    name: str
    created: int = 0
    max_model_len: int | None = None
    names: tuple[str, ...] = ()
    root: str = ""

    def is_called(self, name: str) -> bool:
        return name == self.name or name in self.names


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An alias, its split, and the salt that makes its assignment independent of other routes'.

    `unit` lists the sources of the unit of assignment; `rollout` is set while a rollout is open, `mirror` where
    requests are copied for evaluators.
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
    """What a worker knows of one engine: its URL, whether it may get requests, and the versions it has ready.

    An engine that serves another base than the table's counts as not up.
    """

    url: str
    is_up: bool = True
    versions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTable:
    """Everything that decisions about requests depend on, at one version of the desired state.

    `keys` is None if the gateway runs without authentication; `base` is None until an engine has told its name.
    `replicas` is the number of gateways that share the rate limits. `unit_headers` are the headers that some route
    names as a source of its unit. `has_rates` and `has_engine_fields` say whether any alias has rate limits, or rules
    for engine fields.
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
    """What a model name stands for: a route's split, or exactly one version."""

    alias: str
    split: Split
    route: Route | None = None
    reason: str = "split"


def find_target(table: RouteTable, model: str, caller: Principal) -> Target:
    """Return what `model` means to `caller`.

    A model that the caller may not use gives the same answer as one that does not exist, so that a key cannot be used
    to find out which names exist.

    Raises:
        ModelNotFound: The caller may use no model of this name; the message lists those that it may use.
        Forbidden: The caller may not ask for an exact version.
        EngineUnavailable: No engine has been up yet, so the base's name is unknown.
    """
    route = table.routes.get(model)
    if route is not None and caller.may_use(model):
        return Target(model, route.split, route)
    if table.base is not None and table.base.is_called(model) and caller.may_use(model):
        return Target(model, Split(table.base.name), reason="base")
    if "@" in model:
        return _find_pinned(table, model, caller)
    if table.base is None:
        raise EngineUnavailable("No engine has been up yet, so its models are not known. Try again shortly.")
    raise _not_found(table, model, caller)


def _find_pinned(table: RouteTable, model: str, caller: Principal) -> Target:
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
    # A version written in full takes one look-up, not a search through all.
    matches = [model] if model in table.versions else [each for each in table.versions if each.startswith(model)]
    if len(matches) != 1:
        raise _not_found(table, model, caller, ambiguous=matches)
    return Target(name, Split(matches[0]), reason="pin")


def usable_models(table: RouteTable, caller: Principal) -> list[str]:
    """Return the model names that `caller` may send: the base's first, then the aliases in order."""
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
