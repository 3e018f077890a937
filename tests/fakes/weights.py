"""What a loaded adapter's weights amount to: a name for its content, and the next tokens that follow from it.

The same folder gives the same answers on every engine, and other content others; an adapter whose B is all
zeros answers as the base.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

BASE = ""
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_VOCABULARY = 49_152


def weights_of(folder: str) -> str:
    """Return a name for what is in `folder` now: `BASE` if that changes nothing, its path if it is not there."""
    try:
        stats = [os.stat(os.path.join(folder, name)) for name in (_CONFIG, _TENSORS)]
    except OSError:
        return f"missing {folder}"
    return _read(folder, tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in stats))


@lru_cache(maxsize=10_000)
def _read(folder: str, _stats: tuple[tuple[int, int, int], ...]) -> str:
    tensors = Path(folder, _TENSORS).read_bytes()
    if _is_null(tensors):
        return BASE
    return hashlib.sha256(Path(folder, _CONFIG).read_bytes() + tensors).hexdigest()


def _is_null(file: bytes) -> bool:
    """Whether a safetensors file has B's and all of them are zero."""
    start = 8 + int.from_bytes(file[:8], "little")
    try:
        header = json.loads(file[8:start])
        spans = [entry["data_offsets"] for name, entry in header.items() if ".lora_B" in name]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(spans) and not any(any(file[start + first : start + last]) for first, last in spans)


@lru_cache(maxsize=10_000)
def next_tokens(base: str, weights: str, prompt: str, top: int) -> tuple[tuple[int, float], ...]:
    """Return the `top` most likely tokens after `prompt` with their log-probabilities, the most likely first."""
    digest = hashlib.shake_256(f"{base}\x1f{weights}\x1f{prompt}".encode()).digest(4 * top)
    found: dict[int, float] = {}
    logprob = -0.5
    for at in range(0, 4 * top, 4):
        token = int.from_bytes(digest[at : at + 2], "big") % _VOCABULARY
        while token in found:
            token = (token + 1) % _VOCABULARY
        logprob -= int.from_bytes(digest[at + 2 : at + 4], "big") / 65_536 * 0.4
        found[token] = logprob
    return tuple(found.items())
