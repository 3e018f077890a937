"""The values by which drift over time is exported as metrics and shown in reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftStanding:
    """How far one measured property of a version's traffic is from the accepted baseline.

    Attributes:
        alias, version: Whose traffic is measured.
        what: The property: `task`, `prompt_length`, `output_length`, `refusal` or `kl`.
        n: Sessions that were compared with the baseline.
        psi, js: Population stability index, and Jensen-Shannon divergence in bits, over the last sessions. Only for
            `task` and `prompt_length`; None for the other properties and while there are too few sessions.
        evidence: The detector's sum; it raises an alarm when this reaches `bound`.
        bound: The value of `evidence` that raises an alarm.
        run_length: Sessions between two false alarms of the version: the mean is at least this.
        alarm_at: When the alarm was raised, Unix seconds; None without an alarm.
        why: The sentence that explains the alarm; empty without one.
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
