"""Registered versions and a route of theirs."""

from dataclasses import replace
from typing import Any

import msgspec

from adapters.catalog import Entry
from adapters.lifecycle import State
from adapters.manifest import Manifest
from adapters.reference import AdapterRef
from gateway.records.routes import RouteRecord
from gateway.records.state import Desired


def entry(name: str, digit: str, *, state: State = State.READY, base: str = "tiny") -> Entry:
    digest = digit * 64
    manifest = Manifest(
        digest=digest, base=base, rank=8, alpha=16.0, target_modules=("q_proj",), size_bytes=10, tensors=2
    )
    return Entry(
        ref=AdapterRef(name, digest),
        manifest=manifest,
        folder=f"/copies/{digit}",
        source="/src",
        created=7,
        state=state,
    )


A, B, C = (f"support@{digit * 12}" for digit in "abc")


LEGAL = "legal@" + "d" * 12


ENTRIES = (
    *(entry("support", digit) for digit in "abc"),
    entry("legal", "d"),
    replace(entry("support", "f", state=State.FAILED), reason="split brain"),
    entry("support", "9", base="large"),
)


SUPPORT = RouteRecord(alias="support", control=A, salt="salt", created=5)


STATE = Desired(
    version=17, adapters=ENTRIES, routes=(SUPPORT, RouteRecord(alias="legal", control=LEGAL, salt="l", created=6))
)


def state(**fields: Any) -> Desired:
    return STATE.with_route(msgspec.structs.replace(SUPPORT, **fields))
