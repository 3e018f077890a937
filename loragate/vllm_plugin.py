"""What vLLM calls in each of its processes, through the entry point `vllm.general_plugins`."""

from loragate import bind_packages


def register() -> None:
    """Cure LoRA bugs of vLLM's CPU platform; does nothing on others. See `gateway/serve/vllm_cpu`."""
    bind_packages("gateway")  # the other two names are vLLM's plugins' to use
    from gateway.serve.vllm_cpu import register as cure

    cure()
