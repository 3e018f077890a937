"""Find the adapter inside what trainers write: a decision on names of files alone.

* PEFT: both files at the top; an adapter not called `default` in a sub-folder of its name
  (`PeftModel.save_pretrained`).
* TRL and transformers: the final one at the top, `checkpoint-N/` below (`Trainer._save_checkpoint`).
* Axolotl: the same, with tokenizer, README and optimizer files beside; `adapter_config.json` stands at the top
  *before* training begins (axolotl `src/axolotl/train.py`: `save_initial_configs`, `save_trained_model`).
* Unsloth: as PEFT; in the config an `auto_mapping` that names `unsloth_fixed`, a 4-bit base, often a regex for
  targets (unsloth-zoo `hf_utils.py`: `fix_lora_auto_mapping`; unsloth `models/vision.py`: `get_peft_regex`).
* torchtune: `epoch_N/`, each with both files beside the merged model's
  (torchtune `docs/source/deep_dives/checkpointer.rst`, "Checkpoint Output").

So folder names are not considered: a folder with both files is an adapter, the top folder takes precedence, and the
caller must choose from several below it.
"""

import re
from collections.abc import Callable, Collection, Iterable
from typing import Final

from adapters.artifact import TENSORS_FILE
from adapters.config_file import CONFIG_FILE
from adapters.sources.failures import PickledAdapter, SourceAmbiguous, SourceNotFound, SourceTooLarge

# The deepest folder that a trainer writes is `output/checkpoint-10/support/`.
DEEPEST: Final = 2
# A training run leaves some tens of checkpoints, each of some tens of files.
MAX_FOLDERS: Final = 500
MAX_NAMES: Final = 20_000
# Files of any name, which include optimiser states in shards, logs and pictures.
MAX_SEEN: Final = 200_000
# How many adapters an error lists.
LISTED: Final = 20

# Pickled weights: of PEFT and Axolotl without safetensors; torchtune's `adapter_0.pt` (before 0.5) and
# `adapter_model.pt`.
_PICKLED: Final = re.compile(r"adapter_(model\.(bin|pt)|\d+\.pt)")
_SHARD: Final = re.compile(r"adapter_model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)")
_MLX: Final = "adapters.safetensors"
_WHOLE_MODEL: Final = re.compile(r"(ft-)?(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")

# Takes a folder below the top (`` for the top itself); returns the names in it, and whether each is a folder.
Listing = Callable[[str], Iterable[tuple[str, bool]]]


def names_below(listing: Listing, where: str) -> list[str]:
    """Return the names of files below the top, relative to it, as deep as trainers write.

    Raises:
        SourceTooLarge: There are more files or folders than a training run leaves.
    """
    names: list[str] = []
    pending = [""]
    n_folders = n_seen = 0
    while pending:
        folder = pending.pop()
        depth = folder.count("/") + 1 if folder else 0
        for name, is_folder in listing(folder):
            n_seen += 1
            path = f"{folder}/{name}" if folder else name
            if not is_folder:
                if _tells_something(name):
                    names.append(path)
            elif depth < DEEPEST and not name.startswith("."):
                pending.append(path)
                n_folders += 1
            if len(names) > MAX_NAMES or n_folders > MAX_FOLDERS or n_seen > MAX_SEEN:
                raise SourceTooLarge(
                    f"`{where}` holds more than {MAX_SEEN:,} files or {MAX_FOLDERS} folders; "
                    "give the adapter's own folder"
                )
        if not folder and {CONFIG_FILE, TENSORS_FILE} <= set(names):
            break  # the top folder is the adapter; the checkpoints below it do not matter
    return names


def _tells_something(name: str) -> bool:
    """Whether a file of this name is evidence of what its folder holds."""
    lower = name.lower()
    return lower.startswith("adapter") or _WHOLE_MODEL.fullmatch(name) is not None


def find_adapter(names: Collection[str], where: str) -> str:
    """Return the folder that holds the adapter to take, relative to the top (`` for the top itself).

    Args:
        names: Files below the top, relative to it, with `/` between folders.
        where: The source, for messages.

    Raises:
        SourceNotFound: None of the folders holds an adapter.
        SourceAmbiguous: Several do, and the top does not.
        PickledAdapter: The adapter's weights are pickled.
    """
    found = _folders_with_both(names)
    if "" in found:
        return ""
    _refuse_pickled_top(names, found, where)
    if not found:
        raise _no_adapter(names, where)
    if len(found) > 1:
        raise SourceAmbiguous(
            f"`{where}` holds {len(found)} adapters and none at its top: {_list_folders(found)}; "
            f"give the path of one, such as `{_below(where, found[-1])}`"
        )
    return found[0]


def _folders_with_both(names: Collection[str]) -> list[str]:
    having = set(names)
    folders = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] == CONFIG_FILE}
    both = [folder for folder in folders if (f"{folder}/{TENSORS_FILE}" if folder else TENSORS_FILE) in having]
    return sorted(both, key=_by_number)


def _refuse_pickled_top(names: Collection[str], found: list[str], where: str) -> None:
    # The top folder holds a trainer's final adapter; a checkpoint below it is another one and no substitute.
    pickled = [name for name in names if "/" not in name and _PICKLED.fullmatch(name)]
    if pickled:
        instead = f"; or give the path of one of its checkpoints: {_list_folders(found)}" if found else ""
        raise PickledAdapter(_pickle_message(where, pickled[0]) + instead)


def _no_adapter(names: Collection[str], where: str) -> SourceNotFound | PickledAdapter:
    pickled = sorted((name for name in names if _PICKLED.fullmatch(name.rpartition("/")[2])), key=_by_number)
    if pickled:
        return PickledAdapter(_pickle_message(where, pickled[-1]))
    ends = sorted({name.rpartition("/")[2] for name in names})
    called = next(
        (name for name in ends for right in (CONFIG_FILE, TENSORS_FILE) if name != right and name.lower() == right),
        None,
    )
    if called is not None:
        why = f"has `{called}`, which has to be called `{called.lower()}`, in lower case"
    elif any(_SHARD.fullmatch(name) for name in ends):
        why = f"holds an adapter in shards; save it as one {TENSORS_FILE} (max_shard_size), which is what engines load"
    elif _MLX in ends:
        why = f"holds {_MLX}, an adapter of MLX's form; convert it to PEFT's"
    elif CONFIG_FILE in names:
        why = f"has {CONFIG_FILE} but no {TENSORS_FILE}: its training has not finished, or saved nothing"
    elif TENSORS_FILE in names:
        why = f"has {TENSORS_FILE} but no {CONFIG_FILE}"
    elif any(_WHOLE_MODEL.fullmatch(name.rpartition("/")[2]) for name in names):
        why = "holds a whole model and no adapter; it may have been merged"
    else:
        why = f"holds no adapter, which is a folder with {CONFIG_FILE} and {TENSORS_FILE}"
    return SourceNotFound(f"`{where}` {why}; give the folder that PEFT's save_pretrained wrote")


def _pickle_message(where: str, name: str) -> str:
    return (
        f"`{_below(where, name)}` is a pickle, which can run code when it is read: save the adapter as {TENSORS_FILE} "
        "(PEFT and torchtune: safe_serialization=True, Axolotl: save_safetensors: true)"
    )


def _below(where: str, folder: str) -> str:
    return f"{where.rstrip('/')}/{folder}"


def _list_folders(folders: list[str]) -> str:
    shown = ", ".join(f"`{folder}`" for folder in folders[-LISTED:])
    return f"{shown} and {len(folders) - LISTED} more" if len(folders) > LISTED else shown


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort `checkpoint-9` before `checkpoint-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
