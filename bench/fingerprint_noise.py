"""How far a model is from itself, and how far adapters are from the base: the figures behind the tolerances.

    python -m bench.fingerprint_noise [--model FOLDER] [--adapter NAME=FOLDER ...] [--dtype float32 bfloat16]

Starts real vLLM on the CPU, once for each dtype, one after another, and prints a table for each and one across
them. Without --model it is the tiny random base. docs/decisions/0007-fingerprint-tolerances.md holds a run's figures.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from adapters.fingerprint import Fingerprint, distance
from adapters.prober import calibrate, fingerprint, fingerprint_together
from gateway.demo.base_model import tiny_base
from gateway.serve.adapter_host import VllmHost
from tests.support.tiny_adapters import random_adapter
from tests.support.vllm_engines import running_vllm

Series = dict[str, list[float]]
REPEATS = 30
BATCHES = (1, 2, 4, 8, 16)
ROUNDS = 5
STREAMS = 8
# Standard deviations of B; A has 1/sqrt(n_in). The first is that of the tests' adapters.
SCALES = (0.2, 0.02, 0.002, 0.0002)
BESIDE = 3  # adapters in a mixed batch


async def noise(host: VllmHost, base: str, first: Mapping[str, Fingerprint], versions: Sequence[str]) -> Series:
    """Return distances of models to themselves, by what goes on beside them."""
    series: Series = {"alone": [distance(first[base], await fingerprint(host, base)) for _ in range(REPEATS)]}
    for copies in BATCHES:
        found = series[f"{copies} copies at once"] = []
        for _ in range(ROUNDS):
            prints = await asyncio.gather(*(fingerprint(host, base) for _ in range(copies)))
            found += [distance(first[base], each) for each in prints]
    for name in (base, *versions):
        label = "base" if name == base else f"adapter {name}"
        series[f"{label} alone"] = [distance(first[name], await fingerprint(host, name)) for _ in range(ROUNDS)]
    companies = [versions[at : at + BESIDE] for at in range(0, len(versions), BESIDE)]
    for company in companies:
        for _ in range(REPEATS // len(companies)):
            for name, each in (await fingerprint_together(host, base, company)).items():
                label = "base" if name == base else "adapters"
                series.setdefault(f"{label} in a mixed batch", []).append(distance(first[name], each))
    series[f"beside {STREAMS} streams"] = await _beside_streams(host, base, first[base], versions[:BESIDE])
    return series


async def _beside_streams(host: VllmHost, base: str, first: Fingerprint, versions: Sequence[str]) -> list[float]:
    models = [base, *versions]

    async def keep_generating(number: int) -> None:
        while True:
            prompt = f"{number} " + "The keeper of the light said that " * (1 + 4 * number)
            await host.generate(models[number % len(models)], prompt, tokens=64, started=asyncio.Event())

    streams = [asyncio.ensure_future(keep_generating(number)) for number in range(STREAMS)]
    try:
        return [distance(first, await fingerprint(host, base)) for _ in range(REPEATS)]
    finally:
        for stream in streams:
            stream.cancel()
        for stream in streams:
            with suppress(asyncio.CancelledError):
                await stream


async def measure(uds: Path, adapters: Mapping[str, Path]) -> dict[str, Fingerprint]:
    """Print the figures of one engine; return its fingerprints, that of the base under ``."""
    host = VllmHost(f"unix://{uds}")
    try:
        base = (await host.base()).name
        prints = {base: await fingerprint(host, base)}
        for name, folder in adapters.items():
            await host.load(name, str(folder))
            prints[name] = await fingerprint(host, name)
        print(f"engine {prints[base].engine}; calibration: {await calibrate(host, base)}")
        for label, found in (await noise(host, base, prints, list(adapters))).items():
            print_row(label, found)
        for name in adapters:
            print_row(f"{name} from the base", [distance(prints[name], prints[base])])
        return {"": prints.pop(base), **prints}
    finally:
        host.close()


def print_row(label: str, found: Sequence[float]) -> None:
    """Print how many distances there are, their median and the largest."""
    print(f"  {label:<40} n={len(found):<4} median {statistics.median(found):<10.5f} max {max(found):.5f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.fingerprint_noise", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a model (default: the tiny random one)")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER", help="a trained adapter")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"], help="(default: %(default)s)")
    parser.add_argument("--flag", action="append", default=[], help="another option of vLLM, as --name=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fingerprints-") as scratch:
        model = options.model or tiny_base(Path(scratch), progress=lambda step: print(step, file=sys.stderr))
        adapters = {name: Path(folder) for name, _, folder in (each.partition("=") for each in options.adapter)}
        for seed, scale in enumerate(SCALES):
            adapters[f"random-{scale}"] = random_adapter(
                model, Path(scratch, f"random-{scale}"), seed=seed, scale=scale
            )
        found = {}
        for dtype in options.dtype:
            print(f"{model.name} as {dtype}")
            with running_vllm(model, flags=[f"--dtype={dtype}", *options.flag]) as uds:
                found[dtype] = asyncio.run(measure(uds, adapters))
    one, *others = found
    for other in others:
        print(f"{model.name}: {one} and {other}")
        for name, each in found[one].items():
            print_row(name or "the base", [distance(each, found[other][name])])


if __name__ == "__main__":
    main()
