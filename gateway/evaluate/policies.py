"""The routes' mirror policies, open rollouts and versions, read from the store at intervals."""

from collections.abc import Mapping
from typing import Final, Protocol

from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.state import Desired
from gateway.store.sql import Store

_DEFAULT: Final = MirrorPolicy()
# A sample may be newer than the rollouts that we last read by this much; machines' clocks may differ by it, too.
_STALE_SECONDS: Final = 60.0


class Policies(Protocol):
    """What an evaluator needs to know of routes, rollouts and versions."""

    def of(self, alias: str) -> MirrorPolicy:
        """Return an alias's mirror policy; the default if it has no route any more."""

    def is_scorable(self, version: str) -> bool:
        """Whether an engine's `prompt_logprobs` for the version are the version's own."""

    def is_over(self, rollout: str, at: float) -> bool:
        """Whether a rollout has ended, so that its pairs are no longer needed.

        Args:
            rollout: Its id; empty for a sample outside of a rollout.
            at: When the request was answered, Unix seconds.
        """

    def aliases_with_judge(self) -> list[str]:
        """Return the aliases whose route names a judge."""


class StoredPolicies:
    """The policies in a store, as they were last read.

    Args:
        store: Holds the state.
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
            StoreError: The store cannot be read; the policies of the last read stay in force.
        """
        now = self._store.now()
        if self._store.version() != self._version:
            self._take(self._store.read_state())
        self._checked_at = now

    def of(self, alias: str) -> MirrorPolicy:
        route = self._routes.get(alias)
        return _DEFAULT if route is None or route.mirror is None else route.mirror

    def is_scorable(self, version: str) -> bool:
        """Whether an engine's `prompt_logprobs` for the version are the version's own; always so for the base model."""
        return version not in self._unscorable

    def is_over(self, rollout: str, at: float) -> bool:
        """Whether a rollout has ended. An unknown one has, if the sample is older than our last read by
        `_STALE_SECONDS`.
        """
        if not rollout or rollout in self._open:
            return False
        return rollout in self._ended or at < self._checked_at - _STALE_SECONDS

    def aliases_with_judge(self) -> list[str]:
        return [alias for alias in self._routes if self.of(alias).judge is not None]

    def hourly_budgets(self) -> dict[str, int]:
        """Return alias → tokens an hour, of the aliases that have a budget."""
        found = {alias: self.of(alias).tokens_per_hour for alias in self._routes}
        return {alias: tokens for alias, tokens in found.items() if tokens is not None}

    def _take(self, desired: Desired) -> None:
        self._version = desired.version
        self._routes = {route.alias: route for route in desired.routes}
        still_open = frozenset(rollout.id for rollout in desired.rollouts)
        self._ended = (self._ended | self._open) - still_open
        self._open = still_open
        self._unscorable = frozenset(each.ref.version for each in desired.adapters if not each.manifest.is_scorable)
