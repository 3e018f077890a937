"""A vLLM plugin for the CPU: it works around two LoRA bugs of vLLM 0.32, and halves what starting costs.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`. The plugin runs in
vLLM, not in the gateway: the gateway must not import this package's other module, and the plugin knows nothing of the
gateway. On every platform but the CPU it does nothing.

(a) A request for the base that shares a batch with adapter requests is answered with an adapter's
    weights (vllm-project/vllm #48421, #49656).
(b) Concurrent requests for `prompt_logprobs` kill the engine once LoRA is on (vllm-project/vllm #16668).

Remove the cure when the locked vLLM has both fixed: `tests/real/test_cpu_cure.py` shows the first one
with the cure off, and fails when it is gone.

(c) On the CPU, vLLM starts the engine's process anew, and that process imports everything a second time. `FORK=1`
    forks it instead, as vLLM does on GPUs: 28 in place of 46 CPU seconds until it is ready.
"""

import os
from typing import Any

SWITCH = "LORAGATE_CPU_LORA_CURE"
FORK = "LORAGATE_CPU_FORK"
# vLLM's own variable, which its CPU platform sets to "spawn" whatever it was.
START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def register() -> None:
    """Change vLLM's CPU platform as the two environment variables say; harmless when repeated."""
    # The one read of os.environ outside settings.py: this process is vLLM's and has no settings of ours.
    is_cured, is_forked = os.environ.get(SWITCH, "1") != "0", os.environ.get(FORK) == "1"
    if not is_cured and not is_forked:
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.platforms.cpu import CpuPlatform

    if is_cured:
        _apply_adapters_one_at_a_time(CpuPlatform)
    if is_forked:
        _fork_the_engine(CpuPlatform)


def _apply_adapters_one_at_a_time(platform: Any) -> None:
    def get_punica_wrapper(_platform: type[Any]) -> str:
        return f"{__name__}.adapter_wise.AdapterWisePunica"

    # The platform names the class; vLLM has no other hook for replacing it.
    platform.get_punica_wrapper = classmethod(get_punica_wrapper)


def _fork_the_engine(platform: Any) -> None:
    check_and_update = platform.check_and_update_config.__func__

    def check_and_update_config(this: type[Any], config: Any) -> None:
        check_and_update(this, config)
        # With other executors, workers of the engine bind threads to cores, for which vLLM wants a new process.
        if config.parallel_config.distributed_executor_backend == "uni":
            os.environ[START_METHOD] = "fork"

    platform.check_and_update_config = classmethod(check_and_update_config)
