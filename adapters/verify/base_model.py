"""The base model as its folder describes it: modules with their shapes, tokenizer, chat template.

Only headers and JSON are read; the weights' bytes are not touched.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.safetensors_file import Header, read_header

# A config has some KB; an index of shards, which names each tensor, has some MB.
_MAX_CONFIG_BYTES: Final = 64_000_000
# The largest tokenizer that we know, Gemma 3's, has 33 MB.
MAX_TOKENIZER_BYTES: Final = 128_000_000
_SINGLE_FILE: Final = "model.safetensors"
_INDEX_FILE: Final = "model.safetensors.index.json"
# Ends of the names of weights, quantised ones included (GPTQ and AWQ; compressed-tensors).
_WEIGHTS: Final = (".weight", ".qweight", ".weight_packed")
_FLOATS: Final = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_TOWERS: Final = ("text_config", "vision_config", "audio_config", "thinker_config")

Shape = tuple[int, ...]


class InvalidBase(ValueError):
    """The folder is not a readable model; the message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """The base model that adapters must fit.

    `modules` maps each module with a weight to its shape, or to None where it is quantised; it is None as a whole if
    the folder has no safetensors. Hashes are SHA-256, empty if there is no such file.
    """

    folder: Path
    config: Mapping[str, Any]
    modules: Mapping[str, Shape | None] | None
    tokenizer_hash: str
    chat_template: str

    @classmethod
    def read(cls, folder: Path) -> "BaseModel":
        """Return the model in `folder`.

        Raises:
            InvalidBase: It is not the folder of a model, or its files are damaged.
        """
        config = read_json(folder / "config.json")
        if config is None:
            raise InvalidBase(f"`{folder}` has no readable config.json; give the folder of the base model")
        modules = _modules(folder)
        if modules is not None:
            _tie(modules, config)
        return cls(
            folder=folder,
            config=config,
            modules=modules,
            tokenizer_hash=tokenizer_hash(folder),
            chat_template=chat_template(folder),
        )

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that the config names."""
        names = self.config.get("architectures")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()

    @property
    def is_multimodal(self) -> bool:
        """Whether it has parts for other than text; engines rename such a model's modules before they look them up."""
        return any(field in self.config for field in _TOWERS)

    @property
    def vocabulary(self) -> int | None:
        """Rows of the input embeddings; token ids from this number on cannot be read."""
        text = self.config.get("text_config")
        size = self.config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
        return size if isinstance(size, int) else None


def read_json(path: Path, largest: int = _MAX_CONFIG_BYTES) -> dict[str, Any] | None:
    """Return the JSON object in `path`, or None if it is missing or cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(largest + 1)
        value = json.loads(data) if len(data) <= largest else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _modules(folder: Path) -> dict[str, Shape | None] | None:
    index = read_json(folder / _INDEX_FILE)
    if index is not None:
        shards = index.get("weight_map")
        names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    else:
        names = {_SINGLE_FILE} if (folder / _SINGLE_FILE).is_file() else set()
    if not names:
        return None
    found: dict[str, Shape | None] = {}
    for name in sorted(names):
        if Path(name).name != name:
            raise InvalidBase(f"`{folder / _INDEX_FILE}` names `{name}`; a file beside it was expected")
        for tensor in _header(folder / name).tensors.values():
            end = next((end for end in _WEIGHTS if tensor.name.endswith(end)), None)
            if end is not None:
                is_plain = end == ".weight" and tensor.dtype in _FLOATS
                found[tensor.name.removesuffix(end)] = tensor.shape if is_plain else None
    return found


def _header(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            header, problems = read_header(file, path.stat().st_size)
    except OSError as error:
        raise InvalidBase(f"`{path}` cannot be read: {error.strerror}; copy the whole base model") from None
    if header is None:
        raise InvalidBase(f"`{path}` is damaged: {problems[0].message}; copy the base model again")
    return header


def _tie(modules: dict[str, Shape | None], config: Mapping[str, Any]) -> None:
    """Add the `lm_head` that a model with tied embeddings has but does not save."""
    if not config.get("tie_word_embeddings", False) or any(name.endswith("lm_head") for name in modules):
        return
    embeddings = next((name for name in modules if name.endswith("embed_tokens")), None)
    if embeddings is not None:
        modules["lm_head"] = modules[embeddings]


def tokenizer_hash(folder: Path) -> str:
    """Return the hash of the folder's tokenizer.json; empty if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file() or path.stat().st_size > MAX_TOKENIZER_BYTES:
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chat_template(folder: Path) -> str:
    """Return the folder's chat template, empty if there is none; a separate file takes precedence over the config."""
    path = folder / "chat_template.jinja"
    try:
        if path.is_file() and path.stat().st_size <= _MAX_CONFIG_BYTES:
            return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
    template = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(template, list):  # several templates with names
        return json.dumps(template, sort_keys=True)
    return template if isinstance(template, str) else ""
