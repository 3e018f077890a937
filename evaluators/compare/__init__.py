"""Comparators of two answers, one a file; each returns a `Score`, or `Unscored` with the reason.

| shape | comparators |
|---|---|
| similarity | exact edit chrf rouge_l embedding length_ratio tool_calls language finish_reason ttft itl tokens |
| difference | refusal repetition json_valid truncated expected |
"""

from evaluators.compare.comparator import Comparator, Difference, Direction, Reason, Shape, Similarity
from evaluators.compare.registry import comparator_problems, comparators, compare_all

__all__ = [
    "Comparator",
    "Difference",
    "Direction",
    "Reason",
    "Shape",
    "Similarity",
    "comparator_problems",
    "comparators",
    "compare_all",
]
