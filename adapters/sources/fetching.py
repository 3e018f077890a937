"""Bring an adapter from where it is to a folder of this machine: the story of one fetch.

    allowed?  →  local folder: find the adapter in it, and use it where it is
              →  archive: unpack it into the scratch folder
              →  object store: read the files' facts, download their bytes into parts, then rename once

Folders named `fetched-…` in the scratch folder are complete: they are assembled under another name and then renamed.
The name is derived from the source and the state of its files, so fetching an unchanged source again moves no bytes.
Fetches of one source wait for each other, across threads and processes.
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

    It blocks as long as the download takes, so call it in a thread. A broken download is resumed when the same source
    is fetched again.

    Args:
        source: An absolute path or a URL, of a folder or of a tar archive.
        scratch: Where fetched files are kept; created if needed. See `discard` and `sweep`.
        allowed: The sources that adapters may come from.
        expected_digest: The adapter's digest: all 64 hexadecimal digits or the first 12 or more, with or without
            `sha256:`.
        limits: Bounds on bytes, files and tries.
        progress: Called with the bytes so far and the total (None: the store does not report it). If it raises, the
            fetch ends with that error; the bytes so far are kept.

    Returns:
        A folder below `scratch`, or below `source` itself if that is a local folder. Its path shows which of a
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
    """Remove what `fetch` returned if it is below `scratch`; a local source is not touched."""
    if folder.is_relative_to(scratch) and folder != scratch:
        shutil.rmtree(scratch / folder.relative_to(scratch).parts[0], ignore_errors=True)


def sweep(scratch: Path, *, before: float) -> int:
    """Remove parts and folders last written before `before` (seconds since 1970); return how many.

    They were left by killed processes, by downloads that were never resumed, or by callers that did not discard.
    """
    n_removed = 0
    for prefix in (PART_PREFIX, WHOLE_PREFIX, UNFINISHED_PREFIX):
        for path in scratch.glob(f"{prefix}*"):
            # A fetch that ends now may remove its own parts at the same time.
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
            # A link in the folder must not lead to files outside of the allow-list.
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
                continue  # start again with the new state
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
    """Return the facts of the adapter's files, and of the files that say which base it is for."""
    folder = ""
    # Look by name first: that needs no permission to list, and HTTP cannot list.
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
            # Linked folders are not entered: they may lead anywhere, even in a cycle.
            yield entry.name, not entry.is_symlink() and entry.is_dir()

    return listing


@contextmanager
def _staging_folder(whole: Path) -> Iterator[Path]:
    """Yield an empty folder; on success it is renamed to `whole`, on failure it is removed."""
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=whole.parent))
    try:
        yield unfinished
        unfinished.replace(whole)
    except BaseException:  # cancellation included: no partial fetch is kept
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def _one_at_a_time(scratch: Path, source: str) -> Iterator[None]:
    """Hold the source's file lock, which the system releases when a process ends."""
    scratch.mkdir(parents=True, exist_ok=True)
    # Lock files are never removed. They are empty, and sources share about 4,000 names.
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
