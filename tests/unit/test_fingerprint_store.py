"""Fingerprints in the store: what several engines write at once is kept, bases outlast a sweep."""

import asyncio

from adapters.fingerprint import Fingerprint
from gateway.store.fingerprints import FingerprintStore
from gateway.store.sql import Store

VERSION = "legal@0123456789ab"
FOUND = Fingerprint(probes_version=1, engine="vllm-1", tokens=(((1, -0.5), (2, -1.25)),))
ENGINES = [f"http://engine-{number}" for number in range(20)]


def stored(store: Store) -> FingerprintStore:
    """Return what another gateway would read."""
    records = FingerprintStore(store)
    records.load()
    return records


def test_what_many_engines_keep_at_once_is_read_again_in_their_order(store: Store) -> None:
    async def keep_all(records: FingerprintStore) -> None:
        await asyncio.gather(*(records.keep(VERSION, engine, FOUND) for engine in ENGINES))

    asyncio.run(keep_all(FingerprintStore(store)))
    known = stored(store).of(VERSION)
    assert list(known) == ENGINES
    assert set(known.values()) == {FOUND}


def test_a_version_that_is_dropped_while_it_is_written_does_not_stay_in_the_store(store: Store) -> None:
    records = FingerprintStore(store)

    async def keep_and_drop() -> None:
        keeping = asyncio.ensure_future(records.keep(VERSION, ENGINES[0], FOUND))
        for _ in range(3):
            await asyncio.sleep(0)
        records.drop(VERSION)
        await keeping
        await records.refresh()

    for _ in range(10):
        asyncio.run(keep_and_drop())
        assert stored(store).of(VERSION) == {}


def test_a_sweep_leaves_registered_versions_and_bases(store: Store) -> None:
    records = FingerprintStore(store)
    for subject in (VERSION, "gone@0123456789ab", "base-0123456789ab"):
        asyncio.run(records.keep(subject, ENGINES[0], FOUND))
    records.sweep({VERSION: None})
    again = stored(store)
    assert again.of(VERSION)
    assert again.of("base-0123456789ab")
    assert again.of("gone@0123456789ab") == {}


def test_forgetting_one_engine_keeps_the_others(store: Store) -> None:
    records = FingerprintStore(store)
    for engine in ENGINES[:2]:
        asyncio.run(records.keep(VERSION, engine, FOUND))
    for engine in (ENGINES[0], ENGINES[0], "http://unknown"):
        asyncio.run(records.forget(VERSION, engine))
    assert list(stored(store).of(VERSION)) == [ENGINES[1]]
