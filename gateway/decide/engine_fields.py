"""The policy for engine fields: which fields of a request's body a caller may send to engines, and up to which numbers.

Denied by default are fields that let a caller overtake others, reach other hosts, run code, or change what is shared.
Fields that are not listed here pass. docs/security.md gives each field's reason.

The first of these that has a rule for a field decides: the key, the route, the role (`operator` and `admin` may send
everything), the settings, then the defaults in this module.
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
# Denied by default. The last three are found inside messages.
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
# The largest numbers that pass by default. `max_tokens` also bounds `max_completion_tokens` and `max_output_tokens`;
# `choices` are the prompts of one completion times `n`, `inputs` those of one embeddings request (the cap is OpenAI's).
CAPS: Final[Mapping[str, int]] = MappingProxyType(
    {"n": 16, "best_of": 16, "choices": 128, "inputs": 2048, "max_tokens": 131_072}
)
NAMES: Final = (*DENIED, *CAPS)
NO_RULES: Final[Rules] = MappingProxyType({})
MAX_OF_A_FIELD: Final = 2**31


def check_rules(rules: Rules) -> None:
    """Check that each rule names a known field and has a value that the field takes.

    Raises:
        ValueError: A rule is invalid; the message says which, and what is allowed.
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
    """The policy for engine fields in the settings.

    Attributes:
        rules: By field; for keys and routes that have no rule of their own for it.
        dry_run: Refuse nothing; only count what would be refused.
    """

    # By field: `allow`, `deny`, or the largest number that may pass; overrides the defaults in docs/security.md.
    rules: dict[str, str | int] = field(default_factory=dict)
    # Refuse nothing, only count what would be refused (`loragate_engine_fields_refused_total`).
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_rules(self.rules)


def rule_of(name: str, caller: Principal, route_rules: Rules, policy: FieldPolicy) -> Rule:
    """Return the rule that applies to a field: `allow`, `deny`, or the largest number that may pass."""
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
        value: The number in the request, for a field with a cap.
        caller: The caller who sends the field.
        route_rules: The rules of the alias's route.
        policy: The policy of the settings.
    """
    rule = rule_of(name, caller, route_rules, policy)
    if rule == ALLOW:
        return None
    if rule == DENY:
        return f"this key may not send it (its role is `{caller.role}`)"
    return f"it may be at most {rule:,}" if value is not None and value > int(rule) else None
