"""Rate limits of keys and aliases in one worker, including what the other workers have reported to it.

Each limited key or alias of the route table has an allowance, which is dropped when the table no longer limits it.
Where there is no limit, nothing here is called.
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
    """Usage by limit (a key's or an alias's): requests, tokens, and the change in the number of requests in flight."""

    requests: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)


class Lease:
    """One admitted request's use of the limits that apply to it, until it ends."""

    __slots__ = ("_names", "_rates")

    def __init__(self, rates: "WorkerRates", names: tuple[str, ...]) -> None:
        self._rates = rates
        self._names = names

    def end(self, tokens: int, now: float) -> None:
        """Charge `tokens` and end the request's use of its limits. A second call has no effect."""
        names, self._names = self._names, ()
        if names:
            self._rates.leave(names, tokens, now)

    def headers(self, now: float) -> bytes:
        """Return the `x-ratelimit-*` header lines: of the key's limits if it has any, else of the alias's."""
        return self._rates.headers(self._names[0], now) if self._names else b""


class WorkerRates:
    """The rate limits as one worker keeps them.

    Args:
        ledger: Where refusals are counted.
        on_unshared: Called when there is usage that the other workers do not know of; once until `take_unshared`.
    """

    def __init__(self, ledger: Ledger, on_unshared: Callable[[], None]) -> None:
        self._ledger = ledger
        self._on_unshared = on_unshared
        self._allowances: dict[str, Allowance] = {}
        self._unshared = Spendings()
        self._is_announced = False  # `on_unshared` has been called since the last `take_unshared`

    def admit(self, caller: Principal, table: RouteTable, model: str, now: float) -> Lease | None:
        """Admit a request under all limits that apply to it; return its lease, or None if no limit applies.

        Raises:
            RateLimited, Overloaded: A limit is exhausted; the request then counts under none of them.
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
            _add(self._unshared.requests, name, 1)
            _add(self._unshared.in_flight, name, 1)
        self._announce()
        return Lease(self, tuple(name for name, _ in held))

    def leave(self, names: tuple[str, ...], tokens: int, now: float) -> None:
        """End a request that `admit` let in, and charge its tokens."""
        for name in names:
            allowance = self._allowances.get(name)
            if allowance is not None:
                allowance.leave(tokens, now)
            _add(self._unshared.in_flight, name, -1)
            if tokens > 0:
                _add(self._unshared.tokens, name, tokens)
        self._announce()

    def headers(self, name: str, now: float) -> bytes:
        """Return OpenAI's `x-ratelimit-*` header lines for one limit."""
        allowance = self._allowances.get(name)
        return b"" if allowance is None else allowance.headers(now)

    def take_unshared(self) -> Spendings:
        """Return the usage that the other workers do not know of yet, and begin to collect anew."""
        unshared, self._unshared = self._unshared, Spendings()
        self._is_announced = False
        return unshared

    def apply_shared(self, others: Spendings, now: float) -> None:
        """Apply the usage that other workers have reported."""
        for name in others.requests.keys() | others.tokens.keys() | others.in_flight.keys():
            allowance = self._allowances.get(name)
            if allowance is not None:
                requests, tokens = others.requests.get(name, 0), others.tokens.get(name, 0)
                allowance.apply_others(requests, tokens, others.in_flight.get(name, 0), now)

    def adapt(self, table: RouteTable, now: float) -> None:
        """Apply the limits of a new route table."""
        rates = {KEY + key.unit: key.rates for key in (table.keys or {}).values() if key.rates is not None}
        rates |= {ALIAS + route.alias: route.rates for route in table.routes.values() if route.rates is not None}
        # Made here and not at the first request, so that usage which other workers report before that is not lost.
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

    def _announce(self) -> None:
        if not self._is_announced:
            self._is_announced = True
            self._on_unshared()


def _route_with_limits(caller: Principal, table: RouteTable, model: str) -> Route | None:
    """Return the route whose limits apply to a request; None if the request will be refused anyway."""
    alias, at, _ = model.partition("@")
    if not caller.may_use(alias) or (at and not caller.may_pin()):
        return None
    return table.routes.get(alias)


def _reason(error: LoragateError) -> str:
    return "in_flight" if isinstance(error, Overloaded) else error.type


def _add(to: dict[str, int], name: str, amount: int) -> None:
    to[name] = to.get(name, 0) + amount
