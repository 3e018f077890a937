"""Drift over time as it is exported and shown: values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftStanding:
    """How far one thing that is watched of a version's traffic is from what it was when it was accepted.

    Attributes:
        alias, version: Whose.
        what: `task`, `prompt_length`, `output_length`, `refusal` or `kl`.
        n: Sessions that were held against the baseline.
        psi, js: Population stability index, and Jensen-Shannon divergence in bits, of the last sessions' tasks and
            prompt lengths; None of the others, and of too few.
        evidence: The detector's sum; an alarm comes when it reaches `bound`.
        bound: See there.
        run_length: Sessions between two false alarms of the version, on average and at least.
        alarm_at: When the alarm was raised, Unix seconds; None without one.
        why: The alarm's sentence; empty without one.
    """

    alias: str
    version: str
    what: str
    n: int
    psi: float | None
    js: float | None
    evidence: float
    bound: float
    run_length: float
    alarm_at: float | None = None
    why: str = ""
