"""What is asked of a registration, and where a fused version came from."""

from dataclasses import dataclass

from adapters.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How a version is to be registered.

    `activate`: point the alias at it; None: only if there is no such alias yet.
    `may_be_null`: register it even if it adds nothing to the base.
    """

    name: str
    by: str
    notes: str = ""
    activate: bool | None = True
    may_be_null: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionOrigin:
    """What a fusion made: by which recipe, and how far it is from the exact weighted sum."""

    recipe: Recipe
    difference: str
    warnings: tuple[str, ...]
