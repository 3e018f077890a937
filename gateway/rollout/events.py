"""What may happen to a rollout, as values: `at` in Unix seconds, `by` a key's public id or `automation`."""

from dataclasses import dataclass
from typing import Final

from gateway.rollout.gates.reading import Reading
from gateway.rollout.plan import Plan

# Who acts when no person does.
AUTOMATION: Final = "automation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A rollout was drafted; the first record of each."""

    at: float
    by: str
    reason: str
    id: str
    alias: str
    control: str
    candidate: str
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPassed:
    """The candidate's audit is good."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditMissing:
    """The candidate's audit failed, expired or was not made."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first stage begins. `override`: why without the audit that the plan asks for."""

    at: float
    by: str
    override: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """A person approves the stage, for its `manual` gate."""

    at: float
    by: str
    reason: str
    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPassed:
    """All gates of the stage pass, with `samples` of the candidate's requests or pairs."""

    at: float
    by: str
    stage: int
    samples: int
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A gate fails."""

    at: float
    by: str
    stage: int
    samples: int
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInconclusive:
    """The stage has used up its time or samples, and its gates do not pass; `reason` says which."""

    at: float
    by: str
    reason: str
    stage: int
    samples: int
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """A person holds the rollout where it is; the weight stays, and a failure still rolls back."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A person lets the paused stage begin anew: its clock, its samples, its approval."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """A person makes the candidate the control. `override`: why before the plan is complete."""

    at: float
    by: str
    override: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """A person ends the rollout without a verdict; all traffic is the control's."""

    at: float
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """A person, or a check outside the plan, takes the candidate back; `to_version` is the control if not given."""

    at: float
    by: str
    reason: str
    to_version: str | None = None


Event = (
    AuditPassed
    | AuditMissing
    | Started
    | Approved
    | StepPassed
    | StepFailed
    | StepInconclusive
    | Paused
    | Resumed
    | Promoted
    | Aborted
    | RolledBack
)
