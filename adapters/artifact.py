"""Read an adapter folder, compute its digest, and copy it to the registry.

The digest covers content, not form: the config as canonical JSON, and each tensor's name, dtype, shape and bytes in
order of names. Saving the same adapter again, with other formatting, metadata or tensor order, gives the same digest.

Whether engines can serve the adapter is checked by `adapters.verify`, not here.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from adapters.config_file import CONFIG_FILE, canonical, encode_canonical, read_config
from adapters.lora_names import parts_of
from adapters.manifest import Manifest
from adapters.problem import Problem, render
from adapters.safetensors_file import CHUNK_BYTES, Header, Tensor, chunks, layout_problems, read_header

TENSORS_FILE: Final = "adapter_model.safetensors"
SIGNATURE_FILE: Final = "adapter.sig"
# The largest rank and alpha that are accepted: beyond any model's width.
MAX_NUMBER: Final = 1_000_000
# A signature file holds a key id and a signature; 64 KB is room for several.
MAX_SIGNATURE_BYTES: Final = 65_536

_N = TypeVar("_N", int, float)


class InvalidArtifact(ValueError):
    """The folder holds no readable adapter; the message says what is wrong and what to do."""


def read_manifest(folder: Path) -> Manifest:
    """Return the facts and the digest of the adapter in `folder`.

    Raises:
        InvalidArtifact: Files are missing, unreadable, or not what they should be.
    """
    try:
        return _read(folder)
    except OSError as error:
        raise InvalidArtifact(f"`{folder}` cannot be read: {error.strerror}") from None
    except EOFError as error:
        raise InvalidArtifact(f"`{folder}` changed while it was read: {error}") from None


def _read(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise InvalidArtifact(f"`{folder}` is not a folder; give the one that PEFT's save_pretrained wrote")
    config, problems = read_config(folder)
    if config is None:
        raise _invalid(folder, problems[0])
    path = folder / TENSORS_FILE
    if not path.is_file():
        pickled = " (adapter_model.bin is a pickle, which can run code: save as safetensors)"
        note = pickled if (folder / "adapter_model.bin").exists() else ""
        raise InvalidArtifact(f"`{folder}` has no {TENSORS_FILE}{note}")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, problems = read_header(file, size)
        if header is None:
            raise _invalid(folder, problems[0])
        for problem in layout_problems(header, size):
            raise _invalid(folder, problem)
        return manifest_of(config, header, digest_of(config, header, file), size)


def _invalid(folder: Path, problem: Problem) -> InvalidArtifact:
    where = f"{problem.where}: " if problem.where else ""
    value = f" (it is `{problem.value}`)" if problem.value is not None else ""
    return InvalidArtifact(f"`{folder}`: {where}{problem.message}{value}; {problem.remedy}")


def digest_of(
    config: Mapping[str, Any],
    header: Header,
    file: BinaryIO,
    see: Callable[[Tensor, memoryview], None] | None = None,
) -> str:
    """Return the content's digest: 64 hex digits.

    Args:
        config: As `read_config` returned it.
        header: The header of `file`, without layout problems.
        file: The tensors file.
        see: Called with each piece of each tensor, so that other checks need not read the bytes again.

    Raises:
        EOFError: The file became shorter while it was read.
    """
    digest = hashlib.sha256(canonical(config))
    buffer = bytearray(min(CHUNK_BYTES, max(tensor.last - tensor.first for tensor in header.tensors.values())))
    for name in sorted(header.tensors):
        tensor = header.tensors[name]
        digest.update(encode_canonical([name, tensor.dtype, list(tensor.shape), tensor.last - tensor.first]))
        for piece in chunks(file, header, tensor, buffer):
            digest.update(piece)
            if see is not None:
                see(tensor, piece)
    return digest.hexdigest()


def manifest_of(config: Mapping[str, Any], header: Header, digest: str, size: int) -> Manifest:
    """Return the facts of an adapter.

    Raises:
        InvalidArtifact: The config has no valid rank or alpha, or is not that of a LoRA adapter.
    """
    if config.get("peft_type", "LORA") != "LORA":
        raise InvalidArtifact(f"{CONFIG_FILE} is of type `{render(config['peft_type'])}`; only LORA can be served")
    parts = parts_of(header.tensors.values())
    pairs = parts.pairs.values()
    ranks = [pair.a.shape[0] for pair in pairs if pair.a and len(pair.a.shape) == 2 and not pair.is_expert]
    saved = _names(config, "modules_to_save")
    return Manifest(
        digest=digest,
        base=str(config.get("base_model_name_or_path") or ""),
        rank=_number(config, "r", int),
        alpha=_number(config, "lora_alpha", float),
        target_modules=_targets(config, {pair.leaf for pair in pairs}),
        size_bytes=size,
        tensors=len(header.tensors),
        use_rslora=config.get("use_rslora") is True,
        use_dora=config.get("use_dora") is True,
        bias=render(config.get("bias") or "none"),
        modules_to_save=saved,
        targets_lm_head="lm_head" in saved or any(pair.leaf == "lm_head" for pair in pairs),
        targets_embeddings=any(pair.targets_embeddings for pair in pairs),
        dtypes=tuple(sorted({tensor.dtype for tensor in header.tensors.values()})),
        largest_rank=max(ranks, default=0),
        modules=len(parts.pairs),
    )


def _number(config: Mapping[str, Any], field: str, kind: type[_N]) -> _N:
    value: Any = config.get(field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # The upper bound also refuses infinities, and numbers that our own files cannot hold.
    if not is_number or not 0 < value <= MAX_NUMBER or kind(value) != value:
        raise InvalidArtifact(f"`{field}` in {CONFIG_FILE} is `{render(value)}`; a positive number is needed")
    return kind(value)


def _names(config: Mapping[str, Any], field: str) -> tuple[str, ...]:
    names = config.get(field) or []
    if not isinstance(names, str | list):
        raise InvalidArtifact(f"`{field}` in {CONFIG_FILE} is `{render(names)}`; a list of names is needed")
    return (names,) if isinstance(names, str) else tuple(sorted(str(each) for each in names))


def _targets(config: Mapping[str, Any], leaves: set[str]) -> tuple[str, ...]:
    """Return the config's list of target modules; where it has a pattern or nothing, the modules that have tensors."""
    targets = config.get("target_modules")
    if isinstance(targets, list) and targets:
        return _names(config, "target_modules")
    return tuple(sorted(leaves)) or _names(config, "target_modules")


