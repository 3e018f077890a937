"""The journal's chain: whatever is changed, taken out, put in or swapped is found, and named."""

import json
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rollout.journal import GENESIS, Break, JournalEntry, JournalHead, append, canonical_json, hash_of, verify
from tests.support.examples import examples

RECORDS: list[dict[str, object]] = [
    {"what": f"record {number}", "n": number, "share": 0.1 * number} for number in range(1, 7)
]


def chain() -> list[JournalEntry]:
    entries: list[JournalEntry] = []
    for record in RECORDS:
        entries.append(append(entries[-1] if entries else None, record))
    return entries


def head() -> JournalHead:
    return JournalHead(number=6, hash=chain()[-1].hash)


def test_a_chain_as_it_was_written_holds() -> None:
    assert verify(chain()) is None
    assert verify(chain(), head=head()) is None
    assert verify([]) is None
    assert (chain()[0].number, chain()[0].previous) == (1, GENESIS)


def test_a_chain_may_be_verified_in_parts() -> None:
    entries = chain()
    after = JournalHead(number=3, hash=entries[2].hash)
    assert verify(entries[3:], after=after, head=head()) is None
    assert verify(entries[3:]) == Break(number=1, reason="entry 1 is missing: entry 4 comes in its place")
    wrong = verify(entries[3:], after=JournalHead(number=3, hash=GENESIS))
    assert wrong == Break(number=4, reason="entry 4 does not follow entry 3: one of the two was replaced")


@pytest.mark.parametrize("at", range(6))
def test_an_edit_is_found_where_it_was_made(at: int) -> None:
    entries = chain()
    entries[at] = replace(entries[at], record={**entries[at].record, "n": 99})
    found = verify(entries)
    assert found is not None
    assert found.number == at + 1
    assert found.reason.startswith(f"entry {at + 1} was changed: its content has the hash")


@pytest.mark.parametrize("at", range(5))
def test_an_edit_with_its_own_hash_made_anew_is_found_by_the_entry_after_it(at: int) -> None:
    entries = chain()
    record = {"what": "forged"}
    forged = hash_of(at + 1, entries[at].previous, record)
    entries[at] = replace(entries[at], record=record, hash=forged)
    reason = f"entry {at + 2} does not follow entry {at + 1}: one of the two was replaced"
    assert verify(entries) == Break(number=at + 2, reason=reason)


def test_a_whole_chain_made_anew_is_found_by_the_head_that_was_noted() -> None:
    entries: list[JournalEntry] = []
    records: list[dict[str, object]] = [RECORDS[0], {"what": "forged"}, *RECORDS[2:]]
    for record in records:
        entries.append(append(entries[-1] if entries else None, record))
    assert verify(entries) is None
    assert verify(entries, head=head()) == Break(
        number=6, reason="entry 6 is not the one that was noted: the chain was made anew"
    )


@pytest.mark.parametrize("at", range(6))
def test_a_deletion_is_found(at: int) -> None:
    entries = chain()
    del entries[at]
    found = verify(entries, head=head())
    assert found is not None
    assert (found.number, found.reason.startswith(f"entry {at + 1} is missing")) == (at + 1, True)


def test_a_cut_off_end_is_found_by_the_head_alone() -> None:
    assert verify(chain()[:4]) is None
    assert verify(chain()[:4], head=head()) == Break(number=5, reason="entry 5 is missing: the journal ended at 6")
    assert verify(chain(), head=JournalHead(number=4, hash=chain()[3].hash)) is None  # it has grown since


def test_an_entry_that_comes_twice_is_out_of_order() -> None:
    entries = chain()
    assert verify([*entries[:3], entries[2], *entries[3:]]) == Break(
        number=3, reason="entry 3 is out of order: entry 4 was expected"
    )


def test_every_other_order_is_found() -> None:
    entries = chain()[:4]
    holds = [order for order in permutations(entries) if verify(order) is None]
    assert holds == [tuple(entries)]


def test_what_is_not_json_any_more_is_a_change() -> None:
    entries = chain()
    for odd in (float("nan"), object(), {1: "x"}):
        entries[1] = replace(entries[1], record={"odd": odd})
        assert verify(entries) == Break(number=2, reason="entry 2 was changed: it is not JSON")


def test_canonical_json_has_one_way_to_write_a_value() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5,null,true]}'
    for odd in ({"x": float("nan")}, [float("inf")], {"x": [{1: 2}]}):
        with pytest.raises(ValueError):
            canonical_json(odd)


def test_hashes_are_the_same_in_every_release() -> None:
    assert hash_of(1, GENESIS, {"a": 1}) == "20639541d818d22dfd0cf07f726d49fd0e23bb22a5ea9dad07035142274f3022"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
records = st.dictionaries(st.text(max_size=4), values, max_size=4)


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_any_records_chain_survives_storage_as_text_and_no_change_survives_verify(
    given_records: list[dict[str, object]], data: st.DataObject
) -> None:
    entries: list[JournalEntry] = []
    for record in given_records:
        entry = append(entries[-1] if entries else None, record)
        entries.append(replace(entry, record=json.loads(canonical_json(record))))
    noted = JournalHead(number=len(entries), hash=entries[-1].hash)
    assert verify(entries, head=noted) is None
    at = data.draw(st.integers(0, len(entries) - 1))
    other = data.draw(records)
    if canonical_json(other) != canonical_json(given_records[at]):
        assert verify([*entries[:at], replace(entries[at], record=other), *entries[at + 1 :]]) is not None
    assert verify(entries[:at] + entries[at + 1 :], head=noted) is not None
