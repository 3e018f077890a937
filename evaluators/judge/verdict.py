"""The three answers of a criterion, and of a rollout's gate."""

from enum import StrEnum


class Verdict(StrEnum):
    """The three answers, best first."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
