"""Truncated: whether an answer ran into its token limit, by what the engine says (`length`).

Limits: a request with a small `max_tokens` cuts both arms off, which is no difference. An answer
that Loragate itself cut off says nothing here.
"""

from typing import Final

from evaluators.compare.comparator import Difference, Direction, Reason
from evaluators.observation import Observation, Prompt


def _look(_prompt: Prompt, answer: Observation) -> float | Reason:
    return Reason.UNKNOWN if answer.finish_reason is None else float(answer.finish_reason == "length")


TRUNCATED: Final = Difference(name="truncated", version="1", direction=Direction.LOWER_IS_BETTER, look=_look)
