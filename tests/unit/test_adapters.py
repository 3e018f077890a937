"""Adapters as values: names, versions, lives, catalogs; loads that are tried again."""

import pytest

from adapters.catalog import Catalog, Entry, UnknownVersion
from adapters.lifecycle import TRANSITIONS, Event, IllegalLifecycleEvent, State, advance
from adapters.manifest import Manifest
from adapters.reference import AdapterRef, InvalidReference, check_name, split_version

MANIFEST = Manifest(
    digest="ab" * 32, base="base", rank=1, alpha=2.0, target_modules=("q_proj",), size_bytes=1, tensors=1
)


def entry(name: str = "support", digest: str = "ab" * 32) -> Entry:
    return Entry(ref=AdapterRef(name, digest), manifest=MANIFEST, folder="/registry/x", source="/home/x", created=1)


# Names


@pytest.mark.parametrize("name", ["support", "a", "A.b_c-9", "x" * 64])
def test_a_good_name_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a@b", "x" * 65, "é", "auto", "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidReference):
        check_name(name)


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "ab" * 33, "zz" * 32])
def test_a_reference_needs_a_digest(digest: str) -> None:
    with pytest.raises(InvalidReference):
        AdapterRef("support", digest)


def test_a_version_is_written_with_twelve_digits() -> None:
    assert str(AdapterRef("support", "0123456789abcdef" * 4)) == "support@0123456789ab"


def test_a_version_is_split_at_its_sign() -> None:
    assert split_version("support@012345") == ("support", "012345")


@pytest.mark.parametrize(
    "version", ["support", "support@", "support@01234", "support@ABCDEF", "@012345", "a@b@012345", "auto@012345"]
)
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(InvalidReference):
        split_version(version)


# Lives


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_a_life_has_the_steps_of_the_table_and_no_others(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalLifecycleEvent):
            advance(state, event)


def test_an_illegal_event_leaves_the_entry_as_it_was() -> None:
    one = entry()
    with pytest.raises(IllegalLifecycleEvent):
        one.after(Event.LOADED)
    assert one.state is State.REGISTERED
    assert one.after(Event.VERIFY).after(Event.LOAD).after(Event.LOAD_FAILED, "too large").reason == "too large"


# The catalog


def test_a_catalog_is_changed_by_making_another() -> None:
    first, second, other = entry(), entry(digest="cd" * 32), entry("legal")
    empty = Catalog()
    full = Catalog.of([first]).with_entry(second).with_entry(other)
    assert (len(empty), len(full)) == (0, 3)
    assert list(full) == [first, second, other]
    assert full.get(second.ref.version) is second
    assert full.of_name("support") == (first, second)
    less = full.without(first.ref.version)
    assert (list(less), len(full)) == ([second, other], 3)
    with pytest.raises(UnknownVersion, match="is not registered"):
        less.get(first.ref.version)
