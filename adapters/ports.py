"""The interfaces of a loader: an engine that holds adapters, a check of what it serves, and counters."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from adapters.catalog import Entry


class LoadRefused(Exception):
    """The engine will not load this version, however often it is asked."""


class HostUnavailable(Exception):
    """The engine cannot be asked now."""


class NotOneEngine(HostUnavailable):
    """The address belongs to several engines, so each connection may see other adapters."""


class Unfit(LoadRefused):
    """The engine loaded the version and does not serve it as it should; the message has the figures."""


class AdapterHost(Protocol):
    """An engine that holds adapters."""

    async def adapter_names(self) -> Collection[str]:
        """Return the names of the adapters that the engine has loaded."""

    async def load(self, version: str, folder: str) -> None:
        """Load an adapter folder under a name.

        Raises:
            LoadRefused: The engine refuses it.
            HostUnavailable: The engine is away.
        """

    async def unload(self, version: str) -> None:
        """Unload an adapter; it is no error if the engine does not have it."""


class Checker(Protocol):
    """Checks whether the engine serves a version as it should."""

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Compare a version that was just loaded with its records, alone and in a batch with some of `company`.

        Raises:
            Unfit: It differs from its records, or the engine cannot be probed.
            HostUnavailable: The engine cannot be asked now.
        """

    def last(self, version: str) -> dict[str, Any] | None:
        """Return the figures of a version's last check, for display; None if there was none."""

    def reset(self) -> None:
        """Forget what was measured, because the engine was restarted or replaced."""

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Check versions that are in service; returns those that fail, with the reasons.

        Raises:
            HostUnavailable: The engine cannot be asked.
        """


class Observer(Protocol):
    """Counts what the loader does."""

    def count_load(self, seconds: float, outcome: str) -> None:
        """Count a load by its outcome (`ok`, `refused`, `unfit` or `unavailable`) with its duration, check included."""

    def count_eviction(self) -> None:
        """Count a version that was unloaded to make room for another."""
