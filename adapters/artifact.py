"""Read and hash an adapter folder, and take an immutable copy of it.

The digest covers content, not form: the config as canonical JSON, and each tensor's
name, dtype, shape and bytes in order of names. Saving the same adapter again, with
other formatting, metadata or tensor order, gives the same digest.
"""

import hashlib
import json
import mmap
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from adapters.manifest import Manifest

CONFIG_FILE: Final = "adapter_config.json"
TENSORS_FILE: Final = "adapter_model.safetensors"
# The safetensors format's own bound on its JSON header (huggingface/safetensors, tensor.rs).
LARGEST_HEADER_BYTES: Final = 100_000_000
# Config fields that say how the adapter was made or saved, not what it computes.
_NOT_CONTENT: Final = frozenset(("inference_mode", "peft_version", "auto_mapping", "revision"))


_N = TypeVar("_N", int, float)


class InvalidArtifact(ValueError):
    """The folder holds no adapter that can be read; the message says what and what to do."""


def read_manifest(folder: Path) -> Manifest:
    """Return the facts and the digest of the adapter in `folder`.

    Raises:
        InvalidArtifact: Files are missing, unreadable, or not what they should be.
    """
    config = _read_config(folder)
    tensors_path = folder / TENSORS_FILE
    digest = hashlib.sha256()
    digest.update(_canonical({key: value for key, value in config.items() if key not in _NOT_CONTENT}))
    count = _hash_tensors(tensors_path, digest)
    return Manifest(
        digest=digest.hexdigest(),
        base=str(config.get("base_model_name_or_path") or ""),
        rank=_number(config, "r", int),
        alpha=_number(config, "lora_alpha", float),
        target_modules=_targets(config),
        size_bytes=tensors_path.stat().st_size,
        tensors=count,
    )


def take_copy(folder: Path, registry: Path, manifest: Manifest) -> Path:
    """Return the registry's own copy of the adapter, made whole or not at all.

    The copy is named by the content's digest, so the same content is stored once.
    """
    target = registry / manifest.digest
    if target.exists():
        return target
    registry.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".incoming-", dir=registry))
    try:
        for name in (CONFIG_FILE, TENSORS_FILE):
            shutil.copyfile(folder / name, scratch / name)
        if read_manifest(scratch).digest != manifest.digest:
            raise InvalidArtifact(f"`{folder}` changed while it was copied; add it again when it is complete")
        scratch.chmod(0o755)  # the engine may run as another user
        scratch.replace(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InvalidArtifact(f"`{folder}` is not a folder; give the one that PEFT's save_pretrained wrote")
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InvalidArtifact(f"`{folder}` has no {CONFIG_FILE}; give the folder that PEFT's save_pretrained wrote")
    if not (folder / TENSORS_FILE).is_file():
        pickled = " (adapter_model.bin is a pickle, which can run code: save as safetensors)"
        note = pickled if (folder / "adapter_model.bin").exists() else ""
        raise InvalidArtifact(f"`{folder}` has no {TENSORS_FILE}{note}")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise InvalidArtifact(f"`{path}` is not valid JSON") from None
    if not isinstance(config, dict):
        raise InvalidArtifact(f"`{path}` is not a JSON object")
    if config.get("peft_type", "LORA") != "LORA":
        raise InvalidArtifact(f"`{path}` is of type `{config['peft_type']}`; only LORA can be served")
    return config


def _number(config: Mapping[str, Any], field: str, kind: type[_N]) -> _N:
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0 or kind(value) != value:
        raise InvalidArtifact(f"`{field}` in {CONFIG_FILE} is `{value}`; a positive number is needed")
    return kind(value)


def _targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    targets = config.get("target_modules") or ()
    return (targets,) if isinstance(targets, str) else tuple(sorted(map(str, targets)))


def _canonical(value: object) -> bytes:
    # Lists of module names have no order in PEFT (they are sets); lists of numbers do.
    def ordered(item: object) -> object:
        if isinstance(item, dict):
            return {key: ordered(inner) for key, inner in item.items()}
        if isinstance(item, list):
            inner = [ordered(each) for each in item]
            return sorted(inner) if all(isinstance(each, str) for each in inner) else inner  # type: ignore[type-var]
        return item

    return json.dumps(ordered(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _hash_tensors(path: Path, digest: "hashlib._Hash") -> int:
    """Add every tensor of a safetensors file to `digest`; return how many there are."""
    size = path.stat().st_size
    if size < 8:
        raise InvalidArtifact(f"`{path}` is cut short: {size} bytes are no safetensors file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        header_size = int.from_bytes(data[:8], "little")
        if header_size > min(LARGEST_HEADER_BYTES, size - 8):
            raise InvalidArtifact(f"`{path}` is not a safetensors file, or is cut short")
        start = 8 + header_size
        tensors = _tensor_table(path, data[8:start])
        for name in sorted(tensors):
            dtype, shape, first, last = tensors[name]
            if not 0 <= first <= last <= size - start:
                raise InvalidArtifact(f"`{path}` is cut short: tensor `{name}` ends past the file's end")
            digest.update(_canonical([name, dtype, shape, last - first]))
            with memoryview(data) as view, view[start + first : start + last] as content:
                digest.update(content)
    return len(tensors)


def _tensor_table(path: Path, header: bytes) -> dict[str, tuple[str, list[int], int, int]]:
    try:
        table = json.loads(header)
        return {
            name: (
                str(entry["dtype"]),
                list(entry["shape"]),
                int(entry["data_offsets"][0]),
                int(entry["data_offsets"][1]),
            )
            for name, entry in table.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise InvalidArtifact(f"`{path}` has no readable safetensors header") from None
