"""Bring an adapter from where it is to a folder of this machine: the story of one fetch.

    allowed?  →  local folder: found in it, and used where it is
              →  archive: unpacked into the scratch folder
              →  object store: facts, then bytes into parts, then one rename

What stands in the scratch folder under `fetched-…` is whole: it was put together under another name and
renamed. Its name is made of the source and of the state of its files, so fetching an unchanged source again
moves no bytes. Fetches of one source wait for each other, across threads and processes.
"""

import fcntl
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from adapters.artifact import InvalidArtifact, read_manifest
from adapters.sources.allowed import Allowed, check_local, check_url, local_path
from adapters.sources.archives import COMPANIONS, MAX_COMPANION_BYTES, TAKEN, is_archive, unpack
from adapters.sources.download import PART_PREFIX, Changed, Progress, Tries, download, key_of
from adapters.sources.failures import (
    DigestMismatch,
    SourceError,
    SourceNotFound,
    SourceUnavailable,
    TransientFault,
)
from adapters.sources.layouts import find_adapter, names_below
from adapters.sources.limits import FetchLimits
from adapters.sources.store import ObjectStore, RemoteFile

WHOLE_PREFIX: Final = "fetched-"
UNFINISHED_PREFIX: Final = ".incoming-"
_EXPECTED: Final = re.compile(r"(?:sha256:)?([0-9a-f]{12,64})")


def fetch(
    source: str,
    scratch: Path,
    *,
    allowed: Allowed,
    expected_digest: str | None = None,
    limits: FetchLimits = FetchLimits(),  # noqa: B008  # frozen, so all calls may share one
    progress: Progress | None = None,
) -> Path:
    """Return a folder that directly holds the adapter of `source`.

    It blocks, for as long as a download takes: call it in a thread. A broken download goes on where it stopped
    when the same source is fetched again.

    Args:
        source: An absolute path or a URL: of a folder, or of a tar archive.
        scratch: Where what is fetched is kept; made if need be. See `discard` and `sweep`.
        allowed: Where adapters may come from.
        expected_digest: Of the adapter, all 64 hexadecimal digits or the first 12 or more, `sha256:` before it or not.
        limits: Bounds of bytes, files and tries.
        progress: Called with bytes so far and in total (None: the store does not say). An error that it raises
            ends the fetch; what came is kept.

    Returns:
        A folder below `scratch`, or below `source` itself when that is a local folder. Its path says which of a
        trainer's folders was taken.

    Raises:
        SourceError: One of its kinds, see `failures.py`.
        InvalidArtifact: A digest is expected and the adapter cannot be read.
        OSError: The scratch folder cannot be written.
    """
    expected = _parse_digest(expected_digest)
    path = local_path(source)
    if path is not None:
        folder = _fetch_local(path, scratch, allowed, limits)
    else:
        protocol = check_url(source, allowed)
        store = ObjectStore(source, protocol, allowed.storage_options.get(protocol, {}))
        folder = _fetch_remote(store, scratch, limits, progress)
    if expected is not None:
        _check_digest(folder, expected, source, scratch)
    return folder


def discard(folder: Path, scratch: Path) -> None:
    """Remove what `fetch` returned, if it is below `scratch`; a local source is left alone."""
    if folder.is_relative_to(scratch) and folder != scratch:
        shutil.rmtree(scratch / folder.relative_to(scratch).parts[0], ignore_errors=True)


def sweep(scratch: Path, *, before: float) -> int:
    """Remove parts and folders last written before `before` (seconds since 1970); return how many.

    They are what killed processes left, downloads that nobody took up again, and what was never discarded.
    """
    n_removed = 0
    for prefix in (PART_PREFIX, WHOLE_PREFIX, UNFINISHED_PREFIX):
        for path in scratch.glob(f"{prefix}*"):
            # A fetch that ends just now takes its parts away itself.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime >= before:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
                n_removed += 1
    return n_removed


def _fetch_local(path: Path, scratch: Path, allowed: Allowed, limits: FetchLimits) -> Path:
    resolved = check_local(path, allowed)
    try:
        state = resolved.stat()
    except OSError as error:
        raise SourceNotFound(f"`{path}` cannot be read ({error.strerror}); check its spelling and its rights") from None
    if stat.S_ISDIR(state.st_mode):
        folder = _adapter_in(resolved, str(path))
        for name in (*TAKEN, *COMPANIONS):
            # A link in the folder must not lead to what the folder itself could not.
            check_local(folder / name, allowed)
        return folder
    if not stat.S_ISREG(state.st_mode) or not (is_archive(path.name) or is_archive(resolved.name)):
        raise _not_a_source(str(path))
    whole = scratch / f"{WHOLE_PREFIX}{key_of(str(resolved), str(state.st_size), str(state.st_mtime_ns))}"
    with _one_at_a_time(scratch, str(resolved)):
        return _adapter_in(whole, str(path)) if whole.exists() else _unpack_once(resolved, whole, str(path), limits)


def _fetch_remote(store: ObjectStore, scratch: Path, limits: FetchLimits, progress: Progress | None) -> Path:
    with _one_at_a_time(scratch, store.url):
        for _ in range(limits.attempts):
            try:
                if is_archive(store.url):
                    return _fetch_archive(store, scratch, limits, progress)
                return _fetch_folder(store, scratch, limits, progress)
            except Changed:
                continue  # with the new state, from the beginning
    raise SourceUnavailable(
        f"`{store.url}` was replaced {limits.attempts} times while it was read; fetch it when that is over"
    )


