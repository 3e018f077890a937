"""Replay a request on another version: decide whether it can be replayed, and build the body.

Everything that affects generation stays as the client sent it, byte for byte: messages, tools, seed, sampling, limits,
stops, cache salt. The model is changed, and members that concern only the original request are dropped.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from evaluators.normalize.prompt import prompt_count
from evaluators.normalize.reading import NotComparable, count_of, mappings_of, members_of, object_of

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
_COMPLETIONS: Final = ENDPOINTS[:2]
# Dropped in a replay: the caller's identity and ids (`request_id` would clash with the original request), scheduling,
# options that only change the form of the reply, and options whose cost to the engine exceeds their use here.
_DROPPED: Final = frozenset(
    {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"}
    | {"request_id", "session_id", "priority", "stream", "stream_options", "enable_response_messages", "include"}
    | {"return_token_ids", "return_tokens_as_token_ids", "return_prompt_text", "return_token_offsets", "n", "best_of"}
    | {"logprobs", "top_logprobs", "logprob_token_ids", "prompt_logprobs", "routed_experts_prompt_start"}
)
# Tools of `/v1/responses` that the client runs itself. The engine's side runs all others, and would run them again.
_CLIENTS_TOOLS: Final = ("function", "custom", "namespace")


def skip_reason(endpoint: str, body: bytes) -> str | None:
    """Return why a request cannot be asked of another version and compared; None if it can. Never raises.

    `unknown_endpoint`, `not_json`; `several_prompts` in one completion; `echo`: the reply repeats the prompt;
    `best_of`, `beam_search`: what is generated hangs on how many; `nothing_generated` is asked for;
    `stored_state`: it goes on from a reply that one engine keeps, or runs in the background there; `server_tools`:
    the engine would act a second time; `disaggregated`: it names another engine's cache.
    """
    if endpoint not in ENDPOINTS:
        return "unknown_endpoint"
    try:
        request = object_of(body)
    except NotComparable as problem:
        return problem.reason
    if any(request.get(name) is not None for name in ("kv_transfer_params", "ec_transfer_params")):
        return "disaggregated"
    if endpoint in _COMPLETIONS:
        return _completion_reason(endpoint, request)
    return _responses_reason(request) if endpoint == "/v1/responses" else None


def _completion_reason(endpoint: str, request: Mapping[str, Any]) -> str | None:
    if endpoint == "/v1/completions" and prompt_count(request) > 1:
        return "several_prompts"
    if request.get("echo"):
        return "echo"
    if request.get("use_beam_search"):
        return "beam_search"
    if (count_of(request.get("best_of")) or 1) > 1:
        return "best_of"
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    return "nothing_generated" if count_of(limit) == 0 else None


def _responses_reason(request: Mapping[str, Any]) -> str | None:
    if any(request.get(name) for name in ("previous_response_id", "background", "prompt", "conversation")):
        return "stored_state"
    kinds = [tool.get("type", "function") for tool in mappings_of(request.get("tools"))]
    return None if all(kind in _CLIENTS_TOOLS for kind in kinds) else "server_tools"


def replay_body(
    endpoint: str, body: bytes, *, model: str, priority: int | None, stream: bool, want_token_ids: bool
) -> bytes:
    """Return the body that sends the same request to `model`.

    Args:
        endpoint: The path, such as `/v1/chat/completions`.
        body: The request body as the client sent it.
        model: Name of the model that answers the replay.
        priority: vLLM's priority, larger is later. Only for engines that schedule by priority: others refuse all
            numbers but 0. `/v1/messages` has no priority.
        stream: Whether the reply is streamed; usage is requested where a stream omits it by default.
        want_token_ids: Whether to request token ids. `/v1/messages` has no token ids.

    Raises:
        NotComparable: As `skip_reason` says.
    """
    if (reason := skip_reason(endpoint, body)) is not None:
        raise NotComparable(reason)
    request: dict[str, Any] = {name: raw for name, raw in members_of(body).items() if name not in _DROPPED}
    request |= {"model": model, "stream": stream}
    if endpoint in _COMPLETIONS and stream:
        request["stream_options"] = {"include_usage": True}
    if endpoint != "/v1/messages" and priority is not None:
        request["priority"] = priority
    if endpoint == "/v1/responses":
        request["store"] = False
    if want_token_ids:
        request |= _TOKEN_IDS.get(endpoint, {})
    return msgspec.json.encode(request)


_TOKEN_IDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "/v1/chat/completions": {"return_token_ids": True},
    "/v1/completions": {"return_token_ids": True},
    # Its protocol has no `return_token_ids`; the raw messages carry them.
    "/v1/responses": {"enable_response_messages": True},
}
