"""Show how far a long operation of the control plane is."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gateway.visible import visible

STAGES = {
    "fetch": "Fetching",
    "fuse": "Fusing",
    "verify": "Verifying",
    "copy": "Copying",
    "load": "Loading and checking",
}


@contextmanager
def long_operation(*, is_quiet: bool) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Give a function that shows progress on standard error; None where nobody would see it."""
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

        def show(progress: dict[str, Any]) -> None:
            bar.update(
                task,
                description=STAGES.get(progress["stage"]) or escape(visible(str(progress["stage"]), 80)),
                completed=progress["done"],
                total=progress["total"],
            )

        yield show
