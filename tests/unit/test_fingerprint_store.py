"""Fingerprints on disk: what several engines write at once is kept, what was dropped does not come back."""

import asyncio
from pathlib import Path

from adapters.fingerprint import Fingerprint
from gateway.store.fingerprints import FOLDER, FingerprintStore

VERSION = "legal@0123456789ab"
FOUND = Fingerprint(probes_version=1, engine="vllm-1", tokens=(((1, -0.5), (2, -1.25)),))
ENGINES = [f"http://engine-{number}" for number in range(20)]


def test_what_many_engines_keep_at_once_is_read_again_in_their_order(tmp_path: Path) -> None:
    async def keep_all(store: FingerprintStore) -> None:
        await asyncio.gather(*(store.keep(VERSION, engine, FOUND) for engine in ENGINES))

    asyncio.run(keep_all(FingerprintStore(tmp_path)))
    known = FingerprintStore(tmp_path).of(VERSION)
    assert list(known) == ENGINES
    assert set(known.values()) == {FOUND}


def test_a_version_that_is_dropped_while_it_is_written_does_not_come_back(tmp_path: Path) -> None:
    async def keep_and_drop(store: FingerprintStore) -> None:
        keeping = asyncio.ensure_future(store.keep(VERSION, ENGINES[0], FOUND))
        await asyncio.sleep(0)
        store.drop(VERSION)
        await keeping

    for _ in range(20):
        asyncio.run(keep_and_drop(FingerprintStore(tmp_path)))
        assert list((tmp_path / FOLDER).glob("*")) == []


def test_a_sweep_leaves_registered_versions_and_bases(tmp_path: Path) -> None:
    store = FingerprintStore(tmp_path)
    for subject in (VERSION, "gone@0123456789ab", "base-0123456789ab"):
        asyncio.run(store.keep(subject, ENGINES[0], FOUND))
    store.sweep({VERSION: None})
    assert sorted(path.stem for path in (tmp_path / FOLDER).glob("*")) == ["base-0123456789ab", VERSION]


def test_forgetting_one_engine_keeps_the_others(tmp_path: Path) -> None:
    store = FingerprintStore(tmp_path)
    for engine in ENGINES[:2]:
        asyncio.run(store.keep(VERSION, engine, FOUND))
    for engine in (ENGINES[0], ENGINES[0], "http://unknown"):
        asyncio.run(store.forget(VERSION, engine))
    assert list(FingerprintStore(tmp_path).of(VERSION)) == [ENGINES[1]]


def test_a_file_that_cannot_be_read_is_no_record(tmp_path: Path) -> None:
    store = FingerprintStore(tmp_path)
    asyncio.run(store.keep(VERSION, ENGINES[0], FOUND))
    (tmp_path / FOLDER / f"{VERSION}.json").write_bytes(b"{")
    assert FingerprintStore(tmp_path).of(VERSION) == {}
