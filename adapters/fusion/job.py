"""The messages of the fusion process: the job on its standard input, and the lines that it answers."""

import msgspec

from adapters.fusion.outcome import FusionReport
from adapters.recipe import Recipe


class FusionJob(msgspec.Struct, frozen=True, kw_only=True):
    """One fusion. The process must not outlive the process `parent_pid`, if that is given."""

    recipe: Recipe
    folders: dict[str, str]
    out: str
    max_rank: int | None = None
    parent_pid: int | None = None


class Step(msgspec.Struct, frozen=True, tag_field="event", tag="step"):
    """Progress: so many modules are done."""

    done: int
    of: int


class FusionCompleted(msgspec.Struct, frozen=True, tag_field="event", tag="made"):
    """The last line of a fusion that made an adapter."""

    report: FusionReport


class FusionRefused(msgspec.Struct, frozen=True, tag_field="event", tag="refused"):
    """The last line of a fusion that was refused."""

    code: str
    message: str
    remedy: str


Line = Step | FusionCompleted | FusionRefused
