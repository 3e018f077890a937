"""Rules for the base that an adapter was made for: compare the files beside it with the base's own.

vLLM ignores `base_model_name_or_path`, and the tokenizer and chat template that training tools save with an adapter: it
reads every request with the base's. An adapter that was trained with others then gets inputs unlike any in its
training.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from adapters.config_file import CONFIG_FILE
from adapters.problem import Problem, Severity, render
from adapters.verify.base_model import (
    MAX_TOKENIZER_BYTES,
    BaseModel,
    chat_template,
    read_json,
    tokenizer_hash,
)

# Config fields in which two different models differ.
_SHAPE_FIELDS: Final = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)
# Files beside the adapter that are compared with the base's.
COMPARED: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_OTHER_BASE: Final = "give the base that it was trained on"
_SAME_TOKENS: Final = "train with the base's own tokenizer, or serve a base that has these tokens"


def identity_problems(
    config: Mapping[str, Any], folder: Path, base: BaseModel, *, has_embeddings: bool = True
) -> Iterator[Problem]:
    """Yield evidence of another base. `has_embeddings`: the adapter brings embeddings, or that is unknown."""
    yield from base_name(config, base)
    yield from base_config(folder, base)
    yield from tokenizer(folder, base, has_embeddings=has_embeddings)
    yield from template(folder, base)


def base_name(config: Mapping[str, Any], base: BaseModel) -> Iterator[Problem]:
    """Warn if the adapter names another base. That is no proof, since folders get renamed."""
    named = config.get("base_model_name_or_path")
    own = {base.folder.name, base.folder.resolve().name, str(base.config.get("_name_or_path") or "")}
    # In the Hub's cache, a download's folder is models--org--name/snapshots/<commit>.
    own |= {part.rpartition("--")[2] for part in base.folder.resolve().parts if part.startswith("models--")}
    known = {name.rstrip("/").rpartition("/")[2].lower() for name in own if name}
    if not isinstance(named, str) or not named:
        message = "the adapter does not say which base it was trained on"
        yield _problem("base_unnamed", message, None, base.folder.name, _OTHER_BASE, CONFIG_FILE, Severity.WARNING)
    elif named.rstrip("/").rpartition("/")[2].lower() not in known:
        message = "the adapter names another base"
        remedy = f"{_OTHER_BASE}, unless this is it under another name"
        yield _problem("base_name", message, render(named), base.folder.name, remedy, CONFIG_FILE, Severity.WARNING)


def base_config(folder: Path, base: BaseModel) -> Iterator[Problem]:
    """Refuse an adapter that was saved with the config of another model."""
    beside = read_json(folder / "config.json") or {}
    for field in _SHAPE_FIELDS:
        if field in beside and field in base.config and beside[field] != base.config[field]:
            message = f"the base's config that was saved beside has another `{field}`"
            value, limit = render(beside[field]), render(base.config[field])
            yield _problem("base_config", message, value, limit, _OTHER_BASE, "config.json", Severity.ERROR)


def tokenizer(folder: Path, base: BaseModel, *, has_embeddings: bool = True) -> Iterator[Problem]:
    """Compare the saved tokens with the base's, since models read the tokens' ids."""
    own_hash = tokenizer_hash(folder)
    if not own_hash or not base.tokenizer_hash or own_hash == base.tokenizer_hash:
        return
    own, theirs = _tokens(folder), _tokens(base.folder)
    if not own or not theirs:
        return
    moved = next((token for token, number in own.items() if theirs.get(token, number) != number), None)
    added = {token: number for token, number in own.items() if token not in theirs}
    beyond = [token for token, number in added.items() if base.vocabulary is not None and number >= base.vocabulary]
    if moved is not None:
        message = f"`{render(moved)}` has another id than in the base's tokenizer: it is another vocabulary"
        yield _token_problem("tokenizer_differs", message, own[moved], theirs[moved], Severity.ERROR)
    if beyond and not has_embeddings and set(beyond) <= _padding(folder):
        # Models do not learn from padding, and vLLM uses the base's tokenizer, so requests never have this token.
        message = f"the padding token {render(', '.join(beyond[:3]))} has no embedding in the base, and needs none"
        yield _problem(
            "padding_beyond_base",
            message,
            added[beyond[0]],
            base.vocabulary,
            "leave the tokenizer out of the folder",
            "tokenizer.json",
            Severity.WARNING,
        )
    elif beyond:
        message = f"tokens were added that the base has no embeddings for: {render(', '.join(beyond[:3]))}"
        yield _token_problem("tokens_beyond_base", message, added[beyond[0]], base.vocabulary, Severity.ERROR)
    elif added:
        message = f"tokens were added that requests are not split into: {render(', '.join(list(added)[:3]))}"
        yield _token_problem("tokens_added", message, len(own), len(theirs), Severity.WARNING)


def _padding(folder: Path) -> set[str]:
    """Return the texts of tokens that are used for padding only."""
    found = {"[PAD]", "<pad>", "<PAD>", "<|pad|>"}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        config = read_json(folder / name) or {}
        token = config.get("pad_token")
        text = token.get("content") if isinstance(token, dict) else token
        # Many models pad with the token that ends a text, which also has a meaning.
        if isinstance(text, str) and text not in (
            config.get("eos_token"),
            config.get("bos_token"),
            config.get("unk_token"),
        ):
            found.add(text)
    return found


def _token_problem(code: str, message: str, value: int, limit: int | None, severity: Severity) -> Problem:
    return _problem(code, message, value, limit, _SAME_TOKENS, "tokenizer.json", severity)


def _tokens(folder: Path) -> dict[str, int]:
    """Return every token with its id, added ones included."""
    data = read_json(folder / "tokenizer.json", MAX_TOKENIZER_BYTES) or {}
    model = data.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: a list of [token, score]
        pairs = ((each[0], number) for number, each in enumerate(vocabulary) if isinstance(each, list) and each)
    else:
        pairs = ((token, number) for token, number in (vocabulary or {}).items())
    added = data.get("added_tokens")
    extra = [each for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    found = {token: number for token, number in pairs if isinstance(token, str) and isinstance(number, int)}
    for each in extra:
        if isinstance(each.get("content"), str) and isinstance(each.get("id"), int):
            found[each["content"]] = each["id"]
    return found


def template(folder: Path, base: BaseModel) -> Iterator[Problem]:
    """Warn if the adapter was trained with another chat template than the one that requests are written with."""
    own = chat_template(folder)
    if own and own.strip() != base.chat_template.strip():
        message = "the chat template that was saved beside is another than the base's, which is served"
        value, limit = _hash(own), _hash(base.chat_template) if base.chat_template else "none"
        remedy = "train with the base's own template, or send the prompt as the adapter's template writes it"
        yield _problem("chat_template", message, value, limit, remedy, "chat template", Severity.WARNING)


def _hash(text: str) -> str:
    return hashlib.sha256(text.strip().encode(errors="replace")).hexdigest()[:16]


def _problem(
    code: str,
    message: str,
    value: str | int | None,
    limit: str | int | None,
    remedy: str,
    where: str,
    severity: Severity,
) -> Problem:
    return Problem(code=code, message=message, value=value, limit=limit, remedy=remedy, where=where, severity=severity)
