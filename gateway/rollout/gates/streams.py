"""The counts that gates on live traffic read: both arms' units of one step, in total and by account."""

from dataclasses import dataclass, replace

from gateway.rollout.gates.unit_shares import NO_UNITS, ArmUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStreams:
    """The units in `Streams` of one account, or of all accounts too small to be counted by name."""

    account: str
    control: ArmUnits = NO_UNITS
    candidate: ArmUnits = NO_UNITS

    @property
    def n(self) -> int:
        """Units of both arms."""
        return self.control.n + self.candidate.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Both arms' units of one step, by their requests that were bad in the sense of one gate.

    Attributes:
        control, candidate: The units of all accounts.
        threshold_seconds: For `latency`, the duration above which a request was counted as bad; fixed before its unit
            was counted (`latency_threshold`).
        accounts: The same units by account, the largest first; they add up to all units. Empty if accounts are not
            counted apart.
        callers: How many accounts have sent more than a stray request in the step.
        weight: The candidate's weight in basis points.
        multiplicity: How many times a unit was counted on average, because it called at several gateways. The root of
            this degree is taken of the e-value: the geometric mean of e-values is at most their mean, which is an
            e-value.
    """

    control: ArmUnits
    candidate: ArmUnits
    threshold_seconds: float | None = None
    accounts: tuple[AccountStreams, ...] = ()
    callers: int = 0
    weight: int = 0
    multiplicity: float = 1.0

    def without(self, account: AccountStreams) -> "Streams":
        """Return the units of all but one account."""
        return replace(
            self,
            control=self.control.without(account.control),
            candidate=self.candidate.without(account.candidate),
            accounts=tuple(each for each in self.accounts if each.account != account.account),
        )
