"""Bring a version onto an engine, or take it off, through whatever host the engine offers."""

import asyncio
from collections.abc import Collection
from typing import Final, Protocol

from adapters.catalog import Entry

# Pauses in seconds between tries: long enough for an engine that is busy with a batch.
RETRY_PAUSES: Final = (0.2, 1.0, 3.0)


class LoadRefused(Exception):
    """The engine will not take this version, however often it is asked."""


class HostUnavailable(Exception):
    """The engine cannot be asked now."""


class AdapterHost(Protocol):
    """An engine as a holder of adapters."""

    async def loaded(self) -> Collection[str]:
        """Return the names of the adapters that the engine has."""

    async def load(self, version: str, folder: str) -> None:
        """Load a folder under a name.

        Raises:
            LoadRefused, HostUnavailable: Why it could not.
        """

    async def unload(self, version: str) -> None:
        """Forget a name; it is no error if the engine does not know it."""


async def bring_up(host: AdapterHost, entry: Entry) -> None:
    """Load a version, trying again while the engine is busy or away.

    Raises:
        LoadRefused: The engine refuses it.
        HostUnavailable: The engine stayed away through every try.
    """
    for pause in RETRY_PAUSES:
        try:
            await host.load(entry.ref.version, entry.folder)
            return
        except HostUnavailable:
            await asyncio.sleep(pause)
    await host.load(entry.ref.version, entry.folder)


async def reconcile(host: AdapterHost, entries: Collection[Entry]) -> tuple[frozenset[str], dict[str, str]]:
    """Load every version the engine lacks.

    Returns:
        The versions that the engine has now, and for the others why not.

    Raises:
        HostUnavailable: The engine went away.
    """
    there = set(await host.loaded())
    failed: dict[str, str] = {}
    for entry in entries:
        version = entry.ref.version
        if version in there:
            continue
        try:
            await bring_up(host, entry)
            there.add(version)
        except LoadRefused as refusal:
            failed[version] = str(refusal)
    return frozenset(there & {entry.ref.version for entry in entries}), failed
