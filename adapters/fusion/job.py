"""What the fusion process is told on its standard input, and the lines that it answers."""

import msgspec

from adapters.fusion.outcome import FusionReport
from adapters.recipe import Recipe


class FusionJob(msgspec.Struct, frozen=True, kw_only=True):
    """One fusion; `parent_pid` is whom the process must not outlive, if anyone."""

    recipe: Recipe
    folders: dict[str, str]
    out: str
    max_rank: int | None = None
    parent_pid: int | None = None


class Step(msgspec.Struct, frozen=True, tag_field="event", tag="step"):
    """So many modules are done."""

    done: int
    of: int


class FusionCompleted(msgspec.Struct, frozen=True, tag_field="event", tag="made"):
    """The last line of a fusion that was made."""

    report: FusionReport


class FusionRefused(msgspec.Struct, frozen=True, tag_field="event", tag="refused"):
    """The last line of one that cannot be."""

    code: str
    message: str
    remedy: str


Line = Step | FusionCompleted | FusionRefused
