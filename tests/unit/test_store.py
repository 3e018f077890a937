"""The store keeps what it is given, once and in order, and refuses what is no longer so."""

import asyncio
import json
import threading
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, text

from adapters.fingerprint import Fingerprint
from gateway.decide.exposure import RolloutTag
from gateway.records.state import Desired
from gateway.store import schema
from gateway.store.database import InvalidUrl, address_of
from gateway.store.errors import Fenced, StaleWrite
from gateway.store.fingerprints import FingerprintStore
from gateway.store.idempotency import IdempotencyKeys, KeyReused, StillRunning, StoredReply
from gateway.store.rollouts import RolloutRow, from_row, to_row
from gateway.store.sql import Store, open_store
from gateway.store.state_copy import read_copy, save_copy
from tests.support.state_records import entry, key, rollout, route


def test_an_empty_store_reads_as_an_empty_state(store: Store) -> None:
    assert store.read_state() == Desired()
    assert store.version() == 0
    assert store.verify_journal() is None


def test_a_state_is_read_as_it_was_written_with_its_order(store: Store) -> None:
    wanted = Desired(
        keys=(key(2), key(1)),
        adapters=(entry("b"), entry("a")),
        routes=(route("z"), route("a")),
        rollouts=(rollout(),),
    )
    written = store.write_state(wanted, expected=0)
    assert written == msgspec.structs.replace(wanted, version=1)
    assert store.read_state() == written


def test_order_survives_removing_moving_and_inserting(store: Store) -> None:
    desired = store.write_state(Desired(keys=tuple(key(each) for each in range(6))), expected=0)
    for order in ((3, 1, 2, 0), (0, 9, 1, 8, 2), (2, 7, 0), (), (5, 4)):
        wanted = msgspec.structs.replace(desired, keys=tuple(key(each) for each in order))
        desired = store.write_state(wanted, expected=desired.version)
        assert [record.id for record in store.read_state().keys] == [f"key-{each}" for each in order]


def test_a_change_made_from_an_old_version_is_refused_and_changes_nothing(store: Store) -> None:
    written = store.write_state(Desired(keys=(key(1),)), expected=0, journal=[{"what": "first"}])
    with pytest.raises(StaleWrite, match="at version 1, and the change was made from version 0"):
        store.write_state(Desired(keys=(key(2),)), expected=0, journal=[{"what": "second"}])
    assert store.read_state() == written
    assert [each.record for each in store.journal()] == [{"what": "first"}]


def test_of_concurrent_writers_one_wins_and_the_others_are_stale(store: Store) -> None:
    store.prepare()
    outcomes: list[str] = []
    together = threading.Barrier(6)

    def write(number: int) -> None:
        together.wait()
        try:
            store.write_state(Desired(keys=(key(number),)), expected=0, journal=[{"by": number}])
            outcomes.append(f"key-{number}")
        except StaleWrite:
            outcomes.append("stale")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["stale"] * 5
    assert [record.id for record in store.read_state().keys] == sorted(outcomes)[:1]
    assert len(store.journal()) == 1


def test_every_version_of_a_route_is_kept_with_who_and_why(store: Store) -> None:
    first, second = route("support", "v1"), route("support", "v2", candidate="v3", weight=100)
    other = route("legal")
    store.write_state(Desired(routes=(first, other)), expected=0, by="key-1", reason="begin")
    store.write_state(Desired(routes=(other, second)), expected=1, by="key-2", reason="\0 better")
    store.write_state(Desired(routes=(second,)), expected=2, by="key-2")
    store.write_state(Desired(routes=()), expected=3, reason="gone")
    store.write_state(Desired(routes=(first,)), expected=4)
    history = store.history("support")
    assert [(each.number, each.state, each.route) for each in history] == [
        (4, 5, first),
        (3, 4, None),
        (2, 2, second),
        (1, 1, first),
    ]
    assert [(each.by, each.reason) for each in history] == [
        ("", ""),
        ("", "gone"),
        ("key-2", "\0 better"),
        ("key-1", "begin"),
    ]
    assert {each.at for each in history} == {1_790_000_000}
    assert [each.number for each in store.history("support", before=3, limit=1)] == [2]
    assert [each.number for each in store.history("legal")] == [2, 1]
    assert store.history("nobody") == ()