def take_copy(folder: Path, registry: Path, manifest: Manifest) -> Path:
    """Copy the adapter into the registry and return the copy's folder; no partial copy is ever left.

    The copy is named by the content's digest, so the same content is stored once. It is synced to the disk before it
    gets its name, so a loss of power leaves no partial copy under a digest.
    """
    target = registry / manifest.digest
    if _is_whole(target, manifest):
        return target
    registry.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".incoming-", dir=registry))
    try:
        for name in (CONFIG_FILE, TENSORS_FILE):
            shutil.copyfile(folder / name, scratch / name)
        signature = folder / SIGNATURE_FILE
        if signature.is_file() and signature.stat().st_size <= MAX_SIGNATURE_BYTES:
            shutil.copyfile(signature, scratch / SIGNATURE_FILE)
        if read_manifest(scratch).digest != manifest.digest:
            raise InvalidArtifact(f"`{folder}` changed while it was copied; add it again when it is complete")
        scratch.chmod(0o755)  # the engine may run as another user
        for path in (*scratch.iterdir(), scratch):
            _sync(path)
        try:
            scratch.replace(target)
        except OSError:
            if not target.is_dir():
                raise
            _settle(scratch, target, manifest)
        _sync(registry)
    except BaseException:  # interruptions included: no partial copy is left
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def _is_whole(copy: Path, manifest: Manifest) -> bool:
    """Whether a copy is there and its content still has the digest in its name."""
    try:
        return copy.is_dir() and read_manifest(copy).digest == manifest.digest
    except InvalidArtifact:
        return False


def _settle(scratch: Path, target: Path, manifest: Manifest) -> None:
    """Resolve that `target` already exists: keep it if it is whole, else replace it with our copy."""
    if not _is_whole(target, manifest):
        spoilt = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target.parent))
        target.replace(spoilt)  # works because `spoilt` is an empty folder
        scratch.replace(target)
        shutil.rmtree(spoilt, ignore_errors=True)
    else:
        shutil.rmtree(scratch)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
