"""What this worker lets in under the limits of keys and aliases, and what it has heard of the other workers.

An allowance is made when its key or alias is first used and forgotten when the table no
longer limits it. Without a limit nothing here is called.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.decide.authenticate import Principal
from gateway.decide.limit import Allowance, Rates
from gateway.decide.route import Route, RouteTable
from gateway.errors import LoragateError, Overloaded
from gateway.observe.ledger import Ledger

KEY: Final = "key:"
ALIAS: Final = "alias:"


@dataclass(slots=True)
class Spendings:
    """What was let in, by whose limit it was: requests, tokens, and the change of what is under way."""

    requests: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)


class Lease:
    """One request's place under the limits that it falls under."""

    __slots__ = ("_names", "_rates")

    def __init__(self, rates: "WorkerRates", names: tuple[str, ...]) -> None:
        self._rates = rates
        self._names = names

    def end(self, tokens: int, now: float) -> None:
        """The request is over and has cost so many tokens; may be called again, without effect."""
        names, self._names = self._names, ()
        if names:
            self._rates.leave(names, tokens, now)

    def headers(self, now: float) -> bytes:
        """Return what is left, for the reply: of the key's limits where it has some."""
        return self._rates.headers(self._names[0], now) if self._names else b""


class WorkerRates:
    """The limits as one worker keeps them.

    Args:
        ledger: Where refusals are counted.
        spent: Called when something was let in that the others have not been told of, once until `taken`.
    """

    def __init__(self, ledger: Ledger, spent: Callable[[], None]) -> None:
        self._ledger = ledger
        self._spent = spent
        self._allowances: dict[str, Allowance] = {}
        self._untold = Spendings()
        self._is_told = True

    def admit(self, caller: Principal, table: RouteTable, model: str, now: float) -> Lease | None:
        """Let a request in under all limits that it falls under; returns its lease, or None if there are none.

        Raises:
            RateLimited, Overloaded: One of them is exhausted; then it counts under none.
        """
        held: list[tuple[str, Allowance]] = []
        if caller.rates is not None:
            name = KEY + caller.unit
            allowance = self._allowance(name, caller.rates, table.replicas, now)
            self._check(allowance, "this key", "", "key", now)
            held.append((name, allowance))
        route = _route_with_limits(caller, table, model) if table.has_rates else None
        if route is not None and route.rates is not None:
            name = ALIAS + route.alias
            allowance = self._allowance(name, route.rates, table.replicas, now)
            self._check(allowance, f"`{route.alias}`", route.alias, "alias", now)
            held.append((name, allowance))
        if not held:
            return None
        for name, allowance in held:
            allowance.enter(now)
            _add(self._untold.requests, name, 1)
            _add(self._untold.in_flight, name, 1)
        self._tell()
        return Lease(self, tuple(name for name, _ in held))

    def leave(self, names: tuple[str, ...], tokens: int, now: float) -> None:
        """A request that was let in is over."""
        for name in names:
            allowance = self._allowances.get(name)
            if allowance is not None:
                allowance.leave(tokens, now)
            _add(self._untold.in_flight, name, -1)
            if tokens > 0:
                _add(self._untold.tokens, name, tokens)
        self._tell()

    def headers(self, name: str, now: float) -> bytes:
        """Return OpenAI's headers about what is left under one limit."""
        allowance = self._allowances.get(name)
        return b"" if allowance is None else allowance.headers(now)

    def take_unshared(self) -> Spendings:
        """Return what the others have not been told of yet; from now on they have."""
        untold, self._untold = self._untold, Spendings()
        self._is_told = True
        return untold

    def apply_shared(self, others: Spendings, now: float) -> None:
        """Take in what the other workers have let in."""
        for name in others.requests.keys() | others.tokens.keys() | others.in_flight.keys():
            allowance = self._allowances.get(name)
            if allowance is not None:
                requests, tokens = others.requests.get(name, 0), others.tokens.get(name, 0)
                allowance.others(requests, tokens, others.in_flight.get(name, 0), now)

    def adapt(self, table: RouteTable, now: float) -> None:
        """Go on with the limits of a new table."""
        rates = {KEY + key.unit: key.rates for key in (table.keys or {}).values() if key.rates is not None}
        rates |= {ALIAS + route.alias: route.rates for route in table.routes.values() if route.rates is not None}
        # Made here and not when first used, so that what the other workers say of it is heard.
        self._allowances = {name: self._allowance(name, each, table.replicas, now) for name, each in rates.items()}

    def _allowance(self, name: str, rates: Rates, replicas: int, now: float) -> Allowance:
        allowance = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = Allowance(rates, replicas, now)
        elif allowance.rates is not rates:
            allowance.adapt(rates, replicas, now)
        return allowance

    def _check(self, allowance: Allowance, whose: str, alias: str, kind: str, now: float) -> None:
        error = allowance.refusal(whose, now)
        if error is not None:
            self._ledger.cell(alias).count_refusal(f"{kind}_{_reason(error)}")
            raise error

    def _tell(self) -> None:
        if self._is_told:
            self._is_told = False
            self._spent()


def _route_with_limits(caller: Principal, table: RouteTable, model: str) -> Route | None:
    """Return the route whose limits a request falls under; none if it will be refused anyway."""
    alias, at, _ = model.partition("@")
    if not caller.may_use(alias) or (at and not caller.may_pin()):
        return None
    return table.routes.get(alias)


def _reason(error: LoragateError) -> str:
    return "in_flight" if isinstance(error, Overloaded) else error.type


def _add(to: dict[str, int], name: str, amount: int) -> None:
    to[name] = to.get(name, 0) + amount
