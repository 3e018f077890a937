"""What routes say of their mirrors, and the catalog of its versions: read from the store now and then."""

from collections.abc import Mapping
from typing import Final, Protocol

from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.state import Desired
from gateway.store.sql import Store

_DEFAULT: Final = MirrorPolicy()
# What we know of rollouts may be older than a sample by as much as this, and clocks of machines may differ by it.
_STALE_SECONDS: Final = 60.0


class Policies(Protocol):
    """What an evaluator asks of the state."""

    def of(self, alias: str) -> MirrorPolicy:
        """Return an alias's policy; the default's where it has no route any more."""

    def is_scorable(self, version: str) -> bool:
        """Whether an engine's log-probabilities of a prompt are the version's own."""

    def is_over(self, rollout: str, at: float) -> bool:
        """Whether a rollout has ended, so that nobody waits for its pairs.

        Args:
            rollout: Its id; empty outside of one.
            at: When the request was answered, Unix seconds.
        """

    def judged(self) -> list[str]:
        """Return the aliases that have a judge."""


class StoredPolicies:
    """The policies in a store, as last read.

    Args:
        store: Where the state is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = -1
        self._routes: Mapping[str, RouteRecord] = {}
        self._unscorable: frozenset[str] = frozenset()
        self._open: frozenset[str] = frozenset()
        self._ended: frozenset[str] = frozenset()
        self._checked_at = 0.0

    def refresh(self) -> None:
        """Read the state if it has changed; blocks.

        Raises:
            StoreError: It cannot be read; what was read before goes on to hold.
        """
        now = self._store.now()
        if self._store.version() != self._version:
            self._take(self._store.read())
        self._checked_at = now

    def of(self, alias: str) -> MirrorPolicy:
        """Return an alias's policy; the default's where it has no route any more."""
        route = self._routes.get(alias)
        return _DEFAULT if route is None or route.mirror is None else route.mirror

    def is_scorable(self, version: str) -> bool:
        """Whether an engine's log-probabilities of a prompt are the version's own; the base's always are."""
        return version not in self._unscorable

    def is_over(self, rollout: str, at: float) -> bool:
        """Whether a rollout has ended; of one that we have not heard of yet we do not know."""
        if not rollout or rollout in self._open:
            return False
        return rollout in self._ended or at < self._checked_at - _STALE_SECONDS

    def judged(self) -> list[str]:
        """Return the aliases that have a judge."""
        return [alias for alias in self._routes if self.of(alias).judge is not None]

    def limited(self) -> dict[str, int]:
        """Return the aliases that have a budget, with their tokens an hour."""
        found = {alias: self.of(alias).tokens_per_hour for alias in self._routes}
        return {alias: tokens for alias, tokens in found.items() if tokens is not None}

    def _take(self, desired: Desired) -> None:
        self._version = desired.version
        self._routes = {route.alias: route for route in desired.routes}
        still_open = frozenset(rollout.id for rollout in desired.rollouts)
        self._ended = (self._ended | self._open) - still_open
        self._open = still_open
        self._unscorable = frozenset(each.ref.version for each in desired.adapters if not each.manifest.is_scorable)
