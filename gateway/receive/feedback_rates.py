"""A rate limit on feedback for each account, so that one account cannot delay all others' feedback.

It applies beside the rate limits of keys, which not every key has. Each piece of feedback costs the node a look-up in
every worker and the store a row, even if its request is unknown.
"""

from math import ceil
from typing import Final

from gateway.decide.limit import Bucket
from gateway.errors import RateLimited

# Ten a second: enough for an application with many users; one person gives about one a minute.
FEEDBACK_PER_MINUTE: Final = 600
# Accounts that are remembered; beyond this, accounts with a full bucket are forgotten, which changes nothing for them.
_MAX_ACCOUNTS: Final = 10_000


class FeedbackRates:
    """One worker's rate limit on feedback.

    Args:
        per_minute: How many pieces of feedback each account may give in a minute.
    """

    def __init__(self, per_minute: int = FEEDBACK_PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, Bucket] = {}

    def take(self, account: str, now: float) -> None:
        """Count one piece of feedback against its account's limit.

        Args:
            account: The account that gives the feedback.
            now: Monotonic seconds.

        Raises:
            RateLimited: The account has used its limit; `Retry-After` says when there is room again.
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
