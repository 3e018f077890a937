"""The checker of engines that are not to be probed: every load passes."""

from collections.abc import Collection, Mapping
from typing import Any

from adapters.catalog import Entry


class Unchecked:
    """Passes everything, and says nothing of it."""

    async def check(self, entry: Entry, company: Collection[str]) -> None:
        """Pass."""

    async def inspect(self, entries: Collection[Entry]) -> Mapping[str, str]:
        """Find nothing."""
        return {}

    def last(self, version: str) -> dict[str, Any] | None:
        """Know nothing."""
        return None

    def reset(self) -> None:
        """Have nothing to forget."""
