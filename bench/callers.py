"""What callers wait for their first token on a real vLLM while a tenth is compared: python -m bench.callers.

SmolLM2-135M-Instruct with random adapters (they set no pace: each reply has its full length), requests at random
moments, blocks with copies and without by turns in one run. Of a small machine's engine every shadow request
takes something; `--tiny` takes a random model of two layers, where scoring a prompt costs thrice a caller's
own prefill, since the vocabulary outweighs the model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.demo.base_model import demo_base, tiny_base
from gateway.settings import Settings
from tests.support.first_tokens import measure, percentile, serving
from tests.support.tiny_adapters import random_adapter

LIMIT = 1.10


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and end with 1 if the 99th percentile with copies is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.callers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="half of it with copies (default 20)")
    parser.add_argument("--rate", type=float, help="requests a second (default 0.7; tiny: 2)")
    parser.add_argument("--max-tokens", type=int, default=8, help="of each reply (default 8)")
    parser.add_argument("--tiny", action="store_true", help="a random model of two layers")
    told = parser.parse_args(arguments)
    rate = told.rate or (2.0 if told.tiny else 0.7)
    blocks = max(2, 2 * round(told.minutes / 2))  # of a minute
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base = (
            tiny_base(root, progress=_note)
            if told.tiny
            else demo_base(Settings.model_validate({}).cache_folder(), progress=_note)
        )
        adapters = [random_adapter(base, root / f"adapter-{seed}", seed=seed) for seed in range(2)]
        with serving(base, *adapters) as (gateway, control):
            waits = measure(
                gateway,
                control,
                blocks=blocks,
                seconds=60 * told.minutes / blocks,
                rate=rate,
                max_tokens=told.max_tokens,
            )
    sys.stdout.write(f"{base.name}, {rate:g} requests a second, {told.max_tokens} tokens each\n")
    sys.stdout.write("".join(f"{line}\n" for line in waits.told()))
    sys.exit(int(percentile(waits.on, 99) > LIMIT * percentile(waits.off, 99)))


def _note(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    main()
