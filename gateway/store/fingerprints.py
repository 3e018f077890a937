"""Fingerprints that were found good, a file for each version; read once, then kept in memory."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from adapters.fingerprint import Fingerprint
from gateway.store.desired import replace_file

FOLDER: Final = "fingerprints"


class FingerprintStore:
    """The fingerprints of all versions, by engine.

    Args:
        folder: The state folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._known: dict[str, dict[str, Fingerprint]] = {}
        self._writing = threading.Lock()

    def of(self, version: str) -> Mapping[str, Fingerprint]:
        """Return a version's fingerprints by engine, the oldest first; none if its file cannot be read."""
        if version not in self._known:
            try:
                known = msgspec.json.decode(self._path(version).read_bytes(), type=dict[str, Fingerprint])
            except (OSError, msgspec.DecodeError):
                known = {}
            self._known[version] = known
        return self._known[version]

    async def keep(self, version: str, engine: str, found: Fingerprint) -> None:
        """Add one, or replace the engine's."""
        self.of(version)
        self._known[version] = {**self._known[version], engine: found}
        await self._write(version)

    async def forget(self, version: str, engine: str) -> None:
        """Remove one; it is no error if there is none."""
        known = dict(self.of(version))
        if known.pop(engine, None) is not None:
            self._known[version] = known
            await self._write(version)

    def drop(self, version: str) -> None:
        """Remove all of a version that is no longer registered."""
        with self._writing:
            self._known.pop(version, None)
            self._path(version).unlink(missing_ok=True)

    def sweep(self, registered: Mapping[str, object]) -> None:
        """Remove those of versions that a crash left without registration; a base has no `@` in its name here."""
        for path in self._folder.glob(".*"):  # one that was being written
            path.unlink(missing_ok=True)
        for path in self._folder.glob("*@*.json"):
            if path.stem not in registered:
                path.unlink(missing_ok=True)

    def _path(self, version: str) -> Path:
        return self._folder / f"{version}.json"

    async def _write(self, version: str) -> None:
        def write() -> None:
            with self._writing:
                known = self._known.get(version)  # what is known by now: writes of two engines may overtake each other
                if known is not None:
                    self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                    replace_file(self._path(version), msgspec.json.encode(known))

        await asyncio.to_thread(write)
