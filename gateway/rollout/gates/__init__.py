"""The gates of a rollout's steps: the data that each gate reads, and when it passes or fails. Pure.

To add a source of gates, write a module with `KINDS` and add that to `SOURCES`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from evaluators.judge.criteria import REGISTERED
from gateway.rollout.gates import pairs, person, traffic
from gateway.rollout.gates.gate import GateKind

SOURCES: Final = (traffic.KINDS, person.KINDS, pairs.KINDS)
# Every gate, by the name that plans use for it.
GATES: Final[Mapping[str, GateKind]] = MappingProxyType(
    {name: kind for kinds in SOURCES for name, kind in kinds.items()}
)


def kind_of(name: str) -> GateKind | None:
    """Return the kind of the gate of this name, or None if no gate has the name."""
    if name.startswith(REGISTERED) and len(name) > len(REGISTERED):
        return pairs.OF_A_USERS_COMPARATOR
    return GATES.get(name)


def kind_named(name: str) -> GateKind:
    """Return the kind of the gate of this name.

    Raises:
        ValueError: No gate has this name.
    """
    kind = kind_of(name)
    if kind is None:
        raise ValueError(f"`{name}` is no gate; gates are {', '.join(GATES)}, and {REGISTERED}NAME")
    return kind
