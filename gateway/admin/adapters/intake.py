"""Fetch an adapter from an allowed source, and verify it against the base model."""

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
# How long a partial download is kept, to be resumed.
KEPT_SECONDS: Final = 7 * 86_400.0


class Progress(Protocol):
    """A callback that receives the progress of a long operation."""

    def __call__(self, stage: str, done: int = 0, total: int | None = None) -> None:
        """Report progress. Stage `fetch` counts bytes, `fuse` counts modules; the other stages have no count."""


class Cancelled(Exception):
    """The client has disconnected, so the thread that works on its request stops."""


def silent(stage: str, done: int = 0, total: int | None = None) -> None:
    """Ignore the progress of an operation."""


async def in_thread(work: Callable[[Callable[[], None]], _T]) -> _T:
    """Run `work(check)` in a new thread; after a cancellation `check()` raises Cancelled there, and it is not awaited.

    The thread is not one of the event loop's pool: a source that does not answer would keep the pool's threads from
    writing the state, and the process from ending.
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
        with suppress(RuntimeError):  # the loop is closed, so no task waits for the result
            loop.call_soon_threadsafe(settle, done)

    threading.Thread(target=run, name="intake", daemon=True).start()
    try:
        return await result
    finally:
        is_cancelled.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """Where adapters may come from, and what is required of them.

    Attributes:
        prefixes: Folders and URLs below which sources are allowed.
        options: Protocol → options of fsspec.
        limits: The engines' limits.
        trust: Whose signatures are accepted; None if adapters need no signature.
    """

    prefixes: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: EngineLimits = field(default_factory=EngineLimits)
    trust: Trust | None = None


class Intake:
    """Fetches and verifies adapters.

    Args:
        folder: The state folder; partial downloads are kept there, to be resumed.
        rules: The allowed sources, and the requirements for adapters.
        base_folder: Returns the folder of the base model that is served; None if this machine does not have it.
    """

    def __init__(self, folder: Path, rules: IntakeRules, base_folder: Callable[[], Path | None]) -> None:
        self._downloads = folder / DOWNLOADS
        self.rules = rules
        self._base_folder = base_folder
        self._turns: dict[str, asyncio.Lock] = {}
        self._bases: dict[tuple[Path, float], BaseModel] = {}

    def sweep(self, now: float) -> None:
        """Remove partial downloads that were not resumed within `KEPT_SECONDS`; `now` is in Unix seconds."""
        sweep(self._downloads, before=now - KEPT_SECONDS)

    @asynccontextmanager
    async def fetch(
        self, source: str, *, any_local: bool, digest: str | None, progress: Progress
    ) -> AsyncIterator[Path]:
        """Yield the folder of an adapter: `source` itself, or a downloaded copy that is removed afterwards.

        Args:
            source: An absolute folder, an archive, or a URL.
            any_local: Whether any folder of this machine is allowed, because the operator is its own user.
            digest: The digest that the content must have, if it is known.
            progress: Receives the number of bytes that were fetched.

        Raises:
            SourceError: The adapter cannot be fetched.
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

        # One at a time, since another operation on the same source would find the copy half removed.
        async with self._turns.setdefault(source, asyncio.Lock()):
            folder = await in_thread(work)
            try:
                yield folder
            finally:
                await asyncio.to_thread(discard, folder, self._downloads)

    async def verify(self, folder: Path, *, is_ours: bool = False) -> Report:
        """Verify an adapter's folder and return the report, which has no problems.

        Args:
            folder: The adapter's folder.
            is_ours: Whether the gateway made the adapter itself, so that it needs no signature.

        Raises:
            Refused: The adapter may not be served; the report has every problem.
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
                log.warning("adapters are not checked against the base model, which cannot be read: %s", error)
                return None
        return self._bases[key]


def scratch_folder(registry: Path) -> Path:
    """Make a temporary folder in the registry; if a crash leaves it there, the next start removes it."""
    registry.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".incoming-", dir=registry))
