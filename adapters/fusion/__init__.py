"""Make a new adapter out of others: fuse several, or scale one.

Fusion works on the adapters' tensors alone, module by module. No base model is loaded and no full delta is built, so it
takes seconds and little memory. `making` runs one fusion; `source` reads parents, `factors` is the algebra of low-rank
deltas, `methods` has the methods, `writing` writes the result. `process` runs all of it in a process of its own, which
is how the gateway uses it.

Importing this package needs neither torch nor PEFT; they are imported when a fusion starts.
"""

from adapters.fusion.making import fuse
from adapters.fusion.outcome import ErrorSummary, FusionReport
from adapters.recipe import CannotFuse, parse_parents

__all__ = ["CannotFuse", "ErrorSummary", "FusionReport", "fuse", "parse_parents"]
