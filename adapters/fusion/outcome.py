"""The report of a fusion: its size, and its error against the exact weighted sum."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Relative errors over the modules: ‖result − sum‖ / ‖sum‖, both Frobenius norms of whole deltas.

    `modules` counts the modules that have an error; a module whose parents cancel out has none.
    """

    worst: float
    worst_module: str
    median: float
    modules: int

    @classmethod
    def of(cls, errors: Mapping[str, float]) -> "ErrorSummary | None":
        """Return the summary of each module's error, or None when no module has one."""
        if not errors:
            return None
        worst_module = max(errors, key=lambda module: (errors[module], module))
        return cls(
            worst=errors[worst_module],
            worst_module=worst_module,
            median=statistics.median(errors.values()),
            modules=len(errors),
        )

    def __str__(self) -> str:
        return f"{self.worst:.2g} at worst (`{self.worst_module}`), {self.median:.2g} in the median"


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionReport:
    """The report of one completed fusion.

    `size_bytes` is the size of the tensors file. `errors` compares with the exact weighted sum of the parents' deltas
    (for `slerp`: with weights that sum to 1), after rounding to `dtype`. `seconds` includes fusing, measuring and
    writing, but not importing libraries.
    """

    rank: int
    size_bytes: int
    modules: int
    dtype: str
    errors: ErrorSummary | None
    seconds: float
    warnings: tuple[str, ...] = ()
