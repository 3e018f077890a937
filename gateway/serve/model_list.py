"""Parses an engine's `/v1/models`: its base with all its names, and its adapters. Pure.

An engine may answer anything: what is no list of models raises ValueError and nothing else. Names end up in headers,
logs and the route table, so a name that is not printable text is refused.
"""

import json
from typing import Any, Final, NamedTuple

from gateway.decide.route import Base

MAX_NAME: Final = 512
# Larger numbers are no valid times or lengths, and would not fit into the route table.
_MOST: Final = 2**31


class Models(NamedTuple):
    """An engine's base, None if it lists none, and the names of its adapters."""

    base: Base | None
    adapters: frozenset[str]


def read_models(body: bytes) -> Models:
    """Return the base and the adapters in a list of models.

    vLLM lists a card without a parent for each name of the base, and then the adapters, with one.

    Raises:
        ValueError: The body is no such list; the message says why in a few words.
    """
    cards = _cards(body)
    own = [card for card in cards if not card.get("parent")]
    adapters = frozenset(card["id"] for card in cards if card.get("parent"))
    if not own:
        return Models(None, adapters)
    first = own[0]
    root = first.get("root")
    base = Base(
        name=first["id"],
        created=_count(first.get("created")) or 0,
        max_model_len=_count(first.get("max_model_len")),
        names=tuple(dict.fromkeys(card["id"] for card in own)),
        root=root if isinstance(root, str) and _is_text(root) else "",
    )
    return Models(base, adapters)


def _cards(body: bytes) -> list[dict[str, Any]]:
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    cards = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise ValueError("it is not a list of models")
    if not all(isinstance(card.get("id"), str) and card["id"] and _is_text(card["id"]) for card in cards):
        raise ValueError("it lists a model without a usable name")
    return cards


def _is_text(name: str) -> bool:
    return len(name) <= MAX_NAME and name.isprintable()


def _count(value: object) -> int | None:
    """Return a positive integer, or None for any other value: other engines than vLLM write floats, strings or null."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST
    return value if is_count and isinstance(value, int) else None
