"""Reads and writes the state as rows of tables; a write changes only rows that differ."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update

from adapters.catalog import Entry
from gateway.records.routes import RouteRecord, RouteVersion
from gateway.records.state import Desired, KeyRecord
from gateway.rollout import journal as chain
from gateway.rollout.record import StoredRollout
from gateway.store import schema
from gateway.store.errors import StoreUnreadable
from gateway.store.rollouts import RolloutRow, from_row, to_row

T = TypeVar("T")
Row = Mapping[str, Any]


def encode(record: object) -> str:
    """Return a record as JSON text."""
    return msgspec.json.encode(record).decode()


def decode(text: str, kind: type[T], what: str) -> T:
    """Return the record in `text`.

    Raises:
        StoreUnreadable: The text is not a record of type `kind`.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreUnreadable(
            f"a record in `{what}` of the store cannot be read ({error}); it is damaged or of a later release: "
            "restore a backup, or run the release that wrote it"
        ) from None


def read_all(connection: Connection) -> Desired:
    """Return the whole state."""
    rollouts = select(schema.rollouts.c.record).where(schema.rollouts.c.is_open).order_by(schema.rollouts.c.position)
    return Desired(
        version=connection.scalar(select(schema.state.c.version)) or 0,
        keys=_records(connection, schema.keys, KeyRecord),
        adapters=_records(connection, schema.adapters, Entry),
        routes=_records(connection, schema.routes, RouteRecord),
        rollouts=tuple(decode_rollout(text) for text in connection.scalars(rollouts)),
    )


def decode_rollout(text: str) -> StoredRollout:
    """Return the rollout in `text`; an `UnreadableRollout` if the row can be decoded but its body cannot.

    Raises:
        StoreUnreadable: The text is not a row of a rollout.
    """
    return from_row(decode(text, RolloutRow, "rollouts"))


def _records(connection: Connection, table: Table, kind: type[T]) -> tuple[T, ...]:
    texts = connection.scalars(select(table.c.record).order_by(table.c.position))
    return tuple(decode(text, kind, table.name) for text in texts)


def hold(connection: Connection) -> None:
    """Lock the row of `state`, for which all writers queue, until the transaction ends."""
    connection.execute(
        select(schema.state.c.version).with_for_update()
    )  # in SQLite the transaction itself locks the database


def write_keys(connection: Connection, keys: Iterable[KeyRecord]) -> None:
    """Make the stored keys equal to `keys`."""
    rows = [{"id": each.id, "digest": each.digest, "record": encode(each)} for each in keys]
    _sync_rows(connection, schema.keys, "id", rows)


def write_adapters(connection: Connection, entries: Iterable[Entry]) -> None:
    """Make the stored catalog equal to `entries`; a version that is removed loses its fingerprints, too."""
    rows = [
        {"version": each.ref.version, "name": each.ref.name, "state": str(each.state), "record": encode(each)}
        for each in entries
    ]
    _, removed_keys = _sync_rows(connection, schema.adapters, "version", rows)
    _delete(connection, schema.fingerprints, "version", removed_keys)


def write_routes(connection: Connection, routes: Sequence[RouteRecord], mark: RouteVersion) -> None:
    """Make the stored routes equal to `routes`, and record a version of each that is new, changed or removed.

    Args:
        connection: A connection in a transaction that holds the row of `state`.
        routes: The routes to store.
        mark: Who made the change, when and why; its alias, number and route are filled in here.
    """
    by_alias = {each.alias: each for each in routes}
    table = schema.routes
    stored = {row.alias: row.record for row in connection.execute(select(table.c.alias, table.c.record))}
    rows = [{"alias": each.alias, "record": _as_stored(each, stored.get(each.alias))} for each in routes]
    changed, removed_keys = _sync_rows(connection, schema.routes, "alias", rows)
    versions = schema.route_versions
    for alias in (*changed, *removed_keys):
        last = connection.scalar(select(func.max(versions.c.number)).where(versions.c.alias == alias)) or 0
        version = msgspec.structs.replace(mark, alias=alias, number=last + 1, route=by_alias.get(alias))
        connection.execute(insert(versions).values(alias=alias, number=last + 1, record=encode(version)))


def _as_stored(route: RouteRecord, stored: str | None) -> str:
    """Return a route's JSON: the stored text if it means the same, as when an earlier release wrote fewer fields."""
    text = encode(route)
    if stored is None or stored == text:
        return text
    return stored if decode(stored, RouteRecord, "routes") == route else text


def write_rollouts(connection: Connection, rollouts: Sequence[StoredRollout]) -> None:
    """Store `rollouts`, open or closed; rollouts that were closed before stay as they are.

    Raises:
        ValueError: `rollouts` lacks a stored open rollout, or has two open ones for one alias.
    """
    table = schema.rollouts
    aliases = [each.alias for each in rollouts if each.is_open]
    if len(set(aliases)) < len(aliases):
        raise ValueError(f"more than one rollout is open for a route: {', '.join(sorted(aliases))}")
    query = select(table.c.id, table.c.record).where(table.c.is_open)
    stored = {row.id: row.record for row in connection.execute(query)}
    missing = stored.keys() - {each.id for each in rollouts}
    if missing:
        raise ValueError(f"rollout `{min(missing)}` is open; close it, it cannot be left out")
    position = connection.scalar(select(func.max(table.c.position))) or 0
    # Closed rollouts first, since the same change may open the next one for the same alias.
    for each in sorted(rollouts, key=lambda each: each.is_open):
        record = encode(to_row(each))
        if each.id in stored:
            # A row that means the same is left alone: a later release may have written more fields than this one reads.
            if record != stored[each.id] and decode_rollout(stored[each.id]) != each:
                change = update(table).where(table.c.id == each.id)
                connection.execute(change.values(alias=each.alias, is_open=each.is_open, record=record))
        else:
            position += 1
            row = {"id": each.id, "alias": each.alias, "is_open": each.is_open, "record": record}
            connection.execute(insert(table).values(position=position, **row))


