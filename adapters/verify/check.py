"""Verify one adapter folder and report everything that is wrong with it.

A rule that cannot be applied only stops the rules that depend on it: without a readable header there are no tensors to
check, but files and config are still checked.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.artifact import TENSORS_FILE, InvalidArtifact, digest_of, manifest_of
from adapters.config_file import CONFIG_FILE, read_config
from adapters.lora_names import parts_of
from adapters.manifest import Manifest
from adapters.problem import Problem, fold
from adapters.safetensors_file import Header, layout_problems, read_header
from adapters.stand_ins import companion_problems
from adapters.verify import base_rules, tensor_rules
from adapters.verify.base_model import BaseModel
from adapters.verify.config_rules import config_problems
from adapters.verify.finite import Magnitudes, value_problems
from adapters.verify.identity import COMPARED, identity_problems
from adapters.verify.inventory import entries, file_problems
from adapters.verify.limits import EngineLimits
from adapters.verify.report import Report
from adapters.verify.signature import Trust, signature_problems, signer_of


def verify(folder: Path, *, base: BaseModel | None, limits: EngineLimits, trust: Trust | None = None) -> Report:
    """Return a report with every problem of the adapter in `folder`.

    Args:
        folder: A folder as PEFT's `save_pretrained` writes it; it may contain other files.
        base: The base model that it must fit; None leaves that unchecked, which the report says.
        limits: What the engines can serve.
        trust: The keys whose signatures are trusted; None skips signatures.
    """
    problems: list[Problem] = []
    manifest = None
    try:
        manifest = _look(folder, base, limits, trust, problems)
    except OSError as error:
        message = f"a file cannot be read: {error.strerror}"
        problems.append(_file_problem("unreadable", message, "let the gateway's user read it", error.filename))
    except EOFError as error:
        message = f"the folder changed while it was looked at: {error}"
        problems.append(_file_problem("changed", message, "add it when it is complete", None))
    ordered = sorted(fold(problems), key=lambda problem: not problem.is_error)
    signed_by = signer_of(folder, manifest.digest, trust) if manifest is not None and trust is not None else ""
    return Report(folder=str(folder), problems=tuple(ordered), manifest=manifest, signed_by=signed_by)


def _look(
    folder: Path, base: BaseModel | None, limits: EngineLimits, trust: Trust | None, problems: list[Problem]
) -> Manifest | None:
    """Append every problem to `problems`, which keeps them if reading fails; return the facts."""
    if not folder.is_dir():
        remedy = "give the folder that PEFT's save_pretrained wrote"
        problems.append(_file_problem("folder_missing", "there is no such folder", remedy, str(folder)))
        return None
    found, too_many = entries(folder, limits.files)
    problems += (*too_many, *file_problems(folder, found, limits.files))
    if any(problem.code in _UNSAFE for problem in problems):
        return None  # these files must not be opened
    config, config_flaws = read_config(folder)
    problems += config_flaws
    if config is not None:
        problems += config_problems(config, limits)
    problems += companion_problems(folder, COMPARED)
    path = folder / TENSORS_FILE
    if not path.is_file():
        problems += _identity(config, folder, base, None)
        return None
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, header_flaws = read_header(file, size)
        problems += header_flaws
        problems += _identity(config, folder, base, header)
        if header is None:
            return None
        flaws = tuple(layout_problems(header, size))
        problems += flaws
        problems += _tensor_problems(config, header, base, limits)
        if flaws:
            return None  # with such a layout the values cannot be read
        magnitudes = Magnitudes()
        digest = digest_of(config or {}, header, file, magnitudes.see)
    problems += value_problems(header.tensors, parts_of(header.tensors.values()), magnitudes)
    if config is None:
        return None
    if trust is not None:
        problems += signature_problems(folder, digest, trust)
    return _manifest(config, header, digest, size, problems)


def _identity(
    config: Mapping[str, Any] | None, folder: Path, base: BaseModel | None, header: Header | None
) -> Iterable[Problem]:
    if config is None or base is None:
        return ()
    parts = parts_of(header.tensors.values()) if header is not None else None
    has_embeddings = (
        parts is None
        or bool(parts.saved_embeddings)
        or any(pair.targets_embeddings or pair.leaf == "lm_head" for pair in parts.pairs.values())
    )
    return identity_problems(config, folder, base, has_embeddings=has_embeddings)


# Opening files with these problems may lead outside of the folder, or never return.
_UNSAFE = frozenset(("outside_root", "link_outside", "link_broken", "special_file"))


def _tensor_problems(
    config: Mapping[str, Any] | None, header: Header, base: BaseModel | None, limits: EngineLimits
) -> Iterable[Problem]:
    parts = parts_of(header.tensors.values())
    yield from tensor_rules.tensor_problems(header.tensors, parts)
    if config is not None:
        yield from tensor_rules.rank_problems(config, parts, limits)
        yield from tensor_rules.target_problems(config, parts)
    yield from tensor_rules.check_saved_embeddings(parts)
    yield from base_rules.base_problems(config or {}, parts, base)
    yield from base_rules.check_embedding_targets(parts, base, limits)


def _manifest(
    config: Mapping[str, Any], header: Header, digest: str, size: int, problems: list[Problem]
) -> Manifest | None:
    try:
        return manifest_of(config, header, digest, size)
    except InvalidArtifact as error:
        if not any(problem.is_error for problem in problems):  # otherwise the cause has been reported already
            remedy = "give the config that PEFT wrote beside the tensors"
            problems.append(_file_problem("config_unreadable", str(error), remedy, CONFIG_FILE))
        return None


def _file_problem(code: str, message: str, remedy: str, where: str | None) -> Problem:
    return Problem(code=code, message=message, remedy=remedy, where=where or "")
