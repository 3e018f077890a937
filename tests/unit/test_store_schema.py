"""The schema: made from nothing, migrated, and refused when it is too new."""

import shutil
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.records.state import Desired
from gateway.store import schema
from gateway.store.database import Database, address_of
from gateway.store.errors import StoreError, StoreTooNew, StoreUnreadable
from gateway.store.migrate import MIGRATIONS, create_or_migrate, migrate, revision_of
from gateway.store.sql import Store, open_store
from tests.support.state_records import key, route


def new_store(where: str | Path) -> Store:
    return open_store(where, now=time.time)


def test_a_new_store_is_made_without_alembic(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start does not wait for its import."""
    monkeypatch.setitem(sys.modules, "alembic", None)
    database = Database(address_of(where), 10)
    database.write(create_or_migrate)
    found = database.read(lambda connection: set(inspect(connection).get_table_names()))
    assert found == {*schema.metadata.tables, schema.REVISION_TABLE}
    database.dispose()


def test_the_baseline_is_the_head_until_there_is_a_migration() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    chain = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(chain)) == schema.REVISIONS


NEXT = '''"""A migration of a release to come."""
import sqlalchemy as sa
from alembic import op
revision = "0005"
down_revision = "0004"
def upgrade():
    op.add_column("keys", sa.Column("wings", sa.Integer, nullable=False, server_default="2"))
    op.execute("UPDATE keys SET wings = 3 WHERE id = 'key-1'")
    {more}
'''


def write_migrations(folder: Path, more: str = "") -> Path:
    """The migrations of a release to come: these and one more."""
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "r0005_wings.py").write_text(NEXT.replace("{more}", more))
    return folder


def test_a_later_release_migrates_a_store_with_all_that_is_in_it(where: str, tmp_path: Path) -> None:
    store = new_store(where)
    written = store.write_state(Desired(keys=(key(1), key(2))), expected=0, journal=[{"what": "new"}])
    store.database.write(lambda connection: migrate(connection, "0005", write_migrations(tmp_path / "later")))
    wings = text("SELECT wings FROM keys ORDER BY position")
    assert store.database.read(lambda connection: list(connection.scalars(wings))) == [3, 2]
    assert store.database.read(revision_of) == "0005"
    store.database.write(lambda connection: connection.execute(text("UPDATE loragate_schema SET version_num = '0004'")))
    assert store.read_state() == written
    assert store.verify_journal() is None
    store.close()


def test_a_migration_that_fails_leaves_the_store_as_it_was(where: str, tmp_path: Path) -> None:
    store = new_store(where)
    written = store.write_state(Desired(keys=(key(1),)), expected=0)
    broken = write_migrations(tmp_path / "broken", "op.drop_table('no_such_table')")
    with pytest.raises((StoreError, SQLAlchemyError), match="no_such_table"):
        store.database.write(lambda connection: migrate(connection, "0005", broken))
    assert store.database.read(revision_of) == "0004"
    assert "wings" not in store.database.read(lambda at: [each["name"] for each in inspect(at).get_columns("keys")])
    assert store.read_state() == written
    store.close()


def test_of_several_that_start_on_an_empty_database_one_makes_the_tables(where: str) -> None:
    stores = [new_store(where) for _ in range(4)]
    errors: list[BaseException] = []

    def read(store: Store) -> None:
        try:
            assert store.read_state() == Desired()
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
    running.write_state(Desired(keys=(key(1),)), expected=0)
    running.run_write(lambda connection: connection.execute(text("UPDATE loragate_schema SET version_num = '9999'")))
    for use in (store.read_state, running.read_state, lambda: running.write_state(Desired(), expected=1)):
        with pytest.raises(StoreTooNew, match="schema `9999`, and this release knows"):
            use()
    for each in (running, store):
        each.close()


def test_a_store_of_a_development_version_is_refused_and_left_alone(where: str) -> None:
    running, store = new_store(where), new_store(where)
    running.write_state(Desired(keys=(key(1),)), expected=0)
    running.run_write(lambda connection: connection.execute(text("UPDATE loragate_schema SET version_num = '0003'")))
    with pytest.raises(StoreUnreadable, match=r"schema `0003` of a development version.*begin with another store"):
        store.read_state()
    assert running.database.read(revision_of) == "0003"
    for each in (running, store):
        each.close()


def test_a_record_with_a_field_that_only_a_later_release_knows_is_not_guessed_at(store: Store) -> None:
    store.write_state(Desired(routes=(route("support"),)), expected=0)
    record = '{"alias":"support","control":"v1","salt":"s","wings":2}'
    later = text("UPDATE routes SET record = :record")
    store.run_write(lambda connection: connection.execute(later, {"record": record}))
    with pytest.raises(StoreUnreadable, match=r"`wings`.*run the release that wrote it"):
        store.read_state()


def test_a_file_that_is_no_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("hello" * 1000)
    with pytest.raises(StoreUnreadable, match="restore it from a backup"):
        new_store(tmp_path).read_state()


def test_a_folder_means_sqlite_in_it_readable_by_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    store = new_store(folder)
    store.write_state(Desired(), expected=0)
    assert {path.name for path in folder.iterdir()} >= {"state.db", "state.db-wal"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    with sqlite3.connect(folder / "state.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    raw.close()
    store.close()
