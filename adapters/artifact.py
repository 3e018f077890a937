"""Read and hash an adapter folder, and take an immutable copy of it.

The digest covers content, not form: the config as canonical JSON, and each tensor's
name, dtype, shape and bytes in order of names. Saving the same adapter again, with
other formatting, metadata or tensor order, gives the same digest.
"""

import hashlib
import json
import math
import mmap
import operator
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
# PEFT's own are about 1 KB; with a rank for every module, some 100 KB.
LARGEST_CONFIG_BYTES: Final = 4_000_000
# Bits of each of the safetensors format's dtypes (huggingface/safetensors, tensor.rs).
_BITS: Final = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
# Of rank and alpha: beyond any model's width.
LARGEST_NUMBER: Final = 1_000_000
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
    try:
        return _read(folder)
    except OSError as error:
        raise InvalidArtifact(f"`{folder}` cannot be read: {error.strerror}") from None
    except (RecursionError, UnicodeEncodeError):
        raise InvalidArtifact(f"{CONFIG_FILE} in `{folder}` is nested too deeply, or is not Unicode") from None


def _read(folder: Path) -> Manifest:
    config = _read_config(folder)
    tensors_path = folder / TENSORS_FILE
    digest = hashlib.sha256()
    digest.update(_canonical({key: value for key, value in config.items() if key not in _NOT_CONTENT}))
    count = _hash_tensors(tensors_path, digest)
    return Manifest(
        digest=digest.hexdigest(),
        base=_unicode(str(config.get("base_model_name_or_path") or "")),
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
    if path.stat().st_size > LARGEST_CONFIG_BYTES:
        raise InvalidArtifact(f"`{path}` is larger than {LARGEST_CONFIG_BYTES} bytes; that is no adapter's config")
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
    value: Any = config.get(field)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Bounded, so that infinities and numbers that no file of ours can hold are refused with the rest.
    if not is_number or not 0 < value <= LARGEST_NUMBER or kind(value) != value:
        raise InvalidArtifact(f"`{field}` in {CONFIG_FILE} is `{str(value)[:40]}`; a positive number is needed")
    return kind(value)


def _targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    targets = config.get("target_modules") or []
    if not isinstance(targets, str | list):
        raise InvalidArtifact(f"`target_modules` in {CONFIG_FILE} is `{str(targets)[:40]}`; a list of names is needed")
    return (_unicode(targets),) if isinstance(targets, str) else tuple(sorted(_unicode(str(each)) for each in targets))


def _unicode(text: str) -> str:
    text.encode()  # JSON can spell half a surrogate pair, which nothing can be written with
    return text


def _canonical(value: object) -> bytes:
    # Lists of module names have no order in PEFT (they are sets); lists of numbers do.
    def ordered(item: object) -> object:
        if isinstance(item, dict):
            return {key: ordered(inner) for key, inner in item.items()}
        if isinstance(item, list):
            inner = [ordered(each) for each in item]
            return sorted(inner) if all(isinstance(each, str) for each in inner) else inner  # type: ignore[type-var]  # all are strings here
        if isinstance(item, float) and item.is_integer():
            return int(item)  # 16 and 16.0 are the same alpha
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
        _check_layout(path, tensors, size - start)
        for name in sorted(tensors):
            dtype, shape, first, last = tensors[name]
            digest.update(_canonical([name, dtype, shape, last - first]))
            with memoryview(data) as view, view[start + first : start + last] as content:
                digest.update(content)
    return len(tensors)


def _check_layout(path: Path, tensors: Mapping[str, tuple[str, list[int], int, int]], size: int) -> None:
    """Check that tensors lie one after another and fill the file: a byte in none of them would escape the digest."""
    if not tensors:
        raise InvalidArtifact(f"`{path}` holds no tensors")
    at = 0
    for name, (dtype, shape, first, last) in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if first != at or last < first:
            raise InvalidArtifact(f"`{path}` is damaged: tensor `{name}` does not begin where the one before it ends")
        if last > size:
            raise InvalidArtifact(f"`{path}` is cut short: tensor `{name}` ends past the file's end")
        if dtype not in _BITS:
            raise InvalidArtifact(f"`{path}`: tensor `{name}` is of an unknown type `{dtype}`")
        if min(shape, default=1) < 0 or math.prod(shape) * _BITS[dtype] != (last - first) * 8:
            raise InvalidArtifact(f"`{path}` is damaged: tensor `{name}` has not the bytes that its shape needs")
        at = last
    if at != size:
        raise InvalidArtifact(f"`{path}` is damaged: {size - at} bytes follow the last tensor")


def _tensor_table(path: Path, header: bytes) -> dict[str, tuple[str, list[int], int, int]]:
    try:
        table = json.loads(header)
        return {
            name: (
                str(entry["dtype"]),
                [operator.index(length) for length in entry["shape"]],
                operator.index(entry["data_offsets"][0]),
                operator.index(entry["data_offsets"][1]),
            )
            for name, entry in table.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise InvalidArtifact(f"`{path}` has no readable safetensors header") from None
