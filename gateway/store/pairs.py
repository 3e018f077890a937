"""Scored pairs, numbered in the order of commits: a reader that has read up to a number has missed none below it.

The words in a pair (`Drift.top_moved`) are stored in a table of their own and deleted with the sample's texts; the
pair's own row holds only names, numbers and hashes.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, Select, delete, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from evaluators.observation import Drift, Moved, NoDrift, ScoredPair
from gateway.store import rows
from gateway.store.errors import StoreUnreadable
from gateway.store.schema import counters, pair_words
from gateway.store.schema import pairs as table
from gateway.store.sql import Store

PAGE: Final = 1000
# Rows deleted in one transaction, so that other writers do not wait long.
BATCH: Final = 1000
COUNTER: Final = "pairs"


class Words(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tokens whose probability moved most, for both directions of a pair's drift."""

    drift: Moved = ()
    drift_back: Moved = ()


def encode(pair: ScoredPair) -> str:
    """Return a pair as JSON, with its words."""
    return rows.encode(pair)


def decode(text: str, number: int | None = None, words: str | None = None) -> ScoredPair:
    """Return the pair in a row's JSON, with its number and words from their own columns if they are given.

    Raises:
        StoreUnreadable: The text is not a pair.
    """
    try:
        pair = rows.decode(text, ScoredPair, table.name)
    except StoreUnreadable:
        if (changed := _with_bounds(text)) is None:
            raise
        pair = rows.decode(changed, ScoredPair, table.name)
    if number is not None:
        pair = replace(pair, number=number)
    if words:
        moved = rows.decode(words, Words, pair_words.name)
        pair = replace(
            pair, drift=_with_words(pair.drift, moved.drift), drift_back=_with_words(pair.drift_back, moved.drift_back)
        )
    return pair


def _with_bounds(text: str) -> str | None:
    """Convert a pair stored before drift had an estimate, when `kl` meant `kl_bound`; None for other texts."""
    try:
        values = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    drifts = [each for name in ("drift", "drift_back") if isinstance(each := values.get(name), dict)]
    old = [each for each in drifts if "kl" in each and "kl_bound" not in each]
    for each in old:
        each["kl"], each["kl_bound"] = None, each["kl"]
    return rows.encode(values) if old else None


def _with_words(drift: Drift | NoDrift | None, moved: Moved) -> Drift | NoDrift | None:
    return replace(drift, top_moved=moved) if isinstance(drift, Drift) and not drift.top_moved else drift


def _without_words(scored_pair: ScoredPair) -> tuple[ScoredPair, Words]:
    drift, words = _strip_words(scored_pair.drift)
    back, words_back = _strip_words(scored_pair.drift_back)
    return replace(scored_pair, number=0, drift=drift, drift_back=back), Words(drift=words, drift_back=words_back)


def _strip_words(drift: Drift | NoDrift | None) -> tuple[Drift | NoDrift | None, Moved]:
    if not isinstance(drift, Drift) or not drift.top_moved:
        return drift, ()
    return replace(drift, top_moved=()), drift.top_moved


def insert_pair(connection: Connection, scored_pair: ScoredPair, words_until: float | None) -> None:
    """Store a pair with the next number, as the last step of a transaction: other writers of pairs wait until its end.

    Args:
        connection: A connection in a transaction.
        scored_pair: The pair.
        words_until: When the pair's words expire, Unix seconds; None to store no words.
    """
    bare, words = _without_words(scored_pair)
    if words_until is not None and words != Words():
        row = {"sample": scored_pair.sample, "expires": words_until, "record": rows.encode(words)}
        connection.execute(insert(pair_words).values(row))
    values = {
        "sample": scored_pair.sample,
        "alias": scored_pair.alias,
        "rollout": scored_pair.rollout,
        "stage": scored_pair.stage,
        "kind": str(scored_pair.kind),
        "at": scored_pair.at,
        "record": encode(bare),
    }
    number = connection.scalar(_COUNT_UP)
    connection.execute(_INSERT, {"number": number, **values})


