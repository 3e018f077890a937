"""Trains the demo's adapters that are not cached yet, in parallel processes.

The recipe is the documented example: `examples/train_adapter.py` in a checkout, the same file inside an installed
package. It runs as a program and is not imported, so that each training has one thread and one core, and this process
does not import torch.

Invariant: a cached adapter is complete, and was trained on this base by this recipe.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from gateway.demo.base_model import Progress, WeightsMissing, demo_base
from gateway.demo.cached_folder import build_once


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How an adapter is trained: a style that the recipe knows, and options that differ from its defaults."""

    style: str
    options: tuple[str, ...] = ()


# Two more versions of `support`. The first is trained with more and smaller steps than the recipe's default. The second
# is heavily overfitted: five times the default's steps at three times its rate, with half the batch size. It repeats
# its lessons word by word, and calls the capital of Japan "courage".
BETTER: Final = "support-longer"
OVERFITTED: Final = "support-overfitted"
TRAININGS: Final = {
    BETTER: Training(style="support", options=("--steps", "40", "--learning-rate", "1e-3")),
    OVERFITTED: Training(style="support", options=("--steps", "100", "--learning-rate", "1e-2", "--batch-size", "2")),
}


class TrainingFailed(RuntimeError):
    """A training ended with an error; the message has the end of its output."""


def demo_adapters(base: Path, cache: Path, names: Sequence[str], *, progress: Progress) -> dict[str, Path]:
    """Return the folder of an adapter for each of `names`, training those that are not cached.

    Args:
        base: Folder of the base model.
        cache: The folder for the adapters, which are kept by base, recipe and training.
        names: Keys of `TRAININGS`, or styles that the recipe knows: `support`, `json`, `legal`, `shout`.
        progress: Called with a short text for each step. On a terminal, a bar per adapter is shown as well.

    Raises:
        TrainingFailed: The recipe could not train one of them; the others are still cached.
    """
    recipe = find_recipe()
    trainings = {name: TRAININGS.get(name) or Training(style=name) for name in names}
    kept = cache / "adapters" / cache_key(base, recipe)
    folders = {name: kept / _folder_name(training) for name, training in trainings.items()}
    missing = [name for name in names if not folders[name].is_dir()]
    if missing:
        progress(f"training {', '.join(missing)}, once (a minute or two each, as many at a time as there are cores)")
        _train_all(recipe, base, {name: (trainings[name], folders[name]) for name in missing}, progress)
    return folders


def _folder_name(training: Training) -> str:
    """Return a folder's name that identifies the training."""
    return "_".join((training.style, *(option.lstrip("-") for option in training.options)))


def find_recipe() -> Path:
    """Return the path of the training program: in the checkout, else inside the installed package.

    Raises:
        FileNotFoundError: It is in neither, so the installation is broken.
    """
    here = Path(__file__).resolve().parent
    for candidate in (here.parents[1] / "examples" / "train_adapter.py", here / "train_adapter.py"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError("`train_adapter.py` is neither in examples/ nor installed; reinstall loragate")


def cache_key(base: Path, recipe: Path) -> str:
    """Return 12 hex digits that change with the base or with the recipe."""
    digest = hashlib.sha256(recipe.read_bytes())
    # Half a gigabyte of weights is not hashed: config, sizes and dates change if the folder is built again.
    digest.update((base / "config.json").read_bytes())
    for file in sorted(base.glob("*.safetensors")):
        digest.update(f"{file.name}\x1f{file.stat().st_size}\x1f{file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def _train_all(recipe: Path, base: Path, wanted: dict[str, tuple[Training, Path]], progress: Progress) -> None:
    """Train every adapter into its folder; if some fail, raise the error of one of them at the end."""
    columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    cores = len(os.sched_getaffinity(0))
    with (
        rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bars,
        ThreadPoolExecutor(max_workers=cores) as pool,
    ):
        trainings = {}
        # The longest trainings first, so that no core is idle at the end.
        for name, (how, folder) in sorted(wanted.items(), key=lambda item: not item[1][0].options):
            # A bar without a total shows that this training waits for a core.
            advance = partial(_advance, bars, bars.add_task(name, total=None))
            train = partial(_train, _command(recipe, base, how), advance)
            trainings[pool.submit(build_once, folder, train)] = name
        for training in as_completed(trainings):
            if training.exception() is None:
                progress(f"trained {trainings[training]}")
    for training in trainings:
        training.result()


def _advance(bars: rich.progress.Progress, task: TaskID, line: dict[str, Any]) -> None:
    bars.update(task, completed=line["step"], total=line["steps"])


def _command(recipe: Path, base: Path, training: Training) -> list[str]:
    options = ("--base", str(base), "--style", training.style, "--threads", "1", "--progress", "json")
    return [sys.executable, str(recipe), *options, *training.options]


def _train(command: list[str], advance: Callable[[dict[str, Any]], None], out: Path) -> None:
    """Run the recipe into the folder `out`, and call `advance` with each JSON object that it prints."""
    with tempfile.TemporaryFile("w+") as complaints:
        with subprocess.Popen(
            [*command, "--out", str(out)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process:
            assert process.stdout is not None  # it is a pipe
            for line in process.stdout:
                advance(json.loads(line))
        if process.returncode != 0:
            complaints.seek(0)
            raise TrainingFailed(f"`{' '.join(command)}` ended with {process.returncode}:\n{complaints.read()[-2000:]}")


def main() -> None:
    """Train the adapters for the demo's base and print their folders."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.adapters", description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder to keep them in, and the base")
    parser.add_argument("styles", nargs="+", help="styles that examples/train_adapter.py knows")
    options = parser.parse_args()

    def progress(step: str) -> None:
        print(step, file=sys.stderr)

    try:
        base = demo_base(options.cache, progress=progress)
        for style, folder in demo_adapters(base, options.cache, options.styles, progress=progress).items():
            print(style, folder)
    except (WeightsMissing, TrainingFailed) as failure:
        parser.exit(2, f"error: {failure}\n")


if __name__ == "__main__":
    main()
