"""A checker for engines that may not be probed: every load passes."""

from collections.abc import Collection, Mapping
from typing import Any

from adapters.catalog import Entry


class Unchecked:
    """Passes every version and has no figures."""

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Pass the version without asking the engine."""

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        return {}

    def last(self, version: str) -> dict[str, Any] | None:
        return None

    def reset(self) -> None:
        """Do nothing, since nothing was measured."""
