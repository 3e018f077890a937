"""How an adapter comes in: fetched from where it may come from, and verified against the base."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from adapters.sources import Allowed, FetchLimits, discard, fetch, sweep
from adapters.verify import BaseModel, EngineLimits, InvalidBase, Refused, Report, Trust, verify

_T = TypeVar("_T")
log = logging.getLogger("loragate.intake")

DOWNLOADS: Final = "downloads"
# A download that broke off can be taken up again for so long.
KEPT_SECONDS: Final = 7 * 86_400.0


class Progress(Protocol):
    """Who is told how far a long operation is."""

    def __call__(self, stage: str, done: int = 0, total: int | None = None) -> None:
        """Stage `fetch` counts bytes, `fuse` counts modules; the others have no count."""


class Cancelled(Exception):
    """The operator went away; the thread that works for them stops."""


def silent(stage: str, done: int = 0, total: int | None = None) -> None:
    """Tell nobody."""


async def in_thread(work: Callable[[Callable[[], None]], _T]) -> _T:
    """Run `work(check)` in a thread of its own; once we are cancelled, `check()` raises in it and nobody waits for it.

    It is none of the loop's threads: a store that does not answer would keep those from whoever writes the state, and
    the process from its end.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[_T] = loop.create_future()
    is_cancelled = threading.Event()

    def check() -> None:
        if is_cancelled.is_set():
            raise Cancelled

    def settle(done: Future[_T]) -> None:
        if result.cancelled():
            return
        if (error := done.exception()) is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())

    def run() -> None:
        done: Future[_T] = Future()
        try:
            done.set_result(work(check))
        except Exception as error:  # noqa: BLE001  # raised again in the task that waits for the result
            done.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, done)

    threading.Thread(target=run, name="intake", daemon=True).start()
    try:
        return await result
    finally:
        is_cancelled.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """Where adapters may come from, and what they must be.

    `prefixes` are folders and URLs; `options` go to fsspec, by protocol.
    """

    prefixes: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: EngineLimits = field(default_factory=EngineLimits)
    trust: Trust | None = None


class Intake:
    """Fetches and verifies.

    Args:
        folder: The state folder; downloads that broke off are kept there, to go on later.
        rules: See there.
        base_folder: Returns the folder of the base that is served, if this machine has it.
    """

    def __init__(self, folder: Path, rules: IntakeRules, base_folder: Callable[[], Path | None]) -> None:
        self._downloads = folder / DOWNLOADS
        self.rules = rules
        self._base_folder = base_folder
        self._turns: dict[str, asyncio.Lock] = {}
        self._bases: dict[tuple[Path, float], BaseModel] = {}

    def sweep(self, now: float) -> None:
        """Remove downloads that were not taken up again for so long. `now` is in Unix seconds."""
        sweep(self._downloads, before=now - KEPT_SECONDS)

    @asynccontextmanager
    async def fetched(
        self, source: str, *, any_local: bool, digest: str | None, progress: Progress
    ) -> AsyncIterator[Path]:
        """Give the folder that `source` is, or a copy of it that is removed afterwards.

        Args:
            source: An absolute folder, an archive, or a URL.
            any_local: The operator is this machine's own user: any of its folders will do.
            digest: What the content must be, if it is known before.
            progress: Told of bytes.

        Raises:
            SourceError: It cannot be fetched.
        """
        allowed = Allowed(prefixes=self.rules.prefixes, any_local=any_local, storage_options=self.rules.options)
        loop = asyncio.get_running_loop()
        self._downloads.mkdir(parents=True, exist_ok=True, mode=0o700)

        def work(check: Callable[[], None]) -> Path:
            def tell(done: int, total: int | None) -> None:
                check()
                loop.call_soon_threadsafe(progress, "fetch", done, total)

            most = self.rules.limits.files.largest_file_bytes
            limits = FetchLimits(download_bytes=most, unpacked_bytes=most)
            return fetch(source, self._downloads, allowed=allowed, expected_digest=digest, limits=limits, progress=tell)

        # Who fetches the same meanwhile would find it half removed.
        async with self._turns.setdefault(source, asyncio.Lock()):
            folder = await in_thread(work)
            try:
                yield folder
            finally:
                await asyncio.to_thread(discard, folder, self._downloads)

    async def verified(self, folder: Path, *, is_ours: bool = False) -> Report:
        """Return the report of a folder that may be served.

        Raises:
            Refused: It may not; the report says everything that is wrong.
        """
        report = await asyncio.to_thread(self._verify, folder, None if is_ours else self.rules.trust)
        if not report.is_accepted:
            raise Refused(report)
        return report

    def _verify(self, folder: Path, trust: Trust | None) -> Report:
        return verify(folder, base=self._base(), limits=self.rules.limits, trust=trust)

    def _base(self) -> BaseModel | None:
        folder = self._base_folder()
        if folder is None:
            return None
        try:
            key = (folder, (folder / "config.json").stat().st_mtime)
        except OSError:
            return None
        if key not in self._bases:
            try:
                self._bases = {key: BaseModel.read(folder)}
            except InvalidBase as error:
                log.warning("adapters are not compared with the base: %s", error)
                return None
        return self._bases[key]


def scratch_folder(registry: Path) -> Path:
    """Return a new folder in the registry; what a crash leaves of it is swept at the next start."""
    registry.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".incoming-", dir=registry))
