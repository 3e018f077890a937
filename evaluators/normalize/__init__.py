"""From HTTP bodies to what comparators read, and back to a body that asks the same again.

The only place on this side that knows how OpenAI and Anthropic requests and replies look. Bytes come
from outside, so they may be anything: what cannot be compared raises `NotComparable` with a reason in
a word, and nothing else is ever raised.
"""

from evaluators.normalize.observing import observation_of
from evaluators.normalize.prompt import prompt_of
from evaluators.normalize.reading import NotComparable
from evaluators.normalize.replaying import replay_body, skip_reason

__all__ = ["NotComparable", "observation_of", "prompt_of", "replay_body", "skip_reason"]
