"""Workers and engines of a live state, in memory."""

from typing import Any

from adapters.catalog import Entry
from gateway.decide.route import Base, EngineState
from gateway.observe.ledger import Cell


class Workers:
    """Two that follow at once."""

    async def publish(self, table: bytes) -> bool:
        return True

    def publish_engines(self, engines: tuple[EngineState, ...]) -> None: ...

    async def collect(self) -> list[Cell]:
        return []


class Engines:
    """None."""

    def views(self) -> tuple[EngineState, ...]:
        return ()

    def base(self) -> Base | None:
        return Base(name="base")

    async def bring(self, entry: Entry) -> None: ...

    async def remove(self, version: str) -> None: ...

    def standing(self, version: str) -> list[dict[str, Any]]:
        return []
