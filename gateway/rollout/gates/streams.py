"""What the gates on live traffic read: both arms' units of one step, of all accounts and by account."""

from dataclasses import dataclass, replace

from gateway.rollout.gates.unit_shares import NO_UNITS, ArmUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStreams:
    """What one account, or all that have no name of their own, has contributed to `Streams`."""

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
        control, candidate: Of all accounts.
        threshold_seconds: For `latency`, above which time a request was counted as bad; fixed before its unit was
            counted (`latency_threshold`).
        accounts: The same by account, the largest first; together all of it. Empty where accounts are not told apart.
        callers: How many accounts have sent more than a stray request in the step.
        weight: The candidate's, in basis points.
        multiplicity: How often a unit was counted, by several gateways that it called at: of each copy's e-value that
            root is taken, and the geometric mean of e-values is at most their mean, which is an e-value.
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
