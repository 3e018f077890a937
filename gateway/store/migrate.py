"""Bring the tables to this release's schema, or refuse a schema of a later release.

An empty database gets the current tables at once; only a database of an earlier release is migrated step by step
with Alembic, which takes a fifth of a second to import.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, insert, inspect, select, text

from gateway.store.errors import StoreTooNew, StoreUnreadable
from gateway.store.schema import FIRST_ROWS, HEAD, PARTIAL_INDEXES, REVISION_TABLE, REVISIONS, metadata, revision

# Any number, the same in every release: two replicas that start at once must not both migrate.
_LOCK: Final = 0x10_7A_6A_7E
MIGRATIONS: Final = Path(__file__).with_name("migrations")


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the stored schema; None for an empty database."""
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.scalar(select(revision.c.version_num))


def check_is_known(found: str | None) -> None:
    """Refuse a store that this release cannot read.

    Raises:
        StoreTooNew: A later release has written it.
        StoreUnreadable: A development version, from before the first released schema, has written it.
    """
    if found is None or found in REVISIONS:
        return
    if found < REVISIONS[0]:
        raise StoreUnreadable(
            f"the store has schema `{found}` of a development version, which is not read any more (the first is "
            f"`{REVISIONS[0]}`); begin with another store or state folder, or run the version that wrote it"
        )
    raise StoreTooNew(
        f"the store has schema `{found}`, and this release knows `{HEAD}` at most; run the release that wrote it, "
        "or a later one (to go back instead, restore a backup from before the upgrade)"
    )


def create_or_migrate(connection: Connection) -> None:
    """Create or migrate the tables in the transaction of `connection`, so that it happens wholly or not at all.

    Raises:
        StoreTooNew: A later release has written the store.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = revision_of(connection)
    check_is_known(found)
    if found is None:
        _create(connection)
    elif found != HEAD:
        migrate(connection, HEAD)


def migrate(connection: Connection, head: str, scripts: Path = MIGRATIONS) -> None:
    """Run the migrations in `scripts` that lead from the stored schema to `head`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.attributes["connection"] = connection
    command.upgrade(config, head)


def _create(connection: Connection) -> None:
    metadata.create_all(connection, checkfirst=False)
    for index, statement in PARTIAL_INDEXES.items():
        connection.execute(text(f"DROP INDEX {index}"))
        connection.execute(text(statement))
    for table, rows in FIRST_ROWS:
        connection.execute(insert(table), list(rows))
    revision.create(connection)
    connection.execute(insert(revision).values(version_num=HEAD))
