"""Scored pairs: stored as they were scored, numbered in the order of commits, found by all that is asked for."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from evaluators.observation import Drift, Kind, NoDrift, Score, ScoredPair, Unscored
from gateway.store.errors import StoreUnreadable
from gateway.store.pairs import PAGE, Pairs, decode, encode, insert_pair
from gateway.store.sql import Store, open_store
from tests.support.examples import examples
from tests.support.samples import judged, sample

shares = st.floats(0, 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
unscored = st.builds(Unscored, reason=st.text(), version=st.text())
outcomes = unscored | st.builds(
    Score, value=shares, version=st.text(), control=st.none() | shares, candidate=st.none() | shares
)
drifts = (
    st.none()
    | st.builds(NoDrift, reason=st.text(), version=st.text())
    | st.builds(
        Drift,
        n_tokens=st.integers(0, 9),
        log_ratio=numbers,
        kl=st.none() | numbers,
        kl_bound=numbers,
        moved_share=shares,
        top1_agreement=shares,
        n_bytes=st.none() | st.integers(1, 9),
        top_moved=st.lists(st.tuples(st.text(), st.integers(0, 9), numbers, numbers), max_size=2).map(tuple),
        temperature=numbers,
        histogram=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    )
)
counts = st.none() | st.integers(0, 2**53)
judgeds = st.builds(
    ScoredPair,
    number=st.integers(0, 2**53),
    sample=st.text(),
    alias=st.text(),
    rollout=st.text(),
    stage=st.integers(0, 9),
    kind=st.sampled_from(Kind),
    control=st.text(),
    other=st.text(),
    served=st.sampled_from(("control", "candidate")),
    session=st.text(),
    task=st.text(),
    at=numbers,
    scored_at=numbers,
    drift=drifts,
    drift_back=drifts,
    scores=st.dictionaries(st.text(), outcomes, max_size=3),
    prompt_tokens=counts,
    control_tokens=counts,
    other_tokens=counts,
    weight=numbers,
)


@pytest.fixture
def pairs(store: Store) -> Pairs:
    return Pairs(store)


def added(pairs: Pairs, number: int, **more: object) -> None:
    assert pairs.add(judged(sample(number), **more))


def numbers_of(found: list[ScoredPair]) -> list[int]:
    return [each.number for each in found]


@given(judgeds)
@settings(max_examples=examples(60))
def test_any_judged_pair_is_read_as_it_was_written(pair: ScoredPair) -> None:
    assert decode(encode(pair)) == pair


def test_of_a_pair_stored_before_there_were_estimates_the_number_is_a_bound() -> None:
    written = encode(judged(sample(1))).replace('"kl_bound":0.4,', "").replace(',"n_bytes":40', "")
    assert '"kl":0.5' in written
    assert "bound" not in written
    drift = decode(written).drift
    assert isinstance(drift, Drift)
    assert (drift.kl, drift.kl_bound, drift.n_bytes) == (None, 0.5, None)
    assert decode(encode(decode(written))) == decode(written)
    with pytest.raises(StoreUnreadable, match="in `pairs`"):
        decode(written.replace('"kl":0.5', '"kl":null'))


@pytest.mark.parametrize("damaged", ["", "{}", '{"sample":"1"}', encode(judged(sample(1))).replace("0.75", '"0.75"')])
def test_what_is_no_pair_is_not_guessed_at(damaged: str) -> None:
    with pytest.raises(StoreUnreadable, match="in `pairs`"):
        decode(damaged)


def test_pairs_are_found_by_number_alias_rollout_and_time(pairs: Pairs) -> None:
    assert (pairs.head(), pairs.since(0)) == (0, [])
    added(pairs, 30)
    added(pairs, 20, alias="legal", rollout="ro-2", stage=1)
    added(pairs, 10, rollout="ro-2", stage=2)
    added(pairs, 40, rollout="", stage=0)
    assert pairs.head() == 4
    assert numbers_of(pairs.since(0)) == [1, 2, 3, 4]
    assert numbers_of(pairs.since(1, 2)) == [2, 3]
    assert numbers_of(pairs.since(1, alias="support")) == [3, 4]
    assert numbers_of(pairs.of("ro-2")) == [2, 3]
    assert numbers_of(pairs.of("ro-2", after=2)) == [3]
    assert numbers_of(pairs.of("ro-2", 1)) == [2]
    assert pairs.of("ro-3") == []
    assert numbers_of(pairs.between(None, 10, 40)) == [3, 2, 1]
    assert numbers_of(pairs.between("support", 0, 99)) == [3, 1, 4]


def test_time_is_paged_without_a_pair_lost_or_twice(pairs: Pairs) -> None:
    for number in range(9):
        added(pairs, number, at=float(number % 3))
    found: list[ScoredPair] = []
    while page := pairs.between(None, 0, 2, 2, after=found[-1] if found else None):
        found += page
    assert numbers_of(found) == [1, 4, 7, 2, 5, 8]


def test_all_pairs_of_a_rollout_are_found_however_many(store: Store, pairs: Pairs) -> None:
    def fill(connection: Connection) -> None:
        for number in range(PAGE + 2):
            insert_pair(connection, judged(sample(number)), None)

    store.run_write(fill)
    assert numbers_of(pairs.of("ro-1", 1)) == list(range(1, PAGE + 3))


def test_a_sample_has_one_pair(pairs: Pairs) -> None:
    added(pairs, 1)
    assert not pairs.add(judged(sample(1), scored_at=5.0))
    added(pairs, 2)
    assert [(each.number, each.scored_at) for each in pairs.since(0)] == [(1, 2.0), (2, 3.0)]


def test_words_of_a_pair_whose_sample_never_was_in_the_store_are_not_kept(pairs: Pairs) -> None:
    added(pairs, 1)
    (found,) = pairs.since(0)
    assert isinstance(found.drift, Drift)
    assert (found.drift.top_moved, found.drift.n_tokens) == ((), 9)


def test_old_pairs_go_and_their_numbers_are_not_given_again(pairs: Pairs) -> None:
    for number in range(4):
        added(pairs, number)
    assert pairs.expire(2.0) == 2
    assert numbers_of(pairs.since(0)) == [3, 4]
    assert pairs.expire(99.0) == 2
    added(pairs, 9)
    assert numbers_of(pairs.since(0)) == [5]


def test_a_number_is_seen_only_after_all_below_it(where: str) -> None:
    stores = [open_store(where, now=lambda: 0.0) for _ in range(3)]
    slow, quick, reader = stores
    reader.prepare()
    numbered, go_on = threading.Event(), threading.Event()

    def write_slowly(connection: Connection) -> None:
        insert_pair(connection, judged(sample(1)), None)
        numbered.set()
        assert go_on.wait(5)

    first = threading.Thread(target=slow.run_write, args=(write_slowly,))
    second = threading.Thread(target=Pairs(quick).add, args=(judged(sample(2)),))
    first.start()
    assert numbered.wait(5)
    second.start()
    second.join(0.3)
    assert second.is_alive()  # it waits for its number
    assert Pairs(reader).since(0) == []
    go_on.set()
    first.join()
    second.join()
    assert [(each.number, each.sample) for each in Pairs(reader).since(0)] == [(1, sample(1).id), (2, sample(2).id)]
    for store in stores:
        store.close()
