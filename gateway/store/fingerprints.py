"""Fingerprints that were found good, by version and engine; in memory, and in the store.

Readers never wait for the store. What cannot be stored at once is stored with the next one.
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

# Long enough for a store that is well, so that what is answered is stored as a rule.
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
        # What the store does not have yet: a fingerprint, or None for one that is to go.
        self._unstored: dict[tuple[str, str], Fingerprint | None] = {}
        self._turn = asyncio.Lock()
        self._storing: set[asyncio.Task[None]] = set()
        self._is_slow = False

    def load(self) -> None:
        """Read all of them, at a start and when others may have added some; blocks.

        Raises:
            StoreError: They cannot be read; what is known stays.
        """
        self._take(self._store.run_read(_read))

    async def refresh(self) -> None:
        """Read all of them, and store what could not be stored before.

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
        """Add one, or replace the engine's."""
        self._known[version] = {**self.of(version), engine: found}
        await self._store_soon(version, engine, found)

    async def forget(self, version: str, engine: str) -> None:
        """Remove one; it is no error if there is none."""
        known = dict(self.of(version))
        if known.pop(engine, None) is not None:
            self._known[version] = known
            await self._store_soon(version, engine, None)

    def drop(self, version: str) -> None:
        """Forget all of a version that is no longer registered; the store drops them with its registration."""
        self._known.pop(version, None)
        for key in [key for key in self._unstored if key[0] == version]:
            del self._unstored[key]

    def sweep(self, registered: Mapping[str, object]) -> None:
        """Remove those of versions that a crash left without registration; blocks. A base has no `@` in its name."""
        gone = [version for version in self._known if "@" in version and version not in registered]
        for version in gone:
            self.drop(version)
        if not gone:
            return
        try:
            self._store.run_write(lambda connection: connection.execute(delete(table).where(table.c.version.in_(gone))))
        except StoreError as error:
            log.warning("fingerprints of versions that are gone stay for now: %s", error)

    def _take(self, stored: Records) -> None:
        for (version, engine), found in self._unstored.items():
            by_engine = stored.setdefault(version, {})
            if found is None:
                by_engine.pop(engine, None)
            else:
                by_engine[engine] = found
        self._known = stored

    async def _store_soon(self, version: str, engine: str, found: Fingerprint | None) -> None:
        """Have it stored, and wait for that a moment: a store that is slow or away must not hold a load up."""
        self._unstored[version, engine] = found
        if len(self._storing) > 1:
            return  # one is at work, and the other has not begun: it takes this along
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
            log.warning("fingerprints are not stored yet: %s", error)
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
        if dropped:  # while it was being written: the store must not keep what nobody knows
            await asyncio.to_thread(self._store.run_write, lambda connection: _write(connection, dropped))


def _read(connection: Connection) -> Records:
    known: Records = {}
    query = select(table.c.version, table.c.engine, table.c.record).order_by(table.c.version, table.c.number)
    for version, engine, record in connection.execute(query):
        known.setdefault(version, {})[engine] = rows.decode(record, Fingerprint, table.name)
    return known


def _write(connection: Connection, changes: Mapping[tuple[str, str], Fingerprint | None]) -> None:
    rows.hold(connection)  # or two gateways could add the same
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