def write_journal(connection: Connection, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records to the journal. Call in a transaction that holds the row of `state`."""
    state = schema.state
    head = read_head(connection)
    last = chain.JournalEntry(number=head.number, previous="", hash=head.hash, record={}) if head is not None else None
    last_number = connection.scalar(select(func.max(schema.journal.c.number))) or 0
    if last_number > (head.number if head is not None else 0):
        # An entry was inserted by something else than Loragate. The next entry goes after it, since otherwise no change
        # could be stored any more; `verify` reports the inserted one.
        last = chain.JournalEntry(
            number=last_number, previous="", hash=head.hash if head is not None else chain.GENESIS, record={}
        )
    rows = []
    for record in records:
        last = chain.append(last, record)
        rows.append(
            {
                "number": last.number,
                "previous": last.previous,
                "hash": last.hash,
                "record": chain.canonical_json(dict(record)),
            }
        )
    if last is not None and rows:
        connection.execute(insert(schema.journal), rows)
        connection.execute(update(state).values(journal_number=last.number, journal_hash=last.hash))


def read_head(connection: Connection) -> chain.JournalHead | None:
    """Return number and hash of the newest journal entry as noted in the row of `state`; None before the first."""
    state = schema.state
    number, digest = connection.execute(select(state.c.journal_number, state.c.journal_hash)).one()
    return chain.JournalHead(number=number, hash=digest) if number else None


def read_journal(
    connection: Connection, after: int, limit: int, about: str = "", *, newest: bool = False
) -> tuple[chain.JournalEntry, ...]:
    """Return at most `limit` journal entries after number `after`, the oldest first.

    Args:
        connection: A connection in any transaction.
        after, limit: The number to start after, and the largest number of entries.
        about: Return only entries whose canonical JSON contains this text, such as `"alias":"support"`.
        newest: Return the last `limit` entries instead of the first.
    """
    table = schema.journal
    query = select(table.c.number, table.c.previous, table.c.hash, table.c.record)
    if about:
        query = query.where(table.c.record.contains(about, autoescape=True))
    order = table.c.number.desc() if newest else table.c.number
    rows = connection.execute(query.where(table.c.number > after).order_by(order).limit(limit)).all()
    return tuple(
        chain.JournalEntry(number=number, previous=previous, hash=digest, record=_as_mapping(text))
        for number, previous, digest, text in (reversed(rows) if newest else rows)
    )


def _as_mapping(text: str) -> Mapping[str, Any]:
    """Return a journal record; text that is not canonical JSON becomes a record whose hash cannot fit.

    Loragate writes only canonical JSON. If other forms were accepted, an entry that was changed to have a duplicate
    member, or another notation of the same text, would go unnoticed.
    """
    try:
        record = json.loads(text)
        if isinstance(record, dict) and chain.canonical_json(record) == text:
            return record
    except (ValueError, TypeError, RecursionError):
        pass
    return {"not a record": str(text)}


def _sync_rows(
    connection: Connection, table: Table, key: str, wanted_rows: Sequence[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Make a table equal to `wanted_rows`, in order; return the keys of new or changed rows, and of removed ones."""
    stored = {row[key]: row for row in connection.execute(select(table)).mappings()}
    removed_keys = sorted(stored.keys() - {row[key] for row in wanted_rows})
    _delete(connection, table, key, removed_keys)
    new, other, moved = [], [], []
    position = 0
    for row in wanted_rows:
        old = stored.get(row[key])
        # Positions grow and have gaps, so that most rows keep theirs when one goes or moves to the end.
        position = max(position + 1, old["position"] if old is not None else 0)
        placed = {**row, "position": position}
        if old is None:
            new.append(placed)
        elif any(old[name] != value for name, value in row.items()):
            other.append(placed)
        elif old["position"] != position:
            moved.append(placed)
    if other or moved:
        values: dict[str, Any] = {
            name: bindparam(f"new_{name}") for name in (*wanted_rows[0], "position") if name != key
        }
        change = update(table).where(table.c[key] == bindparam("new_key")).values(values)
        rows = [{"new_key": row[key]} | {f"new_{name}": row[name] for name in values} for row in (*other, *moved)]
        connection.execute(change, rows)
    if new:
        connection.execute(insert(table), new)
    return [row[key] for row in (*new, *other)], removed_keys


def _delete(connection: Connection, table: Table, key: str, values: Collection[str]) -> None:
    if values:
        connection.execute(
            delete(table).where(table.c[key] == bindparam("removed")), [{"removed": each} for each in values]
        )
