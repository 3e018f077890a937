"""The schema: made from nothing, migrated, refused when it is too new; and what earlier releases kept is taken in."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, inspect, text

from gateway.store import schema
from gateway.store.database import Database, address_of
from gateway.store.desired import Desired, DesiredStore
from gateway.store.errors import StoreTooNew, StoreUnreadable
from gateway.store.fingerprints import FingerprintStore
from gateway.store.migrate import bring_up, revision_of
from gateway.store.moving import take_in
from gateway.store.sql import Store, open_store
from tests.unit.test_store import entry, key, made, rollout, route


def new_store(where: str | Path) -> Store:
    return open_store(where, now=time.time)


def test_the_migrations_make_the_very_tables_that_the_code_uses(where: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(address_of(where), 10)
    database.write(lambda connection: bring_up(connection, schema.REVISIONS[0]))
    database.write(bring_up)

    def compare(connection: object) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": schema.REVISION_TABLE})  # type: ignore[arg-type]
        return list(compare_metadata(context, schema.metadata))

    assert database.read(compare) == []
    database.dispose()


def _told(index: Any) -> str:
    options = {name: str(value) for name, value in index.get("dialect_options", {}).items()}
    return f"{index['name']} {index['column_names']} {bool(index['unique'])} {options}"


def test_a_store_that_is_made_at_once_is_one_that_was_migrated_from_the_first_release(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(connection: Connection) -> dict[str, Any]:
        found = inspect(connection)
        tables = {*schema.metadata.tables, schema.REVISION_TABLE}
        assert set(found.get_table_names()) == tables
        return {
            name: (
                [each | {"type": str(each["type"])} for each in found.get_columns(name)],
                found.get_pk_constraint(name),
                found.get_unique_constraints(name),
                sorted(_told(each) for each in found.get_indexes(name)),
                sorted(tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}"))),
            )
            for name in tables
        }

    def empty(connection: Connection) -> None:
        schema.metadata.drop_all(connection)
        schema.revision.drop(connection)

    database = Database(address_of(where), 10)
    database.write(lambda connection: bring_up(connection, schema.REVISIONS[0]))
    database.write(bring_up)
    migrated = database.read(described)
    database.write(empty)
    monkeypatch.setitem(sys.modules, "alembic", None)  # a new store does without, so the first start does not wait
    database.write(bring_up)
    assert database.read(described) == migrated
    database.dispose()


def test_a_store_of_the_previous_release_is_migrated_with_all_that_is_in_it(where: str) -> None:
    database = Database(address_of(where), 10)
    database.write(lambda connection: bring_up(connection, schema.REVISIONS[-2]))
    record = msgspec.json.encode(key(1)).decode()
    insert = text("INSERT INTO keys (id, digest, position, record) VALUES ('key-1', :digest, 1, :record)")
    database.write(lambda connection: connection.execute(insert, {"digest": key(1).digest, "record": record}))
    database.write(lambda connection: connection.execute(text("UPDATE state SET version = 8")))
    store = new_store(where)
    assert store.read() == Desired(version=8, keys=(key(1),))
    assert store.write(Desired(rollouts=(rollout(1),)), expected=8, journal=[{"what": "new"}]).version == 9
    assert database.read(revision_of) == schema.HEAD
    database.dispose()
    store.close()


def test_of_several_that_start_on_an_empty_database_one_makes_the_tables(where: str) -> None:
    stores = [new_store(where) for _ in range(4)]
    errors: list[BaseException] = []

    def read(store: Store) -> None:
        try:
            assert store.read() == Desired()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            errors.append(error)

    threads = [threading.Thread(target=read, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for store in stores:
        store.close()


def test_a_store_of_a_later_release_is_refused(where: str) -> None:
    running, store = new_store(where), new_store(where)
    running.write(Desired(keys=(key(1),)), expected=0)
    running.writing(lambda connection: connection.execute(text("UPDATE loragate_schema SET version_num = '9999'")))
    for use in (store.read, running.read, lambda: running.write(Desired(), expected=1)):
        with pytest.raises(StoreTooNew, match="schema `9999`, and this release knows"):
            use()
    for each in (running, store):
        each.close()


def test_a_record_with_a_field_that_only_a_later_release_knows_is_not_guessed_at(store: Store) -> None:
    store.write(Desired(routes=(route("support"),)), expected=0)
    record = '{"alias":"support","control":"v1","salt":"s","wings":2}'
    later = text("UPDATE routes SET record = :record")
    store.writing(lambda connection: connection.execute(later, {"record": record}))
    with pytest.raises(StoreUnreadable, match=r"`wings`.*run the release that wrote it"):
        store.read()


def old_folder(folder: Path) -> Desired:
    """A state folder as an earlier release left it."""
    desired = Desired(version=41, keys=(key(1), key(2)), adapters=(entry("a"),), routes=(route("a"),))
    content = json.loads(msgspec.json.encode(desired))
    del content["rollouts"]
    (folder / "state.json").write_text(json.dumps(content))
    (folder / "fingerprints").mkdir()
    version = entry("a").ref.version
    (folder / "fingerprints" / f"{version}.json").write_bytes(
        msgspec.json.encode({"http://b": made(1), "http://a": made(2)})
    )
    (folder / "fingerprints" / "damaged@1.json").write_text("{")
    return desired


def test_what_an_earlier_release_kept_is_taken_in_once(where: str, store: Store, tmp_path: Path) -> None:
    desired = old_folder(tmp_path)
    assert take_in(store, tmp_path)
    assert store.read() == desired
    assert [(each.number, each.state, each.route) for each in store.history("a")] == [(1, 41, route("a"))]
    records = FingerprintStore(store)
    records.load()
    assert list(records.of(entry("a").ref.version).items()) == [("http://b", made(1)), ("http://a", made(2))]
    assert not (tmp_path / "state.json").exists()
    assert not (tmp_path / "fingerprints").exists()
    assert (tmp_path / "state.json.moved").exists()
    assert not take_in(store, tmp_path)
    assert store.read() == desired


def test_a_crash_before_the_file_is_renamed_takes_nothing_in_twice(store: Store, tmp_path: Path) -> None:
    desired = old_folder(tmp_path)
    take_in(store, tmp_path)
    store.write(msgspec.structs.replace(desired, keys=()), expected=41)
    (tmp_path / "state.json.moved").rename(tmp_path / "state.json")
    assert take_in(store, tmp_path)
    assert store.read().keys == ()
    assert not (tmp_path / "state.json").exists()


def test_an_old_file_beside_a_store_that_has_another_state_is_refused(store: Store, tmp_path: Path) -> None:
    old_folder(tmp_path)
    written = store.write(Desired(keys=(key(7),)), expected=0)
    with pytest.raises(StoreUnreadable, match="move the one away that is not wanted"):
        take_in(store, tmp_path)
    assert store.read() == written
    assert (tmp_path / "state.json").exists()


def test_a_damaged_old_file_is_told_and_left(store: Store, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(StoreUnreadable, match=r"state\.json"):
        take_in(store, tmp_path)
    assert store.version() == 0
    assert (tmp_path / "state.json").exists()


def test_a_file_that_is_no_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("hello" * 1000)
    with pytest.raises(StoreUnreadable, match="restore it from a backup"):
        new_store(tmp_path).read()


def test_a_folder_means_sqlite_in_it_readable_by_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    store = new_store(folder)
    store.write(Desired(), expected=0)
    assert {path.name for path in folder.iterdir()} >= {"state.db", "state.db-wal"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(folder / "state.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()
    store.close()


def test_the_state_file_of_earlier_releases_reads_as_before(tmp_path: Path) -> None:
    desired = old_folder(tmp_path)
    assert DesiredStore(tmp_path).read() == desired


def test_workers_never_import_the_database_and_alembic_is_imported_only_to_migrate(tmp_path: Path) -> None:
    new_store(tmp_path).prepare()
    program = (
        "import sys; import gateway.workers.worker, gateway.app;"
        "assert not {'sqlalchemy', 'psycopg', 'alembic'} & set(sys.modules), 'in a worker';"
        "from pathlib import Path; from gateway.store.sql import open_store;"
        "open_store(Path(sys.argv[1]), now=lambda: 0.0).read();"
        "assert not {'psycopg', 'alembic'} & set(sys.modules), 'at the start'"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
