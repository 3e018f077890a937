"""Stores of both kinds for the same tests: SQLite always, a real PostgreSQL in the slow runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.store.sql import Store, open_store
from tests.support.patience import PATIENCE_SECONDS
from tests.support.postgres import RunningPostgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[RunningPostgres]:
    """A real PostgreSQL."""
    with RunningPostgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    server: RunningPostgres = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    """An empty store, at noon."""
    store = open_store(where, now=lambda: 1_790_000_000.0, seconds=PATIENCE_SECONDS)
    yield store
    store.close()
