"""Gateways that share a store know of each other, and add their counts up, through restarts."""

from gateway.decide.assign import Arm
from gateway.observe.tally import Tally
from gateway.records.state import Desired
from gateway.store.replicas import GONE_SECONDS, SILENT_SECONDS, Replica, Replicas, count_serving
from gateway.store.sql import Store
from tests.support.state_records import rollout


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(rollout: str, stage: int, requests: int, units: range) -> Tally:
    tally = Tally(rollout=rollout, stage=stage, alias="a")
    tally.candidate.requests = requests
    for unit in units:
        tally.units.see(unit, Arm.CANDIDATE)
    return tally


def opened(store: Store, *ids: str) -> None:
    rollouts = tuple(rollout(each, each) for each in ids)
    store.write_state(Desired(rollouts=rollouts), expected=store.version())


def test_a_replica_lives_while_it_beats_and_is_forgotten_when_it_leaves(store: Store) -> None:
    clock = Clock()
    one, two = (Replicas(store, Replica(id=each, name=each), clock) for each in ("one", "two"))
    assert [each.name for each in one.beat().alive] == ["one"]
    assert [each.name for each in two.beat().alive] == ["one", "two"]
    clock.now = SILENT_SECONDS + 1  # `one` has told nothing since
    assert [each.name for each in two.beat().alive] == ["two"]
    one.beat()
    assert [each.name for each in two.beat().alive] == ["one", "two"]
    one.leave()
    assert [each.name for each in two.beat().alive] == ["two"]


def test_a_replica_that_died_is_removed_in_the_end(store: Store) -> None:
    clock = Clock()
    Replicas(store, Replica(id="dead", state=9), clock).beat()
    alive = Replicas(store, Replica(id="alive", state=4), clock)
    alive.beat()
    assert count_serving(store, 4, {"alive", "dead"}) == 2
    assert count_serving(store, 5, {"alive", "dead"}) == 1
    assert count_serving(store, 5, {"alive"}) == 0
    clock.now = GONE_SECONDS + 1
    alive.beat()
    assert count_serving(store, 4, {"alive", "dead"}) == 1


def test_what_replicas_counted_adds_up_and_a_unit_of_both_counts_once(store: Store) -> None:
    opened(store, "r")
    clock = Clock()
    Replicas(store, Replica(id="one"), clock).beat([counted("r", 2, 5, range(10))])
    (found,) = Replicas(store, Replica(id="two"), clock).beat([counted("r", 2, 7, range(5, 15))]).tallies
    assert (found.rollout, found.stage, found.alias, found.candidate.requests) == ("r", 2, "a", 12)
    assert len(found.units.candidate) == 15


def test_counts_outlast_the_process_that_counted_them(store: Store) -> None:
    opened(store, "r")
    before = Replicas(store, Replica(id="before"), Clock())
    before.beat([counted("r", 1, 5, range(5))])
    before.leave()
    (found,) = Replicas(store, Replica(id="after"), Clock()).beat([counted("r", 1, 1, range(1))]).tallies
    assert found.candidate.requests == 6


def test_counts_are_told_again_only_when_they_have_changed_and_go_with_their_rollout(store: Store) -> None:
    opened(store, "r", "s")
    replicas = Replicas(store, Replica(id="one"), Clock())
    tallies = [counted("r", 1, 5, range(5)), counted("s", 1, 3, range(3)), counted("unknown", 1, 3, range(3))]
    for _ in range(2):
        assert [(each.rollout, each.candidate.requests) for each in replicas.beat(tallies).tallies] == [
            ("r", 5),
            ("s", 3),
        ]
    state = store.read_state()
    store.write_state(state.with_rollout(rollout("r", "r", is_open=False)), expected=state.version)
    assert [each.rollout for each in replicas.beat(tallies).tallies] == ["s"]
