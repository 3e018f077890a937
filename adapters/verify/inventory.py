"""Rules for the folder's files, which are applied before any of them is opened."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.artifact import SIGNATURE_FILE, TENSORS_FILE
from adapters.config_file import CONFIG_FILE
from adapters.problem import Problem, Severity, render
from adapters.verify.limits import FileLimits

# The files that are read, copied or compared. A folder may contain any other files.
TAKEN: Final = (
    CONFIG_FILE,
    TENSORS_FILE,
    SIGNATURE_FILE,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
# The files that vLLM reads if there are no safetensors (`vllm/lora/lora_model.py`: `from_local_checkpoint`).
PICKLED_WEIGHTS: Final = ("adapter_model.bin", "adapter_model.pt")
TORCHTUNE_PICKLE: Final = "adapter_model.pt"
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_COPY: Final = "copy the files themselves into the folder (`cp -rL`)"


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of the folder: its relative path, and its file status."""

    name: str
    path: Path
    status: os.stat_result


def entries(folder: Path, limits: FileLimits) -> tuple[tuple[Found, ...], tuple[Problem, ...]]:
    """Return the folder's entries that are not folders, links not followed, and a problem if some were left out.

    The adapter's own files are always included. Other files, such as optimizer states, are only examined for warnings,
    so a large number of them does not refuse the adapter.
    """
    found: list[Found] = _adapter_entries(folder)
    known = {each.name for each in found}
    waiting = [folder]
    count = 0
    while waiting:
        with os.scandir(waiting.pop()) as listing:
            for entry in listing:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif (name := render(path.relative_to(folder).as_posix())) not in known:
                    found.append(Found(name, path, entry.stat(follow_symlinks=False)))
                count += 1
                if count > limits.most_files:
                    return tuple(sorted(found, key=lambda each: each.name)), (_too_many(limits),)
    return tuple(sorted(found, key=lambda each: each.name)), ()


def _adapter_entries(folder: Path) -> list[Found]:
    found = []
    for name in TAKEN:
        with contextlib.suppress(FileNotFoundError):
            status = (folder / name).lstat()
            if not stat.S_ISDIR(status.st_mode):
                found.append(Found(name, folder / name, status))
    return found


def _too_many(limits: FileLimits) -> Problem:
    return Problem(
        code="too_many_files",
        message="the folder holds so many files that not all were looked at; none but the adapter's are taken",
        value=f"over {limits.most_files}",
        limit=limits.most_files,
        remedy="give a folder with the adapter alone",
        severity=Severity.WARNING,
    )


def file_problems(folder: Path, found: tuple[Found, ...], limits: FileLimits) -> Iterator[Problem]:
    """Yield the problems of the files themselves."""
    yield from outside_root(folder, limits)
    for each in found:
        yield from links(folder, each)
        yield from special_files(each)
        yield from pickles(folder, each)
        yield from large_files(each, limits)
    yield from large_folder(found, limits)
    yield from missing_tensors(folder)


def outside_root(folder: Path, limits: FileLimits) -> Iterator[Problem]:
    """Refuse a folder outside of the folder that adapters may come from, links resolved."""
    if limits.root is not None and not folder.resolve().is_relative_to(limits.root.resolve()):
        yield Problem(
            code="outside_root",
            message="the folder is outside the place that adapters may come from",
            value=render(folder),
            limit=str(limits.root),
            remedy="move it there, or start the gateway with another root",
        )


def links(folder: Path, each: Found) -> Iterator[Problem]:
    """Refuse links that lead out of the folder, since their targets may change, or be any file."""
    if not stat.S_ISLNK(each.status.st_mode):
        return
    try:
        target = each.path.resolve(strict=True)
    except (OSError, RuntimeError):
        yield Problem(code="link_broken", message="the link leads nowhere", where=each.name, remedy=_COPY)
        return
    if not target.is_relative_to(folder.resolve()) and not _is_blob(target, folder.resolve()):
        yield Problem(
            code="link_outside",
            message="the link leads out of the folder",
            value=render(target),
            limit=str(folder),
            remedy=_COPY,
            where=each.name,
        )


def _is_blob(target: Path, folder: Path) -> bool:
    """Whether a link leads into the `blobs` of the Hugging Face cache that contains the folder.

    There, `models--org--name/snapshots/COMMIT/` holds links to `models--org--name/blobs/`, whose files are named by
    their content's hash and never change.
    """
    for above in folder.parents:
        if above.name.startswith("models--"):
            is_snapshot = folder.relative_to(above).parts[0] == "snapshots"
            return is_snapshot and target.parent == above / "blobs" and target.is_file()
    return False


def special_files(each: Found) -> Iterator[Problem]:
    """Refuse pipes, sockets and devices: reading one may never end."""
    mode = each.status.st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        yield Problem(
            code="special_file",
            message="it is no regular file",
            value=stat.filemode(mode),
            limit="regular files",
            remedy="remove it",
            where=each.name,
        )


def pickles(folder: Path, each: Found) -> Iterator[Problem]:
    """Refuse pickled weights, even beside safetensors; warn of other pickles, which are never read.

    torchtune always writes its own pickled form with the safetensors; that one is only a warning.
    """
    is_torchtunes = each.name == TORCHTUNE_PICKLE and (folder / TENSORS_FILE).is_file()
    if each.name in PICKLED_WEIGHTS and not is_torchtunes:
        yield Problem(
            code="pickle",
            message="pickled weights can run any code when they are read",
            value=each.name,
            limit="safetensors",
            where=each.name,
            remedy="save with save_pretrained(..., safe_serialization=True), and delete this file",
        )
    elif each.path.suffix.lower() in _PICKLES:
        yield Problem(
            code="pickle_beside",
            message="a pickle lies beside; it is neither read nor copied",
            value=each.name,
            severity=Severity.WARNING,
            where=each.name,
            remedy="give a folder with the adapter alone",
        )


def large_files(each: Found, limits: FileLimits) -> Iterator[Problem]:
    """Refuse a file beyond the bound, if it is one of the adapter's."""
    if each.name in TAKEN and _size(each) > limits.largest_file_bytes:
        yield Problem(
            code="file_too_large",
            message="the file is too large",
            value=_size(each),
            limit=limits.largest_file_bytes,
            remedy="give an adapter of a smaller rank, or raise the limit",
            where=each.name,
        )


def large_folder(found: tuple[Found, ...], limits: FileLimits) -> Iterator[Problem]:
    """Refuse a folder whose adapter files together exceed the bound."""
    total = sum(_size(each) for each in found if each.name in TAKEN)
    if total > limits.largest_total_bytes:
        yield Problem(
            code="folder_too_large",
            message="the files are too large together",
            value=total,
            limit=limits.largest_total_bytes,
            remedy="give a folder with the adapter alone",
        )


def _size(each: Found) -> int:
    """Return a file's size; for a link, the size of its target."""
    try:
        return each.path.stat().st_size if stat.S_ISLNK(each.status.st_mode) else each.status.st_size
    except (OSError, RuntimeError):
        return 0  # a broken link, which another rule reports


def missing_tensors(folder: Path) -> Iterator[Problem]:
    """Refuse a folder without safetensors."""
    if not (folder / TENSORS_FILE).is_file():
        yield Problem(
            code="tensors_missing",
            message=f"the folder has no {TENSORS_FILE}",
            limit=TENSORS_FILE,
            remedy="save with save_pretrained(..., safe_serialization=True)",
        )
