"""A vLLM plugin that works around two LoRA bugs of vLLM 0.32's CPU platform.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`. The plugin runs in
vLLM, not in the gateway: the gateway must not import this package's other module, and the plugin knows nothing of the
gateway. On every platform but the CPU it does nothing.

(a) A request for the base that shares a batch with adapter requests is answered with an adapter's
    weights (vllm-project/vllm #48421, #49656).
(b) Concurrent requests for `prompt_logprobs` kill the engine once LoRA is on (vllm-project/vllm #16668).

Remove this package when the locked vLLM has both fixed: `tests/real/test_cpu_cure.py` shows the first one
with the cure off, and fails when it is gone.
"""

import os
from typing import Any

SWITCH = "LORAGATE_CPU_LORA_CURE"


def register() -> None:
    """Have vLLM's CPU platform apply adapters by `AdapterWisePunica`; harmless when repeated."""
    # The one read of os.environ outside settings.py: this process is vLLM's and has no settings of ours.
    if os.environ.get(SWITCH, "1") == "0":
        return
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.platforms.cpu import CpuPlatform

    def get_punica_wrapper(_platform: type[Any]) -> str:
        return f"{__name__}.adapter_wise.AdapterWisePunica"

    # The platform names the class; vLLM has no other hook for replacing it.
    CpuPlatform.get_punica_wrapper = classmethod(get_punica_wrapper)
