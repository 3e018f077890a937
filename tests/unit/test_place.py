"""Which engine serves: filter, score, pick; and what leans to it."""

from collections import Counter
from random import Random

import pytest

from gateway.decide.place import LOAD_FACTOR, LOAD_SLACK, Terms, less_loaded_of_two, pick_by_affinity, place
from gateway.decide.route import Base, EngineState, RouteTable
from gateway.errors import EngineUnavailable, Saturated, VersionNotReady

V = "support@111111111111"
SEED = 20261122
WORKERS_AGREE_ON = ["e2", "e6", "e5", "e1"]


def table(count: int, **views: EngineState) -> RouteTable:
    """A table with engines `e0`, `e1`, … that have the version; those given are instead of theirs."""
    engines = [EngineState(url=f"e{number}", versions=frozenset({V})) for number in range(count)]
    return RouteTable(base=Base(name="base"), engines=tuple(views.get(engine.url, engine) for engine in engines))


def numbers(count: int) -> list[int]:
    chance = Random(SEED)
    return [chance.getrandbits(63) - 2**62 for _ in range(count)]  # as hashes are, below zero too


# Filter


def test_an_ejected_engine_serves_nothing_while_another_can() -> None:
    for number in numbers(50):
        assert place(table(2), V, {"e1": 99}, (), Terms(number, ejected={"e0"})).url == "e1"
        assert place(table(2), V, {"e1": 99}, (), Terms(number, number, ejected={"e0"})).url == "e1"


def test_when_all_that_could_serve_are_ejected_all_of_them_are_used() -> None:
    terms = [Terms(number, ejected={"e0", "e1"}) for number in numbers(200)]
    assert {place(table(2), V, {}, (), each).url for each in terms} == {"e0", "e1"}
    lacking = table(2, e1=EngineState(url="e1"))
    assert {place(lacking, V, {}, (), Terms(ejected={"e0"})).url} == {"e0"}
    assert place(table(2), V, {}, ["e1"], Terms(ejected={"e0"})).url == "e0"


def test_an_engine_at_its_cap_serves_no_more_and_all_at_their_caps_are_saturated() -> None:
    for number in numbers(20):
        assert place(table(2), V, {"e0": 3, "e1": 2}, (), Terms(number, number, cap=3)).url == "e1"
    with pytest.raises(Saturated) as caught:
        place(table(2), V, {"e0": 3, "e1": 4}, (), Terms(cap=3))
    assert caught.value.version == V
    assert place(table(1), V, {"e0": 10**9}).url == "e0"


def test_of_two_engines_the_one_that_a_request_leans_to_gives_way_when_it_has_too_much() -> None:
    for number in numbers(20):
        best = place(table(2), V, {}, (), Terms(number, number)).url
        assert {best, place(table(2), V, {best: 10**6}, (), Terms(number, number)).url} == {"e0", "e1"}


def test_an_ejected_engine_is_no_way_around_the_cap_of_the_others() -> None:
    with pytest.raises(Saturated):
        place(table(2), V, {"e1": 1}, (), Terms(ejected={"e0"}, cap=1))


def test_what_cannot_be_served_says_so_whatever_the_terms() -> None:
    terms = Terms(1, 1, {"e0"}, 1)
    with pytest.raises(EngineUnavailable):
        place(table(1), V, {}, ["e0"], terms)
    with pytest.raises(VersionNotReady) as caught:
        place(table(1), "support@222222222222", {}, (), terms)
    assert caught.value.version == "support@222222222222"


# Affinity


def test_what_has_an_affinity_in_common_is_served_by_the_same_engine() -> None:
    engines = table(5)
    for affinity in numbers(100):
        served = {place(engines, V, {}, (), Terms(number, affinity)).url for number in numbers(20)}
        assert len(served) == 1


def test_affinities_are_spread_evenly() -> None:
    engines = table(5).engines
    counts = Counter(pick_by_affinity(engines, affinity).url for affinity in numbers(20_000))
    assert sum((count - 4_000) ** 2 / 4_000 for count in counts.values()) < 18.5  # chi-square, 4 degrees: p = 0.001


def test_one_engine_less_moves_only_what_leant_to_it() -> None:
    five, four = table(5).engines, table(4).engines
    for affinity in numbers(2_000):
        before = pick_by_affinity(five, affinity).url
        assert before == "e4" or pick_by_affinity(four, affinity).url == before


def test_the_order_of_engines_does_not_matter() -> None:
    engines = table(5).engines
    for affinity in numbers(200):
        assert pick_by_affinity(engines, affinity) is pick_by_affinity(engines[::-1], affinity)


def test_an_affinity_is_the_same_in_every_process() -> None:
    # Workers would otherwise spread a conversation over as many engines as there are workers.
    assert [pick_by_affinity(table(7).engines, affinity).url for affinity in (1, 2, 3, 2**55)] == WORKERS_AGREE_ON


def test_a_preferred_engine_above_its_bound_is_passed_over() -> None:
    engines = table(4)
    for affinity in numbers(100):
        url = pick_by_affinity(engines.engines, affinity).url
        load = {engine.url: 10 for engine in engines.engines}
        bound = LOAD_FACTOR * (41 - 10 + load[url]) / 4 + LOAD_SLACK
        assert place(engines, V, load, (), Terms(affinity, affinity)).url == url
        load[url] = int(bound) + 5
        assert place(engines, V, load, (), Terms(affinity, affinity)).url != url


def test_requests_of_one_affinity_never_pile_up_beyond_the_bound() -> None:
    engines, load = table(4), Counter[str]()
    for number in numbers(400):
        load[place(engines, V, load, (), Terms(number, 7)).url] += 1
    assert max(load.values()) <= LOAD_FACTOR * 100 + LOAD_SLACK + 1
    assert min(load.values()) > 50


# Load


def test_of_two_alike_either_is_picked_equally_often() -> None:
    for count in (2, 3, 5):
        picked = Counter(less_loaded_of_two(table(count).engines, {}, number).url for number in numbers(10_000))
        even = 10_000 / count
        assert sum((seen - even) ** 2 / even for seen in picked.values()) < 18.5
        assert len(picked) == count


def test_the_most_loaded_engine_is_never_picked() -> None:
    load = {"e0": 1, "e1": 2, "e2": 3}
    picked = Counter(less_loaded_of_two(table(3).engines, load, number).url for number in numbers(3_000))
    assert set(picked) == {"e0", "e1"}
    assert picked["e0"] > picked["e1"] > 0


def test_two_choices_keep_loads_nearly_even() -> None:
    engines, load = table(10), Counter[str]()
    for number in numbers(10_000):
        load[place(engines, V, load, (), Terms(number)).url] += 1
    assert max(load.values()) - min(load.values()) < 20  # one choice: about 100 each way
