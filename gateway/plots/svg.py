"""What all plots share: colours, style, axes, and the way from a figure to an SVG element.

matplotlib comes with the extra `plots`. Invariant: what callers have written is never read as mathematics or markup.
"""

import io
from collections.abc import Callable
from typing import Any, Final

# Okabe and Ito's colours, which people with any colour vision can tell apart.
CONTROL: Final = "#7a7a7a"
VERSION: Final = "#0072b2"
ALARM: Final = "#d55e00"
GOOD: Final = "#009e73"
SERIES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.use": True,
}
_WIDTH: Final = 8.6  # inches, at 72 dots: two thirds of a laptop's screen


class PlotsMissing(Exception):
    """matplotlib is not installed; the message says how to get it."""


def draw_axes(draw: Callable[[Any], None], name: str, *, height: float) -> str:
    """Return a figure with one pair of axes, which `draw(axes)` fills, as `draw_figure` does.

    Raises:
        PlotsMissing: matplotlib is not installed.
    """
    return draw_figure(lambda figure: draw(figure.subplots()), name, height=height)


def draw_figure(draw: Callable[[Any], None], name: str, *, height: float) -> str:
    """Return what `draw(figure)` draws as an SVG element; equal figures make equal text.

    Args:
        draw: Puts axes and their contents on a `matplotlib.figure.Figure`.
        name: Unlike the name of any other plot on the page, so that their ids differ.
        height: In inches.

    Raises:
        PlotsMissing: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise PlotsMissing(
            "the page's plots need matplotlib, which is not installed: pip install 'loragate[plots]'"
        ) from None
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height))
        draw(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    return text[text.index("<svg") :]


def use_logarithmic_axis(axes: Any) -> None:
    """Make the y axis logarithmic, with labels as plain numbers."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 100 * low:  # powers of ten alone would be one or two
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    # Its own labels are mathematics, which is off.
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()


def place_legend_beside(axes: Any) -> None:
    """Put the legend to the right of the axes, where it covers no point."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
