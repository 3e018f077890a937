"""One leads: until it resigns or is silent for a lease, and whoever follows has a higher fence."""

import random
import time

import pytest

from gateway.store.leader import Leader
from gateway.store.sql import open_store


def test_a_leader_that_resigns_is_followed_at_the_next_step(where: str) -> None:
    one, two = (open_store(where, now=time.time) for _ in range(2))
    first, second = Leader(one, "first"), Leader(two, "second")
    assert (first.step(), second.step(), first.step(), second.step()) == (1, None, 1, None)
    first.resign()
    assert second.step() == 2
    assert first.step() is None
    second.resign()
    assert first.step() == 3
    first.resign()
    for store in (one, two):
        store.close()


def test_a_silent_leader_is_followed_when_the_lease_is_over_and_knows_it_at_its_next_step(where: str) -> None:
    one, two = (open_store(where, now=time.time) for _ in range(2))
    clock = [0.0]
    first, second = Leader(one, "first"), Leader(two, "second", lease_seconds=3.0, clock=lambda: clock[0])
    assert first.step() == 1
    assert second.step() is None
    clock[0] = 2.9
    assert second.step() is None
    assert first.step() == 1  # a sign of life
    clock[0] = 5.8
    assert second.step() is None
    clock[0] = 8.9
    assert second.step() == 2
    assert first.step() is None
    assert first.fence is None
    for leader, store in ((first, one), (second, two)):
        leader.resign()
        store.close()


@pytest.mark.parametrize("rounds", [30])
def test_of_many_who_stand_at_once_one_leads(where: str, rounds: int) -> None:
    stores = [open_store(where, now=time.time) for _ in range(4)]
    leaders = [Leader(each, str(number)) for number, each in enumerate(stores)]
    chance = random.Random(3)
    last = 0
    for _ in range(rounds):
        order = chance.sample(leaders, len(leaders))
        leading = [leader for leader in order if leader.step() is not None]
        assert len(leading) == 1
        fence = leading[0].fence
        assert fence is not None
        assert fence >= last
        last = fence
        if chance.random() < 0.5:
            leading[0].resign()
    assert last > 5
    for leader, each in zip(leaders, stores, strict=True):
        leader.resign()
        each.close()
