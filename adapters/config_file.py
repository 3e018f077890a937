"""Read an adapter's config file within bounds, and extract the part of it that is content.

Content is what determines the adapter's computation, not how or by which tool it was saved.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from adapters import strict_json
from adapters.problem import Problem, render
from adapters.stand_ins import stand_in

CONFIG_FILE: Final = "adapter_config.json"
# PEFT's own configs are about 1 KB; with a rank for every module, some 100 KB.
MAX_CONFIG_BYTES: Final = 4_000_000
# Fields that only say how the adapter was made or saved.
_NOT_CONTENT: Final = frozenset(("inference_mode", "peft_version", "auto_mapping", "revision"))
# Defaults that PEFT 0.21 writes and older versions leave out, beyond null, false and empty values.
_DEFAULTS: Final[Mapping[str, object]] = {"megatron_core": "megatron.core", "qalora_group_size": 16}
# Initialisations that only set the first values of A and B, which training has replaced. Others change the base's
# weights when PEFT loads the adapter, so they are content (vLLM 0.32, peft_helper.py: `_init_is_supported`).
HARMLESS_INITS: Final = frozenset(("gaussian", "eva", "orthogonal", "mica", "lora_ga"))


def read_config(folder: Path) -> tuple[dict[str, Any] | None, tuple[Problem, ...]]:
    """Return the config in `folder`, or None and the problems that prevent reading it."""
    path = folder / CONFIG_FILE
    try:
        if not path.is_file():
            return None, (_unreadable("config_missing", "the folder has no config of an adapter", None),)
        with path.open("rb") as file:  # the bound is on the read, because the file may grow after a look at its size
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        return None, (_unreadable("config_unreadable", f"it cannot be read: {error.strerror}", None),)
    if len(data) > MAX_CONFIG_BYTES:
        size = path.stat().st_size
        return None, (_unreadable("config_too_large", "it is too large for an adapter's", size, MAX_CONFIG_BYTES),)
    instead = stand_in(data)
    if instead is not None:
        return None, (_unreadable(instead.code, instead.message, None, "JSON", instead.remedy),)
    try:
        config = strict_json.parse(data)
    except strict_json.DuplicateKey as error:
        return None, (_unreadable("config_duplicate_key", f"it is ambiguous: {error}", None, "each key once"),)
    except strict_json.InvalidJson as error:
        return None, (_unreadable("config_unreadable", f"it cannot be read: {error}", None, "JSON"),)
    if not isinstance(config, dict):
        return None, (_unreadable("config_unreadable", "it is not a JSON object", render(config), "an object"),)
    return config, ()


def _unreadable(
    code: str,
    message: str,
    value: str | int | None,
    limit: str | int | None = None,
    remedy: str = "give the folder that PEFT's save_pretrained wrote",
) -> Problem:
    return Problem(
        code=code,
        message=message,
        value=value,
        limit=limit,
        remedy=remedy,
        where=CONFIG_FILE,
    )


def canonical(config: Mapping[str, Any]) -> bytes:
    """Return the config's content as bytes that do not depend on how the config was written."""
    content = {key: value for key, value in config.items() if _is_content(key, value)}
    return encode_canonical(content)


def _is_content(key: str, value: object) -> bool:
    if key == "init_lora_weights":
        return isinstance(value, str) and value.lower() not in HARMLESS_INITS
    if key in _NOT_CONTENT or value is None or value is False or value in ("", [], {}):
        return False
    return key not in _DEFAULTS or value != _DEFAULTS[key]


def encode_canonical(value: object) -> bytes:
    """Return `value` as canonical JSON: sorted, and the same for equal values."""
    return json.dumps(_normalize(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _normalize(item: object) -> object:
    # Lists of module names have no order in PEFT (they are sets); lists of numbers do.
    if isinstance(item, dict):
        return {key: _normalize(inner) for key, inner in item.items()}
    if isinstance(item, list):
        inner = [_normalize(each) for each in item]
        names = [each for each in inner if isinstance(each, str)]
        return sorted(names) if len(names) == len(inner) else inner
    if isinstance(item, float) and item.is_integer():
        return int(item)  # 16 and 16.0 are the same alpha
    return item
