"""The order to register a version, and the origin of a fused version."""

from dataclasses import dataclass

from adapters.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How a version is to be registered.

    Attributes:
        name: The alias that the version belongs to.
        by: The caller who registers it.
        notes: A remark that is stored with the version.
        activate: Whether the alias is pointed at the version; None: only if there is no such alias yet.
        may_be_null: Whether to register a version that adds nothing to the base model.
    """

    name: str
    by: str
    notes: str = ""
    activate: bool | None = True
    may_be_null: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionOrigin:
    """How a fused version was made: its recipe, its difference from the exact weighted sum, and warnings."""

    recipe: Recipe
    difference: str
    warnings: tuple[str, ...]
