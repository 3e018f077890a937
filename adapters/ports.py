"""What a loader asks of the world: an engine that holds adapters, a check, and who counts."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from adapters.catalog import Entry


class LoadRefused(Exception):
    """The engine will not take this version, however often it is asked."""


class HostUnavailable(Exception):
    """The engine cannot be asked now."""


class NotOneEngine(HostUnavailable):
    """What was taken for one engine is several, behind one address: each connection may see other adapters."""


class Unfit(LoadRefused):
    """The engine took the version and does not serve it as it should; the message has the figures."""


class AdapterHost(Protocol):
    """An engine as a holder of adapters."""

    async def adapter_names(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""

    async def load(self, version: str, folder: str) -> None:
        """Load a folder under a name.

        Raises:
            LoadRefused, HostUnavailable: Why it could not.
        """

    async def unload(self, version: str) -> None:
        """Forget a name; it is no error if the engine does not know it."""


class Checker(Protocol):
    """Whether the engine serves a version as it should."""

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Compare a version that was just loaded with what is known of it, alone and beside `company`.

        Raises:
            Unfit, HostUnavailable: It is not what it should be, or cannot be asked.
        """

    def last(self, version: str) -> dict[str, Any] | None:
        """Return the figures of a version's last check, for people; None if there was none."""

    def reset(self) -> None:
        """The engine is another from now on: what was measured of it counts no more."""

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Check versions that are in service; returns those that fail, and why.

        Raises:
            HostUnavailable: The engine cannot be asked.
        """


class Observer(Protocol):
    """Who counts what the loader does."""

    def count_load(self, seconds: float, outcome: str) -> None:
        """A load took so long, check included, and ended `ok`, `refused`, `unfit` or `unavailable`."""

    def count_eviction(self) -> None:
        """A version made room for another."""
