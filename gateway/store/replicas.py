"""Gateways that share a store: which of them are alive, which state they serve, and what they have counted.

Clocks are not compared: a gateway is alive as long as another gateway sees its number of beats grow, measured by the
observer's own monotonic clock.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from gateway.observe.tally import Tally, combine_replicas
from gateway.store import rows
from gateway.store.schema import replicas as table
from gateway.store.schema import rollouts
from gateway.store.schema import tallies as tallies_table
from gateway.store.sql import Store

# Gateways beat every second, and a store takes five to fail over; three beats may be missed in a row, with room.
SILENT_SECONDS: Final = 10.0
# The row of a gateway that died without removing it is deleted after this long.
GONE_SECONDS: Final = 600.0


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway as it describes itself; `state` is the version of the state that all its workers serve from."""

    id: str
    name: str = ""
    url: str = ""
    workers: int = 0
    state: int = 0
    started: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The store's answer to a beat: the gateways that are alive, this one included, and all counts of open rollouts."""

    alive: tuple[Replica, ...]
    tallies: tuple[Tally, ...]


class Replicas:
    """One gateway's place among those that share the store.

    Args:
        store: The store.
        replica: The description of this gateway; `self.replica` may be replaced later.
        clock: Monotonic seconds.
    """

    def __init__(self, store: Store, replica: Replica, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._reported: dict[tuple[str, int], str] = {}
        self._pulses: dict[str, tuple[int, float]] = {}
        self._beats = 0
        self.replica = replica

    def beat(self, tallies: Sequence[Tally] = ()) -> Beat:
        """Report that this gateway is alive, and its counts; returns what all gateways report. Blocks.

        Raises:
            StoreError: The report was not stored; the next beat includes its counts.
        """
        own = self.replica.id
        self._beats += 1
        counted = {(each.rollout, each.stage): rows.encode(each) for each in tallies}
        changed = {key: record for key, record in counted.items() if self._reported.get(key) != record}

        def work(connection: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
            _put_replica(connection, self.replica, self._beats)
            open_ids = set(connection.scalars(select(rollouts.c.id).where(rollouts.c.is_open)))
            connection.execute(delete(tallies_table).where(tallies_table.c.rollout.not_in(open_ids)))
            for (rollout, stage), record in changed.items():
                if rollout in open_ids:
                    _put_tally(connection, rollout, stage, own, record)
            alive = connection.execute(select(table.c.id, table.c.beats, table.c.record)).all()
            return alive, connection.execute(select(tallies_table.c.replica, tallies_table.c.record)).all()

        alive, stored = self._store.run_write(work)
        self._reported = counted
        by_stage: dict[tuple[str, int], list[Tally]] = {}
        for _, record in stored:
            tally = rows.decode(record, Tally, "tallies")
            by_stage.setdefault((tally.rollout, tally.stage), []).append(tally)
        found = tuple(combine_replicas(by_stage[key]) for key in sorted(by_stage))
        return Beat(alive=self._find_living(alive), tallies=found)

    def _find_living(self, found: Iterable[Any]) -> tuple[Replica, ...]:
        now = self._clock()
        living, dead = [], []
        pulses: dict[str, tuple[int, float]] = {}
        for id_, beats, record in found:
            pulse = self._pulses.get(id_)
            heard_at = pulse[1] if pulse is not None and pulse[0] == beats else now
            pulses[id_] = (beats, heard_at)
            if now - heard_at < SILENT_SECONDS:
                living.append(rows.decode(record, Replica, "replicas"))
            elif now - heard_at > GONE_SECONDS:
                dead.append(id_)
        self._pulses = pulses
        if dead:
            self._store.run_write(lambda connection: connection.execute(delete(table).where(table.c.id.in_(dead))))
        return tuple(sorted(living, key=lambda each: (each.name, each.id)))

    def leave(self) -> None:
        """Remove this gateway, which ends; its counts stay. Blocks.

        Raises:
            StoreError: The removal was not stored; the other gateways notice the missing beats.
        """
        self._store.run_write(lambda connection: connection.execute(delete(table).where(table.c.id == self.replica.id)))


def count_serving(store: Store, version: int, among: Collection[str]) -> int:
    """Return how many of the gateways with these ids report that they serve state `version` or a later one; blocks.

    Raises:
        StoreError: The reports cannot be read.
    """
    records = store.run_read(lambda connection: list(connection.scalars(select(table.c.record))))
    replicas = [rows.decode(record, Replica, "replicas") for record in records]
    return sum(each.state >= version for each in replicas if each.id in among)


def _put_replica(connection: Connection, replica: Replica, beats: int) -> None:
    record = rows.encode(replica)
    change = update(table).where(table.c.id == replica.id).values(beats=beats, record=record)
    if connection.execute(change).rowcount == 0:
        connection.execute(insert(table).values(id=replica.id, beats=beats, record=record))


def _put_tally(connection: Connection, rollout: str, stage: int, replica: str, record: str) -> None:
    columns = tallies_table.c
    here = (columns.rollout == rollout, columns.stage == stage, columns.replica == replica)
    if connection.execute(update(tallies_table).where(*here).values(record=record)).rowcount == 0:
        connection.execute(insert(tallies_table).values(rollout=rollout, stage=stage, replica=replica, record=record))
