"""Builds parts of the node from the settings: rules for adapters, checkers of engines, and the fleet."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from adapters.checking import FingerprintChecker
from adapters.ports import Checker
from adapters.sources import Allowed
from adapters.unchecked import Unchecked
from adapters.verify import EngineLimits, FileLimits
from adapters.verify.signature import trust_of
from gateway.admin.adapters.intake import IntakeRules
from gateway.decide.route import Base
from gateway.observe.loads import LoadCounts
from gateway.real_path import real_path
from gateway.serve.adapter_host import VllmHost
from gateway.serve.fleet import Fleet, Stocking
from gateway.settings import Settings
from gateway.store.fingerprints import FingerprintStore

# How long an engine may hold a version that this gateway does not know. Another gateway that registers it copies, loads
# and checks it within a minute, on a slow disk within two.
STRANGER_SECONDS: Final = 300.0


def intake_rules(settings: Settings) -> IntakeRules:
    """Return the rules for adapters: where they may come from, their limits, and their signatures."""
    adapters = settings.adapters
    trust = None
    if adapters.trusted_keys or adapters.require_signed:
        trust = trust_of(adapters.trusted_keys, is_required=adapters.require_signed)
    Allowed(prefixes=adapters.sources)  # raises now for prefixes that could never match
    return IntakeRules(
        prefixes=adapters.sources,
        options=adapters.storage_options,
        limits=EngineLimits(
            max_lora_rank=settings.engine.max_lora_rank, files=FileLimits(largest_file_bytes=adapters.max_bytes)
        ),
        trust=trust,
    )


def stocking(settings: Settings) -> Stocking:
    """Return the settings by which engines are stocked with adapters."""
    base = settings.engine.base
    return Stocking(
        slots=settings.engine.max_cpu_loras,
        copies=settings.adapters.copies,
        probe_seconds=settings.adapters.probe_seconds,
        base_folder=real_path(base) if base else None,
        stranger_seconds=STRANGER_SECONDS if settings.store is not None else 0.0,
        base_name=settings.engine.served_name,
    )


def checker_maker(
    settings: Settings, records: FingerprintStore, counts: LoadCounts
) -> Callable[[str, VllmHost], Checker]:
    """Return a function that makes the checker of an engine, given its URL and host."""
    if not settings.adapters.fingerprints:
        return lambda *_: Unchecked()

    def make(url: str, host: VllmHost) -> Checker:
        return FingerprintChecker(
            host,
            url,
            base=lambda: host.model or None,
            records=records,
            at_once=settings.engine.max_loras,
            on_verdict=counts.of_engine(url).count_verdict,
        )

    return make


def fleet_of(
    settings: Settings, urls: Sequence[str], records: FingerprintStore, counts: LoadCounts, last_base: Base | None
) -> Fleet:
    """Return the fleet of the engines at `urls`; `last_base` is the base that was served before this start."""
    return Fleet(
        urls,
        last_base,
        stocking(settings),
        now=time.monotonic,
        make_checker=checker_maker(settings, records, counts),
        observer=counts.of_engine,
        access=settings.access,
    )
