"""Show the progress of a long operation of the control plane, as a bar on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from gateway.visible import visible

STAGES = {
    "fetch": "Fetching",
    "fuse": "Fusing",
    "verify": "Verifying",
    "copy": "Copying",
    "load": "Loading and checking",
}


class ProgressReport(msgspec.Struct):
    """How far an operation is: its stage, and what it has done of a total that may not be known."""

    stage: str
    done: float
    total: float | None


@contextmanager
def long_operation(*, is_quiet: bool) -> Iterator[Callable[[ProgressReport], None] | None]:
    """Yield a function that shows progress on standard error; None if standard error is no terminal."""
    if is_quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Asking", total=None)

        def show(progress: ProgressReport) -> None:
            bar.update(
                task,
                description=STAGES.get(progress.stage) or escape(visible(progress.stage, 80)),
                completed=progress.done,
                total=progress.total,
            )

        yield show
