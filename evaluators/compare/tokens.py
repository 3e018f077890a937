"""Tokens: the control's generated tokens over both arms' together; below 0.5 the candidate is longer.

Limits: as the engine counted, reasoning included; not known for a reply with several choices. At a
temperature above 0 lengths vary by themselves, so it is judged against the noise pairs.
"""

from typing import Final

from evaluators.compare.comparator import Reason, Similarity
from evaluators.compare.relative import control_share
from evaluators.observation import Pair


def _share(pair: Pair) -> float | Reason:
    return control_share(pair.control.completion_tokens, pair.candidate.completion_tokens, Reason.UNKNOWN)


TOKENS: Final = Similarity(name="tokens", version="1", measure=_share)
