"""Records of the state, as tests write them."""

from adapters.catalog import Entry
from adapters.lifecycle import State
from adapters.manifest import Manifest
from adapters.reference import AdapterRef
from gateway.decide.authenticate import Role
from gateway.records.state import KeyRecord, RolloutRow, RouteRecord


def key(number: int) -> KeyRecord:
    return KeyRecord(id=f"key-{number}", digest=f"{number:064x}", role=Role.APP, name=f"nummer {number} ✓\0")


def entry(name: str, digit: str = "a") -> Entry:
    digest = digit * 64
    manifest = Manifest(
        digest=digest, base="tiny", rank=8, alpha=16.0, target_modules=("q_proj",), size_bytes=10, tensors=2
    )
    return Entry(
        ref=AdapterRef(name, digest),
        manifest=manifest,
        folder=f"/copies/{digit}",
        source="/src",
        created=7,
        state=State.READY,
    )


def route(alias: str, control: str = "v1", **more: object) -> RouteRecord:
    return RouteRecord(alias=alias, control=control, salt="s", **more)  # type: ignore[arg-type]


def rollout(number: int, alias: str = "support", *, is_open: bool = True, **body: object) -> RolloutRow:
    return RolloutRow(id=f"r{number}", alias=alias, is_open=is_open, body=body)
