"""May this caller send this field to an engine? A named list of what is denied, and caps, with exceptions as data.

Denied by default is what lets a caller overtake others, reach other hosts, run code or change what is not his. Fields
that are not named pass. See docs/security.md for each field and its reason.

The first that names a field decides: the key, the route, the role (`operator` and `admin` may send everything), the
settings, then the list here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from gateway.decide.authenticate import Principal, Role

Rule = str | int
Rules = Mapping[str, Rule]
ALLOW: Final = "allow"
DENY: Final = "deny"
# Each denied by default. Those of the last line are found inside messages.
DENIED: Final = (
    "priority",
    "request_id",
    "kv_transfer_params",
    "ec_transfer_params",
    "data_parallel_rank",
    "prompt_embeds",
    "chat_template",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "vllm_xargs",
    "logits_processors",
    "background",
    "media_urls",
    "media_embeds",
    "media_uuids",
)
# The largest number that passes by default. `max_tokens` also bounds `max_completion_tokens` and `max_output_tokens`;
# `choices` are the prompts of one completion times `n`, `inputs` those of one request for embeddings (OpenAI's).
CAPS: Final[Mapping[str, int]] = MappingProxyType(
    {"n": 16, "best_of": 16, "choices": 128, "inputs": 2048, "max_tokens": 131_072}
)
NAMES: Final = (*DENIED, *CAPS)
NO_RULES: Final[Rules] = MappingProxyType({})
MAX_OF_A_FIELD: Final = 2**31


def check_rules(rules: Rules) -> None:
    """Refuse rules that mean nothing.

    Raises:
        ValueError: Which, and what is meant.
    """
    for name, rule in rules.items():
        if name not in NAMES:
            raise ValueError(f"engine_fields: `{name}` is no field with a rule; those are {', '.join(NAMES)}")
        is_number = isinstance(rule, int) and not isinstance(rule, bool) and 1 <= rule <= MAX_OF_A_FIELD
        if name in CAPS and not (is_number or rule == ALLOW):
            raise ValueError(f"engine_fields: `{name}` is `{rule}`; give the largest number that may pass, or `allow`")
        if name in DENIED and rule not in (ALLOW, DENY):
            raise ValueError(f"engine_fields: `{name}` is `{rule}`; it may be `allow` or `deny`")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPolicy:
    """What the settings say of fields.

    Attributes:
        rules: Of all keys and routes that have none of their own for a field.
        dry_run: Refuse nothing; count what would be refused.
    """

    # By field: `allow`, `deny`, or the largest number that may pass; before the defaults in docs/security.md.
    rules: dict[str, str | int] = field(default_factory=dict)
    # Refuse nothing, only count what would be refused (`loragate_engine_fields_refused_total`).
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_rules(self.rules)


def rule_of(name: str, caller: Principal, route_rules: Rules, policy: FieldPolicy) -> Rule:
    """Return the rule for a field: `allow`, `deny`, or the largest number that may pass."""
    for rules in (caller.engine_fields, route_rules):
        if name in rules:
            return rules[name]
    if caller.is_at_least(Role.OPERATOR):
        return ALLOW
    if name in policy.rules:
        return policy.rules[name]
    return CAPS.get(name, DENY)


def refusal(name: str, value: int | None, caller: Principal, route_rules: Rules, policy: FieldPolicy) -> str | None:
    """Return why a field may not be sent; None if it may.

    Args:
        name: One of `NAMES`.
        value: The number asked for, of a field with a cap.
        caller: Who sends it.
        route_rules: Those of the alias.
        policy: The settings'.
    """
    rule = rule_of(name, caller, route_rules, policy)
    if rule == ALLOW:
        return None
    if rule == DENY:
        return f"this key may not send it (its role is `{caller.role}`)"
    return f"it may be at most {rule:,}" if value is not None and value > int(rule) else None