def test_a_route_that_an_earlier_release_wrote_with_fewer_fields_gets_no_new_version_by_that(store: Store) -> None:
    written = store.write_state(Desired(routes=(route("a"),)), expected=0)
    record = {key: value for key, value in msgspec.to_builtins(route("a")).items() if key != "shadow"}
    change = text("UPDATE routes SET record = :record")
    store.run_write(lambda connection: connection.execute(change, {"record": json.dumps(record)}))
    store.write_state(msgspec.structs.replace(written, routes=(*store.read_state().routes, route("b"))), expected=1)
    assert [len(store.history(alias)) for alias in ("a", "b")] == [1, 1]


def test_a_closed_rollout_leaves_the_state_and_stays_in_the_history(store: Store) -> None:
    store.write_state(Desired(rollouts=(rollout("r1"), rollout("r2", "legal"))), expected=0)
    ended = Desired(rollouts=(rollout("r1", is_open=False, sequence=2), rollout("r2", "legal"), rollout("r3")))
    written = store.write_state(ended, expected=1)
    assert {each.id for each in written.rollouts} == {"r2", "r3"}
    assert store.read_state().rollouts == written.rollouts
    assert [each.id for each in store.rollouts("support")] == ["r3", "r1"]
    assert store.rollouts("support")[1] == rollout("r1", is_open=False, sequence=2)
    assert [each.id for each in store.rollouts(limit=1)] == ["r3"]


def written_rollout(store: Store) -> str:
    """Return the one rollout's row as it is in the database."""
    record: str = store.run_read(lambda connection: connection.execute(select(schema.rollouts.c.record)).scalar_one())
    return record


def test_what_a_later_release_wrote_of_a_rollout_outlives_other_changes_and_goes_with_its_next_step(
    store: Store,
) -> None:
    store.write_state(Desired(rollouts=(rollout(),)), expected=0)
    record = json.loads(written_rollout(store))
    record["body"]["mood"] = "hopeful"
    written = json.dumps(record)
    store.run_write(lambda connection: connection.execute(text("UPDATE rollouts SET record = :it"), {"it": written}))
    desired = store.read_state()
    assert desired.rollouts == (rollout(),)
    store.write_state(msgspec.structs.replace(desired, keys=(key(1),)), expected=1)
    assert written_rollout(store) == written
    store.write_state(desired.with_rollout(rollout(sequence=2)), expected=2)
    assert "mood" not in written_rollout(store)


def test_a_rollout_that_cannot_be_read_stays_as_it_was_written_and_is_counted_to(store: Store) -> None:
    body = {"state": {"stage": 3, "entered_at": 7, "plan": {"of": "a later release"}}, "threshold_seconds": 2}
    damaged = from_row(RolloutRow(id="r1", alias="support", is_open=True, body=body))
    assert damaged.tag() == RolloutTag(id="r1", stage=3, entered_at=7.0, threshold_seconds=2.0)
    assert (
        store.write_state(Desired(rollouts=(damaged,)), expected=0).rollouts
        == store.read_state().rollouts
        == (damaged,)
    )
    assert to_row(store.rollouts()[0]).body == body
    nothing = from_row(RolloutRow(id="r1", alias="support", is_open=True, body={"state": 3}))
    assert nothing.tag() is None


def test_a_route_has_one_open_rollout_at_most_and_it_cannot_be_left_out(store: Store) -> None:
    with pytest.raises(ValueError, match="more than one rollout is open"):
        store.write_state(Desired(rollouts=(rollout("r1"), rollout("r2"))), expected=0)
    store.write_state(Desired(rollouts=(rollout("r1"),)), expected=0)
    with pytest.raises(ValueError, match="`r1` is open; close it"):
        store.write_state(Desired(rollouts=(rollout("r2"),)), expected=1)
    assert store.version() == 1


