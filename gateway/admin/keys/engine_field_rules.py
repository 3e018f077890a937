"""A key's rules for request fields that are passed on to engines, as the admin API's schema describes them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.decide.engine_fields import MAX_OF_A_FIELD

_Word = Literal["allow", "deny"]
_Number = Annotated[int, Field(ge=1, le=MAX_OF_A_FIELD)] | Literal["allow"]


class EngineFieldRules(BaseModel):
    """Rules for fields that engines are sent; what is left out is the route's or the settings' to decide."""

    model_config = ConfigDict(extra="forbid")
    priority: _Word = "deny"
    request_id: _Word = "deny"
    kv_transfer_params: _Word = "deny"
    ec_transfer_params: _Word = "deny"
    data_parallel_rank: _Word = "deny"
    prompt_embeds: _Word = "deny"
    chat_template: _Word = "deny"
    mm_processor_kwargs: _Word = "deny"
    media_io_kwargs: _Word = "deny"
    vllm_xargs: _Word = "deny"
    logits_processors: _Word = "deny"
    background: _Word = "deny"
    media_urls: _Word = "deny"
    media_embeds: _Word = "deny"
    media_uuids: _Word = "deny"
    n: _Number = 16
    best_of: _Number = 16
    choices: _Number = 128
    inputs: _Number = 2048
    max_tokens: _Number = 131_072

    def to_rules(self) -> dict[str, str | int]:
        """Return the rules that the request sets, without defaults."""
        return self.model_dump(exclude_unset=True)
