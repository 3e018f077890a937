"""What a comparator of yours imports: `from loragate.plugins import Pair, Score`. See docs/comparators.md.

It works wherever Loragate is installed, also outside Loragate's own processes, such as in your tests.
"""

from loragate import bind_packages

bind_packages("evaluators")

from evaluators.compare import Comparator, Difference, Direction, Reason, Shape, Similarity  # noqa: E402
from evaluators.observation import Ended, Observation, Pair, Prompt, Score, ToolCall, Unscored  # noqa: E402

__all__ = [
    "Comparator",
    "Difference",
    "Direction",
    "Ended",
    "Observation",
    "Pair",
    "Prompt",
    "Reason",
    "Score",
    "Shape",
    "Similarity",
    "ToolCall",
    "Unscored",
]