def test_the_journal_is_chained_and_in_the_order_of_writing(store: Store) -> None:
    records: list[dict[str, object]] = [
        {"what": "α", "weight": 0.1, "n": [1, None]},
        {"what": "two"},
        {"what": "three"},
    ]
    store.write_state(Desired(), expected=0, journal=records[:2])
    store.append(records[2:])
    assert store.version() == 1
    entries = store.journal()
    assert [each.number for each in entries] == [1, 2, 3]
    assert [each.record for each in entries] == records
    assert store.journal(after=1, limit=1) == entries[1:2]
    head = store.journal_head()
    assert head is not None
    assert (head.number, head.hash) == (3, entries[2].hash)
    assert store.verify_journal() is None


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        ("UPDATE journal SET record = replace(record, 'two', 'TWO') WHERE number = 2", "entry 2 was changed"),
        ("UPDATE journal SET record = 'no json' WHERE number = 2", "entry 2 was changed"),
        ("UPDATE journal SET record = replace(record, '{', '{ ') WHERE number = 2", "entry 2 was changed"),
        ("UPDATE journal SET record = replace(record, '{', '{\"what\"\\:1,') WHERE number = 2", "entry 2 was changed"),
        (f"UPDATE journal SET record = '{'[' * 100_000}' WHERE number = 2", "entry 2 was changed"),
        ("DELETE FROM journal WHERE number = 2", "entry 2 is missing"),
        ("DELETE FROM journal WHERE number = 3", "entry 3 is missing"),
        ("DELETE FROM journal", "entry 1 is missing"),
        ("UPDATE journal SET number = -number; UPDATE journal SET number = 4 + number", "entry 1 was changed"),
        ("INSERT INTO journal SELECT 4, hash, hash, record FROM journal WHERE number = 3", "entry 4 was put in"),
        ("INSERT INTO journal SELECT 0, hash, hash, record FROM journal WHERE number = 3", "entry 0 was put in"),
    ],
    ids=range(11),
)
def test_tampering_with_the_journal_is_found(store: Store, tampering: str, found: str) -> None:
    store.write_state(Desired(), expected=0, journal=[{"what": "one"}, {"what": "two"}, {"what": "three"}])
    for statement in tampering.split("; "):
        store.run_write(lambda connection, each=statement: connection.execute(text(each)))  # type: ignore[misc]
    broken = store.verify_journal()
    assert broken is not None
    assert broken.reason.startswith(found)


@pytest.mark.parametrize(
    "tampering",
    [
        "INSERT INTO journal SELECT 3, hash, 'x', record FROM journal WHERE number = 2",
        "UPDATE state SET journal_number = 1, journal_hash = (SELECT hash FROM journal WHERE number = 1)",
        "UPDATE state SET journal_number = 0",
    ],
)
def test_a_journal_that_was_tampered_with_stops_no_change_and_stays_broken(store: Store, tampering: str) -> None:
    store.write_state(Desired(), expected=0, journal=[{"what": "one"}, {"what": "two"}])
    store.run_write(lambda connection: connection.execute(text(tampering)))
    store.write_state(Desired(), expected=1, journal=[{"what": "a rollback"}])
    assert store.journal(newest=True, limit=1)[0].record == {"what": "a rollback"}
    assert store.verify_journal() is not None


def test_a_leader_that_was_overtaken_cannot_write(store: Store) -> None:
    store.prepare()
    store.run_write(lambda connection: connection.execute(text("UPDATE state SET fence = 2")))
    store.write_state(Desired(), expected=0, fence=2)
    with pytest.raises(Fenced, match="leader 2 has taken over from leader 1"):
        store.write_state(Desired(), expected=1, fence=1)
    with pytest.raises(Fenced):
        store.append([{"what": "late"}], fence=1)
    with pytest.raises(StaleWrite):
        store.write_state(Desired(), expected=0, fence=2)
    assert store.write_state(Desired(), expected=1).version == 2  # an operator needs no fence
    assert store.journal() == ()


def test_a_record_that_is_no_json_is_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.write_state(Desired(keys=(key(1),)), expected=0, journal=[{"rate": float("nan")}])
    assert store.read_state() == Desired()


