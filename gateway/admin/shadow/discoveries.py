"""Mark the figures of a report that stand out, while few of the marks are due to chance.

Each figure has an e-value against the hypothesis of no difference. Judged one by one, some of dozens of figures would
stand out by chance alone. e-BH over all of them bounds the expected share of wrong marks, however the figures depend on
each other (`evaluators/statistics/multiple.py`). The bound holds for one look, like a report's intervals; no gate uses
the marks.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from evaluators.observation import Kind
from evaluators.statistics.multiple import e_bh
from gateway.admin.models.shadow import ComparisonView, DriftView, FigureView, JudgeView

# The bound on the expected share of marked figures that do not really differ.
FALSE_DISCOVERIES: Final = 0.05
_Found = tuple[float, Callable[[bool], None]]


def mark(comparisons: Sequence[ComparisonView]) -> None:
    """Set `stands_out` of every figure with an e-value; noise itself, which others are held against, is not marked."""
    found = [each for view in comparisons if view.kind is not Kind.NOISE for each in _figures(view)]
    for is_out, (_, put) in zip(e_bh([e for e, _ in found], FALSE_DISCOVERIES), found, strict=True):
        put(is_out)


def _figures(view: ComparisonView) -> Iterator[_Found]:
    for each in (view.figures, *(task.figures for task in view.tasks)):
        for figure in each:
            yield from _of(figure)
    if view.judge is not None:
        yield from _of(view.judge)
    if view.drift is not None:
        yield from _levels(view.drift)


def _of(view: FigureView | JudgeView) -> Iterator[_Found]:
    if view.e_value is not None:

        def put(is_out: bool) -> None:
            view.stands_out = is_out

        yield view.e_value, put


def _levels(view: DriftView) -> Iterator[_Found]:
    for name, e_value in view.e_values.items():
        if e_value is not None:

            def put(is_out: bool, name: str = name) -> None:
                view.stands_out[name] = is_out

            yield e_value, put