def _fetch_archive(store: ObjectStore, scratch: Path, limits: FetchLimits, progress: Progress | None) -> Path:
    file = Tries(limits).of(store.file)
    whole = scratch / f"{WHOLE_PREFIX}{key_of(file.url, file.identity or '')}"
    if whole.exists() and file.identity is not None:
        return _adapter_in(whole, store.url)
    [part] = download(store, [file], scratch, limits, progress)
    try:
        shutil.rmtree(whole, ignore_errors=True)
        return _unpack_once(part, whole, store.url, limits)
    finally:
        part.unlink(missing_ok=True)


def _unpack_once(archive: Path, whole: Path, source: str, limits: FetchLimits) -> Path:
    with _staging_folder(whole) as unfinished:
        folder = find_adapter(unpack(archive, unfinished, source, limits), source)
    return whole / folder


def _adapter_in(folder: Path, source: str) -> Path:
    return folder / find_adapter(names_below(_local_listing(folder), source), source)


def _fetch_folder(store: ObjectStore, scratch: Path, limits: FetchLimits, progress: Progress | None) -> Path:
    files = _files_of_adapter(store, Tries(limits))
    states = [f"{file.name} {file.identity}" for file in files]
    whole = scratch / f"{WHOLE_PREFIX}{key_of(store.url, *states)}"
    if not whole.exists() or any(file.identity is None for file in files):
        parts = download(store, files, scratch, limits, progress)
        shutil.rmtree(whole, ignore_errors=True)
        with _staging_folder(whole) as unfinished:
            for file, part in zip(files, parts, strict=True):
                (unfinished / file.name).parent.mkdir(parents=True, exist_ok=True)
                part.replace(unfinished / file.name)
    return (whole / files[0].name).parent


def _files_of_adapter(store: ObjectStore, tries: Tries) -> list[RemoteFile]:
    """Return the facts of the adapter's files, and of what says which base it is for."""
    folder = ""
    # Looked for by name first: that needs no right to list, and HTTP cannot.
    files = [_file_if_any(store, name, tries) for name in TAKEN]
    if None in files:
        if not store.can_list():
            missing = f"{store.url}/{TAKEN[files.index(None)]}"
            raise SourceNotFound(f"`{missing}` does not exist; give the folder that directly holds it, or an archive")
        names = names_below(lambda below: tries.of(lambda: store.list_folder(below)), store.url)
        if not names and store.url.rpartition("/")[2].count("."):
            raise _not_a_source(store.url)
        folder = find_adapter(names, store.url)
        files = [_file_if_any(store, f"{folder}/{name}" if folder else name, tries) for name in TAKEN]
    companions = [_file_if_any(store, f"{folder}/{name}" if folder else name, tries) for name in COMPANIONS]
    small = [file for file in companions if file is not None and (file.size or 0) <= MAX_COMPANION_BYTES]
    found = [file for file in files if file is not None]
    if len(found) < len(TAKEN):
        raise SourceNotFound(f"`{store.url}` lost a file while it was read; fetch it when it is complete")
    return found + small


def _file_if_any(store: ObjectStore, name: str, tries: Tries) -> RemoteFile | None:
    try:
        return tries.of(lambda: store.file(name))
    except TransientFault:
        raise
    except SourceNotFound:
        return None


def _local_listing(top: Path) -> Callable[[str], Iterator[tuple[str, bool]]]:
    def listing(folder: str) -> Iterator[tuple[str, bool]]:
        try:
            entries = list((top / folder).iterdir())
        except OSError as error:
            raise SourceNotFound(
                f"`{top / folder}` cannot be read ({error.strerror}); give the gateway's user the right to"
            ) from None
        for entry in entries:
            # A linked folder is not looked into: it may lead anywhere, and round in circles.
            yield entry.name, not entry.is_symlink() and entry.is_dir()

    return listing


@contextmanager
def _staging_folder(whole: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `whole` at the end, or vanishes."""
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=whole.parent))
    try:
        yield unfinished
        unfinished.replace(whole)
    except BaseException:  # cancelled, too: half of a fetch is never kept
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _one_at_a_time(scratch: Path, source: str) -> Iterator[None]:
    """Hold the source's lock, which the system lets go when a process ends."""
    scratch.mkdir(parents=True, exist_ok=True)
    # Lock files stay: one of some thousands for each source, empty.
    with (scratch / f".lock-{key_of(source)[:3]}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parse_digest(digest: str | None) -> str | None:
    if digest is None:
        return None
    match = _EXPECTED.fullmatch(digest.strip().lower())
    if match is None:
        raise SourceError(
            f"the expected digest `{digest[:80]}` is not one: give 64 hexadecimal digits, or the first 12 or more"
        )
    return match[1]


def _check_digest(folder: Path, expected: str, source: str, scratch: Path) -> None:
    try:
        digest = read_manifest(folder).digest
    except InvalidArtifact:
        discard(folder, scratch)
        raise
    if not digest.startswith(expected):
        discard(folder, scratch)
        raise DigestMismatch(
            f"`{source}` has the digest `{digest}`; expected was `{expected}`: it is another version, or was changed"
        )


def _not_a_source(source: str) -> SourceNotFound:
    return SourceNotFound(
        f"`{source}` is a file, and no tar archive; give the adapter's folder, or an archive ending in "
        ".tar, .tar.gz, .tar.bz2 or .tar.xz"
    )
