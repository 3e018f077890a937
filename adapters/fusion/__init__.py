"""Make a new adapter out of others: fuse several, or turn one up or down.

Works on the adapters' tensors alone, module by module: no base model is loaded and no full
delta is built, so it takes seconds and little memory. `making` is the story; `source` reads
parents, `factors` is the algebra of low-rank deltas, `methods` the methods, `writing` the
result. `process` runs all of it in a process of its own, which is how the gateway uses it.

Importing this needs neither torch nor PEFT; they are imported once there is work.
"""

from adapters.fusion.making import fuse
from adapters.fusion.outcome import ErrorSummary, FusionReport
from adapters.recipe import CannotFuse, parse_parents

__all__ = ["CannotFuse", "ErrorSummary", "FusionReport", "fuse", "parse_parents"]
