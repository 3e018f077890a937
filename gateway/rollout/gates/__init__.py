"""The gates of a rollout's steps: what each reads, and when it passes or fails. Pure.

A new source of gates is a file with `KINDS`, and its name in `SOURCES`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from evaluators.judge.criteria import REGISTERED
from gateway.rollout.gates import pairs, person, traffic
from gateway.rollout.gates.gate import GateKind

SOURCES: Final = (traffic.KINDS, person.KINDS, pairs.KINDS)
# By the name that plans use.
GATES: Final[Mapping[str, GateKind]] = MappingProxyType(
    {name: kind for kinds in SOURCES for name, kind in kinds.items()}
)


def kind_of(name: str) -> GateKind | None:
    """Return what a gate's name stands for, or None if it is no gate's."""
    if name.startswith(REGISTERED) and len(name) > len(REGISTERED):
        return pairs.OF_A_USERS_COMPARATOR
    return GATES.get(name)


def kind_named(name: str) -> GateKind:
    """Return what a gate's name stands for.

    Raises:
        ValueError: It is no gate's.
    """
    kind = kind_of(name)
    if kind is None:
        raise ValueError(f"`{name}` is no gate; gates are {', '.join(GATES)}, and {REGISTERED}NAME")
    return kind
