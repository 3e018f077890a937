"""`python -m bench.fusion`: time and memory of each fusion method at 135M, beside PEFT's own, in one table.

Two adapters of rank 8 on all seven projections of SmolLM2-135M's shapes: 30 layers, 210 modules.
Their values are random; only shapes decide what fusing costs. Each method runs in a process of its
own, as the gateway runs it. PEFT's `add_weighted_adapter` runs on a model of the same shapes, since
it needs one; ours needs none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RANK = 8
LAYERS, HIDDEN, INNER, KEYS = 30, 576, 1536, 192
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, KEYS),
    "self_attn.v_proj": (HIDDEN, KEYS),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (HIDDEN, INNER),
    "mlp.up_proj": (HIDDEN, INNER),
    "mlp.down_proj": (INNER, HIDDEN),
}
METHODS = ("scale", "cat", "linear", "svd", "ties", "dare_ties", "dare_linear", "magnitude_prune", "slerp")
# A dense SVD of every module takes minutes in PEFT (150 to 250 s on two cores); it has no `scale` and no `slerp`.
PEFT_SLOW = ("svd",)
PEFT_LACKS = ("scale", "slerp")
MB = 1e6


@dataclass(frozen=True)
class Reading:
    """One run: seconds of fusing alone, of the whole process, its peak memory in bytes, what it reported."""

    fusing: float
    whole: float
    peak: int
    rank: int | None = None
    error: float | None = None


def write_parent(folder: Path, seed: int) -> Path:
    """Write a random adapter of the model's shapes; return its folder."""
    import numpy
    from safetensors.numpy import save_file

    rng = numpy.random.default_rng(seed)
    tensors = {}
    for layer in range(LAYERS):
        for module, (n_in, n_out) in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = rng.normal(0, n_in**-0.5, (RANK, n_in)).astype("float32")
            tensors[f"{prefix}.lora_B.weight"] = rng.normal(0, 0.02, (n_out, RANK)).astype("float32")
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "SmolLM2-135M",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [name.rpartition(".")[2] for name in MODULES],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run(command: Sequence[str], job: object) -> tuple[dict[str, object], float, int]:
    """Run `command` with `job` on its input; return its last line, its seconds and its peak memory in bytes."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job).encode())
    process.stdin.close()
    lines = process.stdout.read().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not lines:
        assert process.stderr is not None
        raise RuntimeError((b"\n".join(lines) + process.stderr.read()).decode()[-2000:])
    return json.loads(lines[-1]), time.monotonic() - started, usage.ru_maxrss * 1024


def ours(method: str, folders: dict[str, Path], out: Path) -> Reading:
    """Measure one method of ours."""
    weights = {"x": 0.5} if method == "scale" else {"x": 0.7, "y": 0.3}
    recipe = {"method": method, "parents": [{"version": name, "weight": weight} for name, weight in weights.items()]}
    job = {"recipe": recipe, "folders": {name: str(folder) for name, folder in folders.items()}, "out": str(out)}
    answer, whole, peak = run([sys.executable, "-m", "adapters.fusion"], job)
    report = answer["report"]
    assert isinstance(report, dict)
    return Reading(report["seconds"], whole, peak, report["rank"], report["errors"]["median"])


def peft(method: str, folders: dict[str, Path]) -> Reading:
    """Measure PEFT's own on a model of the same shapes."""
    job = {"method": method, "folders": [str(folder) for folder in folders.values()]}
    answer, whole, peak = run([sys.executable, "-m", "bench.fusion", "--peft-child"], job)
    seconds = answer["seconds"]
    assert isinstance(seconds, float)
    return Reading(seconds, whole, peak)


def peft_child() -> None:
    """Do what PEFT does, in this process: a model, both adapters, `add_weighted_adapter`."""
    import torch
    from peft import PeftModel

    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    model = torch.nn.Module()
    model.model = torch.nn.Module()
    model.model.layers = torch.nn.ModuleList()
    for _ in range(LAYERS):
        layer = torch.nn.Module()
        for name, (n_in, n_out) in MODULES.items():
            block, _, leaf = name.partition(".")
            if not hasattr(layer, block):
                layer.add_module(block, torch.nn.Module())
            getattr(layer, block).add_module(leaf, torch.nn.Linear(n_in, n_out, bias=False))
        model.model.layers.append(layer)
    first, second = job["folders"]
    wrapped = PeftModel.from_pretrained(model, first, adapter_name="x")
    wrapped.load_adapter(second, adapter_name="y")
    started = time.monotonic()
    needs_density = job["method"] not in ("cat", "linear", "svd")
    wrapped.base_model.add_weighted_adapter(
        ["x", "y"], [0.7, 0.3], "made", combination_type=job["method"], density=0.5 if needs_density else None
    )
    print(json.dumps({"seconds": time.monotonic() - started}))


def median_of(readings: Sequence[Reading]) -> Reading:
    """Return the medians of several runs."""
    return Reading(
        statistics.median(each.fusing for each in readings),
        statistics.median(each.whole for each in readings),
        int(statistics.median(each.peak for each in readings)),
        readings[0].rank,
        readings[0].error,
    )


def render(method: str, mine: Reading, its: Reading | None, note: str) -> str:
    """Return a row of the table."""
    error = "-" if mine.error is None else f"{mine.error:.1e}"
    row = f"| {method:<15} | {mine.rank:>4} | {error:>7} | {mine.fusing:>8.2f} | {mine.whole:>9.1f}"
    row += f" | {mine.peak / MB:>7,.0f}"
    if its is None:
        return f"{row} | {note:>8} | {'':>9} | {'':>7} |"
    return f"{row} | {its.fusing:>8.2f} | {its.whole:>9.1f} | {its.peak / MB:>7,.0f} |"


def main(arguments: Sequence[str]) -> None:
    """Measure every method and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.fusion", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="the table shows their medians (default: %(default)s)")
    parser.add_argument("--only", action="append", choices=METHODS, help="measure these alone (repeatable)")
    parser.add_argument("--slow", action="store_true", help="also run PEFT's dense SVD, for minutes")
    parser.add_argument("--peft-child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peft_child:
        peft_child()
        return
    print("| method          | rank |   error | fusing s | process s | peak MB | PEFT's s | process s | its MB  |")
    print("| --------------- | ---: | ------: | -------: | --------: | ------: | -------: | --------: | ------: |")
    with tempfile.TemporaryDirectory(prefix="loragate-bench-") as scratch:
        root = Path(scratch)
        folders = {name: write_parent(root / name, seed) for seed, name in enumerate("xy")}
        for method in options.only or METHODS:
            mine = median_of([ours(method, folders, root / f"{method}{number}") for number in range(options.runs)])
            its, note = None, "-"
            if method in PEFT_SLOW and not options.slow:
                note = "minutes"
            elif method not in PEFT_LACKS:
                runs = 1 if method in PEFT_SLOW else options.runs
                its = median_of([peft(method, folders) for _ in range(runs)])
            print(render(method, mine, its, note), flush=True)
    print("error: median over modules of the relative Frobenius distance to the exact weighted sum of the deltas.")
    print("fusing s: reading, fusing, measuring errors, writing; PEFT's s: merging in memory alone.")
    print("process s: all of it, with imports and, for PEFT, a model of the same shapes. One thread everywhere.")


if __name__ == "__main__":
    main(sys.argv[1:])
