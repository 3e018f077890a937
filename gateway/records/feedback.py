"""What callers say of a reply: a score, a thumb or a label, and what it is about. Values; pure."""

from hashlib import blake2b
from typing import Final, Literal

import msgspec

# What ids of the gateway's own making begin with; no client's id does, so each of them has one request and one account.
OWN_ID: Final = "req-"
MAX_LABEL: Final = 64
MAX_COMMENT: Final = 2_000
# A score from here on is good; a thumb counts as 1 or 0.
GOOD_FROM: Final = 0.5


# A request as feedback names it: its id, and the account that speaks of it. Clients choose ids, so two accounts may
# have used the same one.
Named = tuple[str, str]


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What served the request that feedback is about.

    Attributes:
        alias, version, arm: The name that was asked for, what served it, and as which arm.
        rollout, stage: To which stage of which rollout it counts; empty and 0 outside of one.
        account: To whom the request's key belongs.
        unit: A mark of the unit that it was assigned an arm by; empty where there is none.
    """

    alias: str
    version: str
    arm: str
    rollout: str = ""
    stage: int = 0
    account: str = ""
    unit: str = ""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One caller's word on one reply; a later one of the same account on the same request takes its place.

    Attributes:
        request_id: As in the reply's `x-request-id`.
        account: To whom the key belongs that gave it.
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
        """What it is called, the same each time that the account speaks of the request."""
        told = f"{self.account}\x1f{self.request_id}".encode("utf-8", "surrogatepass")
        return "fb-" + blake2b(told, digest_size=12).hexdigest()

    @property
    def named(self) -> Named:
        """Which request it names."""
        return self.request_id, self.account

    @property
    def value(self) -> float | None:
        """As a number in [0, 1], 1 is good; None of a label, which says neither."""
        if self.score is not None:
            return self.score
        return None if self.thumb is None else float(self.thumb == "up")

    @property
    def is_bad(self) -> bool | None:
        """Whether it counts against the arm; None of a label, which counts for neither."""
        value = self.value
        return None if value is None else value < GOOD_FROM

    @property
    def kind(self) -> str:
        """How it was given: `score`, `thumb` or `label`."""
        if self.score is not None:
            return "score"
        return "thumb" if self.thumb is not None else "label"
