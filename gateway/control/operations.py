"""What an operator can do, beside the adapters: splits and keys, each as one whole change."""

from typing import Any

import msgspec

from adapters.catalog import UnknownVersion
from adapters.lifecycle import State
from gateway.control.adapters import AdapterOperations
from gateway.control.state import Conflict, LiveState
from gateway.decide.authenticate import Role
from gateway.store import keys
from gateway.store.desired import KeyRecord, RouteRecord


class Operations:
    """Everything that the admin API offers.

    Args:
        state: The state it works on.
        adapters: The part that registers, removes and fuses.
    """

    def __init__(self, state: LiveState, adapters: AdapterOperations) -> None:
        self.state = state
        self.adapters = adapters

    def standing(self, version: str) -> list[dict[str, Any]]:
        """Return what each engine makes of a version."""
        return self.state.engines.standing(version)

    async def split(self, alias: str, candidate: str | None, weight: int) -> RouteRecord:
        """Send `weight` basis points of an alias's units to a candidate version; none without one.

        Raises:
            UnknownVersion: The alias or the candidate is not registered.
            Conflict: The weight is out of range, or the candidate is not ready.
        """
        state = self.state
        async with state.turn:
            route = state.desired.route(alias)
            if route is None:
                raise UnknownVersion(f"no alias `{alias}`; `loragate routes ls` lists them")
            if not 0 <= weight <= 10_000:
                raise Conflict(f"weight `{weight}` is not in 0..10000 basis points")
            if candidate is None:
                moved = msgspec.structs.replace(route, candidate=None, weight=0)
            else:
                entry = state.find(candidate)
                if entry.state is not State.READY:
                    raise Conflict(
                        f"`{entry.ref.version}` is {entry.state}, so it cannot be a candidate: {entry.reason}"
                    )
                moved = msgspec.structs.replace(route, candidate=entry.ref.version, weight=weight)
            await state.change(state.desired.with_route(moved))
            return moved

    async def create_key(self, role: Role, name: str, models: list[str] | None) -> tuple[KeyRecord, str]:
        """Make a key; returns its record and, this once, the key."""
        state = self.state
        async with state.turn:
            desired, record, key = keys.create_key(state.desired, role, state.now(), name, models)
            await state.change(desired)
            return record, key

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; the next request with it is refused.

        Raises:
            UnknownKey: There is none with this id.
        """
        async with self.state.turn:
            await self.state.change(keys.revoke_key(self.state.desired, key_id))
