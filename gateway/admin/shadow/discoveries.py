"""Mark what stands out in a report of dozens of figures, so that few of the marks are chance.

Each figure has an e-value against "there is no difference". Looked at one by one, some of dozens would stand out where
nothing differs; e-BH over all of them bounds the share of marks that are wrong, whatever the figures have to do with
each other (`evaluators/statistics/multiple.py`). It holds at one look, as a report's intervals do; no gate reads it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from evaluators.observation import Kind
from evaluators.statistics.multiple import e_bh
from gateway.admin.models.shadow import ComparisonView, DriftView, FigureView, JudgeView

# Of the figures that are marked in a report, the share that does not differ; on average, at most.
FALSE_DISCOVERIES: Final = 0.05
_Found = tuple[float, Callable[[bool], None]]


def mark(comparisons: Sequence[ComparisonView]) -> None:
    """Set `stands_out` of every figure with an e-value; noise is what they are held against, and is not marked."""
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
