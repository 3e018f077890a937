"""How much feedback each account may give a worker in a minute, so that one cannot hold up all others' words.

Beside the limits of its keys, which not every key has: taking feedback costs the node a look-up
in every worker and the store a row, also where nobody knows the request.
"""

from math import ceil
from typing import Final

from gateway.decide.limit import Bucket
from gateway.errors import RateLimited

# A thumb for ten replies in a second; a person gives one in a minute.
FEEDBACK_PER_MINUTE: Final = 600
# Accounts that are remembered; beyond, those are forgotten that may give all of a minute's.
_MAX_ACCOUNTS: Final = 10_000


class FeedbackRates:
    """One worker's bound.

    Args:
        per_minute: Of each account.
    """

    def __init__(self, per_minute: int = FEEDBACK_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, Bucket] = {}

    def take(self, account: str, now: float) -> None:
        """Let one word in.

        Args:
            account: Whose.
            now: Monotonic seconds.

        Raises:
            RateLimited: The account has given its minute's share; `Retry-After` says when there is room again.
        """
        bucket = self._buckets.get(account)
        if bucket is None:
            if len(self._buckets) >= _MAX_ACCOUNTS:
                self._forget(now)
            bucket = self._buckets[account] = Bucket(self._per_minute, 1, now)
        if bucket.level(now) < 1:
            seconds = max(1, ceil(bucket.seconds_until(1, now)))
            error = RateLimited(
                f"Rate limit reached for this key's feedback per min: limit {self._per_minute}. "
                f"Please try again in {seconds}s."
            )
            error.retry_after_seconds = seconds
            raise error
        bucket.take(1, now)

    def _forget(self, now: float) -> None:
        used = {name: each for name, each in self._buckets.items() if each.level(now) < self._per_minute}
        self._buckets = used if len(used) < _MAX_ACCOUNTS else {}