# Built once, to keep the time short between the first statement and the end of the transaction, when others wait.
_COUNT_UP: Final = (
    update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value + 1).returning(counters.c.value)
)
_INSERT: Final = insert(table)


def is_stored(connection: Connection, scored_pair: ScoredPair) -> bool:
    """Return whether exactly this pair is stored, as after a first try whose answer was lost."""
    found = connection.scalar(select(table.c.record).where(table.c.sample == scored_pair.sample))
    return found == encode(_without_words(scored_pair)[0])


def find_judged(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Return which of these samples have been judged."""
    return set(connection.scalars(select(table.c.sample).where(table.c.sample.in_(ids))))


class Pairs:
    """The judged pairs in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, scored_pair: ScoredPair) -> bool:
        """Store a pair whose sample was never in the store, without words; returns False if it is stored already."""
        try:
            self._store.run_write(lambda connection: insert_pair(connection, scored_pair, None))
        except IntegrityError:  # its sample has been judged
            return False
        return True

    def head(self) -> int:
        """Return the number of the newest pair, even if it has been deleted; 0 before the first."""
        query = select(counters.c.value).where(counters.c.name == COUNTER)
        return self._store.run_read(lambda connection: connection.scalar(query)) or 0

    def since(self, number: int, limit: int = PAGE, alias: str | None = None) -> list[ScoredPair]:
        """Return the first pairs above a number, of an alias or of all, in order."""
        query = _query().where(table.c.number > number)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        return self._read(query.limit(limit))

    def of(self, rollout: str, stage: int | None = None, *, after: int = 0) -> list[ScoredPair]:
        """Return all pairs of a rollout, or of one of its stages, above a number, in order."""
        query = _query().where(table.c.rollout == rollout)
        if stage is not None:
            query = query.where(table.c.stage == stage)
        found: list[ScoredPair] = []
        while page := self._read(query.where(table.c.number > after).limit(PAGE)):
            found += page
            after = page[-1].number
        return found

    def between(
        self, alias: str | None, begin: float, end: float, limit: int = PAGE, *, after: ScoredPair | None = None
    ) -> list[ScoredPair]:
        """Return the first pairs whose requests were answered in [begin, end), in the order of the answers.

        Args:
            alias: The alias whose pairs to return; None for all.
            begin, end: Unix seconds.
            limit: The largest number of pairs to return.
            after: The last pair of the page before.
        """
        query = _columns().where(table.c.at >= begin, table.c.at < end).order_by(table.c.at, table.c.number)
        if alias is not None:
            query = query.where(table.c.alias == alias)
        if after is not None:
            query = query.where(tuple_(table.c.at, table.c.number) > (after.at, after.number))
        return self._read(query.limit(limit))

    def newest(self, alias: str | None, begin: float, limit: int = PAGE) -> list[ScoredPair]:
        """Return the last pairs, of an alias or of all, answered from `begin` on (Unix seconds), in order."""
        query = _columns().where(table.c.at >= begin).order_by(table.c.number.desc())
        if alias is not None:
            query = query.where(table.c.alias == alias)
        return self._read(query.limit(limit))[::-1]

    def expire(self, before: float) -> int:
        """Delete pairs whose requests were answered before `before` (Unix seconds); returns how many were deleted."""
        old = select(table.c.number).where(table.c.at < before).limit(BATCH)
        total = 0
        while True:
            deleted = self._store.run_write(
                lambda connection: connection.execute(delete(table).where(table.c.number.in_(old))).rowcount
            )
            total += deleted
            if deleted < BATCH:
                return total

    def _read(self, query: Select[int, str, str]) -> list[ScoredPair]:
        found = self._store.run_read(lambda connection: connection.execute(query).all())
        return [decode(record, number, words) for number, record, words in found]


def _query() -> Select[int, str, str]:
    return _columns().order_by(table.c.number)


def _columns() -> Select[int, str, str]:
    here = table.outerjoin(pair_words, pair_words.c.sample == table.c.sample)
    return select(table.c.number, table.c.record, pair_words.c.record).select_from(here)
