"""Operations on keys: create, rotate and revoke. Each is one change of the state."""

from collections.abc import Callable, Sequence

from gateway.admin.state import LiveState, retry_overtaken
from gateway.decide.authenticate import Role
from gateway.decide.engine_fields import NO_RULES, Rules
from gateway.errors import BadRequest
from gateway.records.state import Desired, KeyRecord
from gateway.store import keys

Made = tuple[Desired, KeyRecord, str]


class KeyOperations:
    """Operations on keys.

    Args:
        state: The live state that they change.
    """

    def __init__(self, state: LiveState) -> None:
        self._state = state

    async def create(
        self,
        role: Role,
        name: str,
        models: Sequence[str] | None,
        *,
        lifetime_seconds: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        engine_fields: Rules = NO_RULES,
        by: str = "",
    ) -> tuple[KeyRecord, str]:
        """Make a key; return its record and the key itself, which is stored nowhere."""

        def make(desired: Desired, now: float) -> Made:
            return keys.create_key(
                desired,
                role,
                now,
                name,
                models,
                expires=None if lifetime_seconds is None else int(now) + lifetime_seconds,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                engine_fields=engine_fields,
            )

        return await self._make(make, by)

    async def rotate(self, key_id: str, overlap_seconds: int, by: str = "") -> tuple[KeyRecord, str]:
        """Replace a key by a new one; the old key stays valid for the overlap. Return the new record and key.

        Raises:
            UnknownKey: There is no key with this id.
            KeyOutOfUse: The key has expired or was rotated before.
        """
        return await self._make(lambda desired, now: keys.rotate_key(desired, key_id, now, overlap_seconds), by)

    async def revoke(self, key_id: str, by: str = "") -> None:
        """Revoke a key; the next request with it is refused.

        Raises:
            UnknownKey: There is no key with this id.
        """
        state = self._state

        async def work() -> None:
            await state.change(keys.revoke_key(state.desired, key_id), by=by, reason=f"key {key_id} revoked")

        async with state.turn:
            await retry_overtaken(work)

    async def _make(self, make: Callable[[Desired, float], Made], by: str) -> tuple[KeyRecord, str]:
        state = self._state

        async def work() -> tuple[KeyRecord, str]:
            try:
                desired, record, key = make(state.desired, state.now())
            except ValueError as error:
                raise BadRequest(f"{error}.") from None
            await state.change(desired, by=by, reason=f"key {record.id} made")
            return record, key

        async with state.turn:
            return await retry_overtaken(work)
