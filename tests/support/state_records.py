"""Records of the state, as tests write them."""

from adapters.catalog import Entry
from adapters.lifecycle import State
from adapters.manifest import Manifest
from adapters.reference import AdapterRef
from gateway.decide.authenticate import Role
from gateway.records.routes import RouteRecord
from gateway.records.state import KeyRecord
from gateway.rollout.plan_parser import parse_plan
from gateway.rollout.record import Last, RolloutRecord
from gateway.rollout.rollout import Phase, Rollout


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


def rollout(
    id_: str = "r1", alias: str = "support", *, is_open: bool = True, stage: int = 1, sequence: int = 1
) -> RolloutRecord:
    """Return a rollout's record, in a stage or aborted."""
    return RolloutRecord(
        rollout=Rollout(
            id=id_,
            alias=alias,
            control="v1",
            candidate="v2",
            plan=parse_plan("5 % → 100 %"),
            home="v1",
            phase=Phase.CANARY if is_open else Phase.ABORTED,
            stage=stage,
            sequence=sequence,
        ),
        by="key-1",
        reason="a better tone",
        started_at=1.0,
        last=Last(at=1.0, by="key-1", event="Started"),
    )
