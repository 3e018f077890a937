"""Print tables, wrapped to the width of a terminal or, elsewhere, a line for each row."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.visible import visible

# Characters of a line in a file or a pipe, which have no width: enough for each row to be one line.
_WIDEST = 10_000
# Characters of a cell, after which it is cut; `--json` prints all of it.
MAX_CELL = 400


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Print rows under their columns, or `empty` if there are none."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDEST
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):  # other commands take the first column as argument, so it is not wrapped
        table.add_column(Text(visible(name)), no_wrap=place == 0, overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(Text(visible(cell, MAX_CELL)) for cell in row))
        count += 1
    console.print(table if count else Text(visible(empty)))


def when(seconds: float) -> str:
    """Return a Unix time as date and time of the local zone; `-` for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "-"


def size(count: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def share(weight: int) -> str:
    """Return basis points as a percentage."""
    return f"{weight / 100:g} %"
