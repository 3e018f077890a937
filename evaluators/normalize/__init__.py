"""Convert HTTP bodies to the values that comparators read, and build the body that replays a request.

Only this package of `evaluators` knows the formats of OpenAI and Anthropic requests and replies. Bodies are untrusted:
one that cannot be compared raises `NotComparable` with a reason of one word, and no other exception is raised.
"""

from evaluators.normalize.observing import observation_of
from evaluators.normalize.prompt import prompt_of
from evaluators.normalize.reading import NotComparable
from evaluators.normalize.replaying import replay_body, skip_reason

__all__ = ["NotComparable", "observation_of", "prompt_of", "replay_body", "skip_reason"]
