"""`/v1/models`: the base and the aliases, in vLLM's form.

An alias is listed with its control version as `root` and the base as `parent`.
"""

from typing import Any

import msgspec

from gateway.decide.authenticate import Principal
from gateway.decide.route import Base, Route, RouteTable, find_target, usable_models


def list_models(table: RouteTable, caller: Principal) -> bytes:
    """Return the models that `caller` may use, as a JSON list in OpenAI's form."""
    cards = [_card(table, name) for name in usable_models(table, caller)]
    return msgspec.json.encode({"object": "list", "data": cards})


def show_model(table: RouteTable, caller: Principal, name: str) -> bytes:
    """Return one model as JSON.

    Raises:
        ModelNotFound, Forbidden: As for a request to it.
    """
    target = find_target(table, name, caller)
    card = _card(table, target.alias)
    if "@" in name:
        card = {**card, "id": target.split.control, "root": target.split.control}
    return msgspec.json.encode(card)


def _card(table: RouteTable, name: str) -> dict[str, Any]:
    base = table.base
    if base is not None and name not in table.routes and base.is_called(name):
        return _base_card(base, name)
    return _adapter_card(name, table.routes.get(name), base)


def _base_card(base: Base, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": base.created,
        "owned_by": "loragate",
        "root": base.name,
        "parent": None,
        "max_model_len": base.max_model_len,
    }


def _adapter_card(name: str, route: Route | None, base: Base | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": route.created if route else 0,
        "owned_by": "loragate",
        "root": route.split.control if route else name,
        "parent": base.name if base else None,
        "max_model_len": base.max_model_len if base else None,
    }
