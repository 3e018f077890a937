"""Feedback of callers on a reply: a score, a thumb or a label, and which version it is about. Values; pure."""

from hashlib import blake2b
from typing import Final, Literal

import msgspec

# The prefix of request ids that the gateway makes itself; ids of clients never have it, so such an id belongs to one
# request and one account.
OWN_ID: Final = "req-"
MAX_LABEL: Final = 64
MAX_COMMENT: Final = 2_000
# A score of at least this is good; a thumb counts as 1 or 0.
GOOD_FROM: Final = 0.5


# The request that feedback names: its id, and the account that gives the feedback. Clients may choose ids, so two
# accounts may have used the same one.
RequestKey = tuple[str, str]


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What served the request that feedback is about.

    Attributes:
        alias, version, arm: The name that was asked for, what served it, and as which arm.
        rollout, stage: The rollout and stage for which it counts; empty and 0 outside of a rollout.
        account: The account of the request's key.
        unit: A hash of the unit by which the request was assigned an arm; empty if there was none.
    """

    alias: str
    version: str
    arm: str
    rollout: str = ""
    stage: int = 0
    account: str = ""
    unit: str = ""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's feedback on one reply; later feedback of the same account on the same request replaces it.

    Attributes:
        request_id: As in the reply's `x-request-id`.
        account: The account of the key with which it was given.
        score, thumb, label: Exactly one of them; a score is in [0, 1], an empty label is none.
        comment: Empty where the route's `capture` keeps no words.
        at: When it was given, Unix seconds.
        about: What it is about; None until a gateway knows the request.
    """

    request_id: str
    account: str
    score: float | None = None
    thumb: Literal["up", "down"] | None = None
    label: str = ""
    comment: str = ""
    at: float = 0.0
    about: About | None = None

    @property
    def id(self) -> str:
        """The feedback's id, the same for all feedback of an account on a request."""
        key = f"{self.account}\x1f{self.request_id}".encode("utf-8", "surrogatepass")
        return "fb-" + blake2b(key, digest_size=12).hexdigest()

    @property
    def request_key(self) -> RequestKey:
        """The id of the request that the feedback is about, with the account that gives the feedback."""
        return self.request_id, self.account

    @property
    def value(self) -> float | None:
        """The feedback as a number in [0, 1], where 1 is good; None for a label."""
        if self.score is not None:
            return self.score
        return None if self.thumb is None else float(self.thumb == "up")

    @property
    def is_bad(self) -> bool | None:
        """Whether the feedback counts against the arm; None for a label, which is neither good nor bad."""
        value = self.value
        return None if value is None else value < GOOD_FROM

    @property
    def kind(self) -> str:
        """The form of the feedback: `score`, `thumb` or `label`."""
        if self.score is not None:
            return "score"
        return "thumb" if self.thumb is not None else "label"
