"""Which base the table serves, and which engines serve another.

Adapters belong to one base, and callers' requests name it, so an engine that serves another is not used at all. Which
one is the table's, in this order:

1. the one that the operator has named;
2. the one served before, as the snapshot of the last table has it; while an engine that serves it may come back, no
   other takes its place;
3. of the engines that have answered when each has been asked once, the one that most of them serve, then the first.

When all engines have been moved to another base and answer, that one is the table's from then on.

Two engines serve the same base if they share its name, and if what they say it was loaded from ends in the same folder
or repository: the same model has another path on another machine. Where the operator has named the base, the
name alone counts. A different `max_model_len` is no different base; callers are told the shortest.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.decide.route import Base

# A model in a Hugging Face cache: `…/models--ORG--NAME/snapshots/REVISION`.
_IN_CACHE: Final = re.compile(r".*/models--(?:[^/]+--)?([^/]+)/snapshots/[^/]+")


def settled_base(
    current: Base | None, named: str | None, told: Sequence[Base | None], *, all_asked: bool
) -> Base | None:
    """Return the table's base, given what each engine has told of its own.

    Args:
        current: The table's base until now, or as it was before the last stop.
        named: The operator's name for it, if there is one.
        told: The bases of all engines in the order given; None for one that does not answer.
        all_asked: Whether each engine has been asked once.
    """
    if named is not None and (current is None or current.name != named):
        current = Base(name=named)
    if current is None:
        current = _commonest([base for base in told if base is not None]) if all_asked else None
        if current is None:
            return None
    if named is None and None not in told and not _agreeing(current, told, name_only=False):
        moved = _commonest([base for base in told if base is not None])
        if moved is not None and len(_agreeing(moved, told, name_only=False)) == len(told):
            current = moved
    return _with_details(current, _agreeing(current, told, name_only=named is not None))


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


def _commonest(told: Sequence[Base]) -> Base | None:
    """Return the base that most serve, under the name that most of them know; of equals the first."""
    candidates = [replace(base, name=name) for base in told for name in _names(base)]
    if not candidates:
        return None
    return max(candidates, key=lambda base: len(_agreeing(base, told, name_only=False)))


def _agreeing(base: Base, told: Sequence[Base | None], *, name_only: bool) -> list[Base]:
    return [own for own in told if own is not None and not difference(base, own, name_only=name_only)]


def _with_details(base: Base, agreeing: Sequence[Base]) -> Base:
    """Return the base as the engines that serve it describe it; as it was, where none answers."""
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
    """Return the last part of a path or of a repository's name, which is the same wherever it is kept."""
    found = _IN_CACHE.fullmatch(root.rstrip("/"))
    return (found[1] if found else root.rstrip("/").rpartition("/")[2]).casefold()
