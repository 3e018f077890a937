"""Accepted fingerprints, by version and engine, in memory and in the store.

Readers never wait for the store. A change that cannot be stored at once is stored together with the next one.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from adapters.fingerprint import Fingerprint
from gateway.store import rows
from gateway.store.errors import StoreError
from gateway.store.schema import fingerprints as table
from gateway.store.sql import Store

log = logging.getLogger("loragate.fingerprints")

# Long enough for a healthy store, so that a change is usually stored before the caller is answered.
PATIENCE_SECONDS: Final = 0.5

Records = dict[str, dict[str, Fingerprint]]


class FingerprintStore:
    """The fingerprints of all versions, by engine.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: Records = {}
        # Changes that are not stored yet: the fingerprint to store, or None for one to delete.
        self._unstored: dict[tuple[str, str], Fingerprint | None] = {}
        self._turn = asyncio.Lock()
        self._storing: set[asyncio.Task[None]] = set()
        self._is_slow = False

    def load(self) -> None:
        """Read all fingerprints, at a start and when other gateways may have added some; blocks.

        Raises:
            StoreError: The store cannot be read; the fingerprints in memory stay.
        """
        self._take(self._store.run_read(_read))

    async def refresh(self) -> None:
        """Read all fingerprints, after storing the changes that could not be stored before.

        Raises:
            StoreError: As `load`.
        """
        async with self._turn:
            await self._flush()
            self._take(await asyncio.to_thread(self._store.run_read, _read))

    def of(self, version: str) -> Mapping[str, Fingerprint]:
        """Return a version's fingerprints by engine, the oldest first."""
        return self._known.get(version, {})

    async def keep(self, version: str, engine: str, found: Fingerprint) -> None:
        """Add the fingerprint of a version on an engine, or replace it."""
        self._known[version] = {**self.of(version), engine: found}
        await self._store_soon(version, engine, found)

    async def forget(self, version: str, engine: str) -> None:
        """Remove the fingerprint of a version on an engine; it is no error if there is none."""
        known = dict(self.of(version))
        if known.pop(engine, None) is not None:
            self._known[version] = known
            await self._store_soon(version, engine, None)

    def drop(self, version: str) -> None:
        """Forget the fingerprints of a version that is no longer registered; the store deletes its own with it."""
        self._known.pop(version, None)
        for key in [key for key in self._unstored if key[0] == version]:
            del self._unstored[key]

    def sweep(self, registered: Mapping[str, object]) -> None:
        """Remove fingerprints of versions that a crash left unregistered; blocks. Names without `@` are bases."""
        unregistered = [version for version in self._known if "@" in version and version not in registered]
        for version in unregistered:
            self.drop(version)
        if not unregistered:
            return
        try:
            self._store.run_write(
                lambda connection: connection.execute(delete(table).where(table.c.version.in_(unregistered)))
            )
        except StoreError as error:
            log.warning("fingerprints of unregistered versions could not be deleted and stay for now: %s", error)

    def _take(self, stored: Records) -> None:
        for (version, engine), found in self._unstored.items():
            by_engine = stored.setdefault(version, {})
            if found is None:
                by_engine.pop(engine, None)
            else:
                by_engine[engine] = found
        self._known = stored

    async def _store_soon(self, version: str, engine: str, found: Fingerprint | None) -> None:
        """Store a change in the background, and wait for it briefly: a slow or absent store must not delay a load."""
        self._unstored[version, engine] = found
        if len(self._storing) > 1:
            return  # a second task waits for the first, and will store this change too
        storing = asyncio.get_running_loop().create_task(self._try_to_flush())
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)
        if not self._is_slow:
            await asyncio.wait({storing}, timeout=PATIENCE_SECONDS)
            self._is_slow = not storing.done()

    async def _try_to_flush(self) -> None:
        try:
            async with self._turn:
                await self._flush()
        except StoreError as error:
            self._is_slow = True
            log.warning("fingerprints could not be stored yet; the next change or refresh tries again: %s", error)
        else:
            self._is_slow = False

    async def _flush(self) -> None:
        changes = dict(self._unstored)
        if not changes:
            return
        await asyncio.to_thread(self._store.run_write, lambda connection: _write(connection, changes))
        for key, found in changes.items():
            if self._unstored.get(key, ...) is found:
                del self._unstored[key]
        dropped = {key: None for key, found in changes.items() if found is not None and key[1] not in self.of(key[0])}
        if dropped:  # removed from memory while they were being written: delete them from the store too
            await asyncio.to_thread(self._store.run_write, lambda connection: _write(connection, dropped))


def _read(connection: Connection) -> Records:
    known: Records = {}
    query = select(table.c.version, table.c.engine, table.c.record).order_by(table.c.version, table.c.number)
    for version, engine, record in connection.execute(query):
        known.setdefault(version, {})[engine] = rows.decode(record, Fingerprint, table.name)
    return known


def _write(connection: Connection, changes: Mapping[tuple[str, str], Fingerprint | None]) -> None:
    rows.hold(connection)  # so that two gateways cannot insert the same row
    for (version, engine), found in changes.items():
        here = (table.c.version == version, table.c.engine == engine)
        if found is None:
            connection.execute(delete(table).where(*here))
            continue
        record = rows.encode(found)
        if connection.execute(update(table).where(*here).values(record=record)).rowcount:
            continue
        last = connection.scalar(select(func.max(table.c.number)).where(table.c.version == version)) or 0
        connection.execute(insert(table).values(version=version, engine=engine, number=last + 1, record=record))