def test_a_repeated_request_gets_the_first_answer(store: Store) -> None:
    keys = IdempotencyKeys(store)
    assert keys.claim("key-1/abc", "digest") is None
    with pytest.raises(StillRunning):
        keys.claim("key-1/abc", "digest")
    keys.settle("key-1/abc", StoredReply(status=201, body='{"id": 1}'))
    assert keys.claim("key-1/abc", "digest") == StoredReply(status=201, body='{"id": 1}')
    with pytest.raises(KeyReused):
        keys.claim("key-1/abc", "another digest")
    assert keys.claim("key-2/abc", "digest") is None


def test_a_request_that_failed_or_died_may_be_tried_again(where: str) -> None:
    clock = [1000.0]
    store = open_store(where, now=lambda: clock[0])
    keys = IdempotencyKeys(store)
    assert keys.claim("a", "x") is None
    keys.release("a")
    assert keys.claim("a", "x") is None
    clock[0] += 301
    assert keys.claim("a", "x") is None
    keys.settle("a", StoredReply(status=200, body="{}"))
    clock[0] += 86_401
    assert keys.claim("a", "x") is None
    store.close()


def test_one_of_two_simultaneous_requests_is_carried_out(store: Store) -> None:
    keys = IdempotencyKeys(store)
    outcomes: list[object] = []
    together = threading.Barrier(4)

    def claim() -> None:
        together.wait()
        try:
            outcomes.append(keys.claim("a", "x"))
        except StillRunning:
            outcomes.append("running")

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["None", "running", "running", "running"]


def made(number: float) -> Fingerprint:
    return Fingerprint(probes_version=1, engine="vllm", tokens=(((1, -number), (2, -3.5)),))


def test_fingerprints_are_kept_oldest_first_and_go_with_their_version(where: str, store: Store) -> None:
    async def story() -> None:
        records = FingerprintStore(store)
        records.load()
        await records.keep("a@1", "http://one", made(1))
        await records.keep("a@1", "http://two", made(2))
        await records.keep("a@1", "http://one", made(3))
        await records.keep("b@1", "http://one", made(4))
        await records.forget("b@1", "http://one")
        await records.forget("b@1", "nobody")

    asyncio.run(story())
    again = FingerprintStore(store)
    again.load()
    assert dict(again.of("a@1")) == {"http://one": made(3), "http://two": made(2)}
    assert list(again.of("a@1")) == ["http://one", "http://two"]
    assert again.of("b@1") == {}
    again.sweep({})
    third = FingerprintStore(store)
    third.load()
    assert third.of("a@1") == {}


def test_removing_a_version_removes_its_fingerprints_in_the_same_change(store: Store) -> None:
    records = FingerprintStore(store)
    kept, gone = entry("a"), entry("b")
    for each in (kept, gone):
        asyncio.run(records.keep(each.ref.version, "http://one", made(1)))
    desired = store.write_state(Desired(adapters=(kept, gone)), expected=0)
    store.write_state(desired.without({gone.ref.version}), expected=1)
    again = FingerprintStore(store)
    again.load()
    assert set(again.of(kept.ref.version)) == {"http://one"}
    assert again.of(gone.ref.version) == {}


def test_fingerprints_that_cannot_be_stored_are_known_and_stored_later(tmp_path: Path) -> None:
    folder = tmp_path / "away"
    folder.write_text("a file where the folder should be")
    store = open_store(folder, now=lambda: 0.0, seconds=1)
    records = FingerprintStore(store)
    asyncio.run(records.keep("a@1", "http://one", made(1)))
    assert dict(records.of("a@1")) == {"http://one": made(1)}
    folder.unlink()
    asyncio.run(records.refresh())
    again = FingerprintStore(store)
    again.load()
    assert dict(again.of("a@1")) == {"http://one": made(1)}


def test_the_copy_on_disk_is_what_was_saved_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert read_copy(tmp_path) is None
    desired = Desired(version=3, keys=(key(1),), adapters=(entry("a"),), rollouts=(rollout(),))
    save_copy(tmp_path, desired)
    assert read_copy(tmp_path) == desired
    (tmp_path / "desired.json").write_text(json.dumps({"version": "three"}))
    assert read_copy(tmp_path) is None


@pytest.mark.parametrize("where", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_an_address_that_is_no_store_is_refused_without_its_password(where: str) -> None:
    with pytest.raises(InvalidUrl, match="expected") as refusal:
        address_of(where)
    assert "secret" not in str(refusal.value)
