"""Which base model the route table serves, and which engines are left out because they serve another.

Adapters belong to one base, and requests name it, so an engine with another base gets no requests. The table's base is,
in this order:

1. the base that the operator has named;
2. the base served before, from the snapshot of the last table; no other replaces it while an engine that serves it
   may come back;
3. once each engine has been asked: the base that most of those that answered serve; if several, the first.

When all engines answer and all have been moved to another base, that becomes the table's base.

Two engines serve the same base if they use the same name, and if the paths that they loaded it from end in the same
folder or repository (the same model has different paths on different machines). If the operator has named the base,
only the name counts. Engines with the same base may differ in `max_model_len`; callers are told the shortest.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.decide.route import Base

# A model in a Hugging Face cache: `…/models--ORG--NAME/snapshots/REVISION`.
_IN_CACHE: Final = re.compile(r".*/models--(?:[^/]+--)?([^/]+)/snapshots/[^/]+")


def settle_base(
    current: Base | None, named: str | None, reported: Sequence[Base | None], *, all_asked: bool
) -> Base | None:
    """Return the table's base, given the base that each engine reports.

    Args:
        current: The table's base until now, or before the last stop.
        named: The base's name as the operator has set it; None if not set.
        reported: What the engines report, in their order; None for one that does not answer.
        all_asked: Whether each engine has been asked once.
    """
    if named is not None and (current is None or current.name != named):
        current = Base(name=named)
    if current is None:
        current = _commonest([base for base in reported if base is not None]) if all_asked else None
        if current is None:
            return None
    if named is None and None not in reported and not _agreeing(current, reported, name_only=False):
        moved = _commonest([base for base in reported if base is not None])
        if moved is not None and len(_agreeing(moved, reported, name_only=False)) == len(reported):
            current = moved
    return _with_details(current, _agreeing(current, reported, name_only=named is not None))


def difference(base: Base, own: Base, *, name_only: bool) -> str:
    """Return why an engine that serves `own` does not serve `base`; empty if it does."""
    if base.name not in _names(own):
        listed = ", ".join(f"`{name}`" for name in _names(own)[:5])
        return f"it serves {listed}, and the base of this gateway is `{base.name}`"
    if not name_only and base.root and own.root and _model(base.root) != _model(own.root):
        return (
            f"it serves `{base.name}` from `{own.root}`, and the base of this gateway was loaded from `{base.root}`; "
            f"if both are the same model, say so with --base-name {base.name}"
        )
    return ""


def _commonest(reported: Sequence[Base]) -> Base | None:
    """Return the base that most engines serve, under the name that most of them know; on a tie the first."""
    candidates = [replace(base, name=name) for base in reported for name in _names(base)]
    if not candidates:
        return None
    return max(candidates, key=lambda base: len(_agreeing(base, reported, name_only=False)))


def _agreeing(base: Base, reported: Sequence[Base | None], *, name_only: bool) -> list[Base]:
    return [own for own in reported if own is not None and not difference(base, own, name_only=name_only)]


def _with_details(base: Base, agreeing: Sequence[Base]) -> Base:
    """Return the base with details from the engines that serve it; unchanged if none answers."""
    if not agreeing:
        return base
    lengths = [own.max_model_len for own in agreeing if own.max_model_len is not None]
    return Base(
        name=base.name,
        created=base.created or agreeing[0].created,
        max_model_len=min(lengths, default=None),
        names=tuple(dict.fromkeys((base.name, *(name for own in agreeing for name in _names(own))))),
        root=base.root if base.root and any(own.root == base.root for own in agreeing) else agreeing[0].root,
    )


def _names(base: Base) -> tuple[str, ...]:
    return base.names or (base.name,)


def _model(root: str) -> str:
    """Return the model's own name: the last part of a path or repository, the same on every machine."""
    found = _IN_CACHE.fullmatch(root.rstrip("/"))
    return (found[1] if found else root.rstrip("/").rpartition("/")[2]).casefold()
