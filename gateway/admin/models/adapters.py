"""Replies of the admin API about adapters, as pydantic models.

The docstrings and field descriptions of these models are part of the OpenAPI document, so they are public text.
"""

from pydantic import BaseModel, Field

from adapters.lifecycle import State
from adapters.recipe import Method
from gateway.admin.models.records import CopiedView
from gateway.admin.models.status import CheckView


class RecipeView(CopiedView):
    """How a version was made out of others."""

    method: Method
    rank: int | None
    density: float | None
    seed: int | None


class ParentView(CopiedView):
    """One version that went in."""

    version: str
    weight: float


class AdapterView(BaseModel):
    """One registered version. Times in Unix seconds."""

    version: str = Field(examples=["support@3f2a9c81d0e4"])
    name: str = Field(description="The alias that it was registered under")
    digest: str = Field(description="64 hex digits over config and tensors")
    state: State
    reason: str | None = Field(description="Why it is in this state, if that is no good one")
    serves: list[str] = Field(description="Aliases that serve it now, as control or candidate")
    base: str = Field(description="The base model that it names")
    rank: int
    alpha: float
    target_modules: list[str]
    size_bytes: int
    tensors: int
    dtypes: list[str]
    use_rslora: bool
    targets_lm_head: bool
    scorable: bool = Field(description="Whether an engine's log-probabilities of a prompt are its own")
    source: str = Field(description="Where it was copied from")
    folder: str = Field(description="The registry's copy, on the gateway's machine")
    created: int
    created_by: str = Field(description="A key's id, `local`, or `anyone`")
    notes: str
    signed_by: str | None
    recipe: RecipeView | None = Field(description="How it was made out of others; null if it was brought")
    difference: str | None = Field(description="How far it is from the exact weighted sum of its parents")
    warnings: list[str]
    parents: list[ParentView]


class StandingView(BaseModel):
    """What one engine makes of a version."""

    url: str
    up: bool
    ready: bool
    reason: str | None = Field(description="Why it does not serve it")
    fingerprint: CheckView | None = Field(description="What the last check found; null before the first")


class AdapterDetail(AdapterView):
    """One registered version, and how it stands on each engine."""

    engines: list[StandingView]


class AdaptersView(BaseModel):
    """A page of registered versions, oldest first."""

    adapters: list[AdapterView]
    next: str | None = Field(description="`after` of the next page; null after the last")


class RemovedView(BaseModel):
    """The versions that went."""

    removed: list[str]
