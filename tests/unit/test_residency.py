"""Which versions an engine holds, decided on values."""

from hypothesis import given
from hypothesis import strategies as st

from adapters.residency import SETTLED_SECONDS, Keep, VersionStanding, homes, to_bring, to_evict

NOW = 1_000.0


def test_the_rest_go_first_then_what_a_rollback_needs_then_what_is_served() -> None:
    standings = {
        "served": VersionStanding(Keep.SERVING, 1.0),
        "rollback": VersionStanding(Keep.ROLLBACK, 2.0),
        "rest": VersionStanding(Keep.REST, 3.0),
    }
    held = dict(standings)
    order = []
    while (version := to_evict(held)) is not None:
        order.append(version)
        del held[version]
    assert order == ["rest", "rollback", "served"]


def test_among_equals_the_least_recently_used_goes() -> None:
    standings = {
        "old": VersionStanding(Keep.REST, 1.0),
        "new": VersionStanding(Keep.REST, 9.0),
        "never": VersionStanding(Keep.REST),
    }
    assert to_evict(standings) == "never"
    del standings["never"]
    assert to_evict(standings) == "old"


def test_a_version_that_is_no_longer_registered_goes_before_all() -> None:
    assert to_evict({"served": VersionStanding(Keep.REST), "gone": VersionStanding(Keep.NONE, 9.0)}) == "gone"


def test_a_free_slot_goes_to_the_version_that_matters_most() -> None:
    standings = {"rest": VersionStanding(Keep.REST, 9.0), "served": VersionStanding(Keep.SERVING)}
    assert to_bring({}, standings, 1, NOW) == ("served", None)


def test_a_full_engine_swaps_an_idle_version_for_one_of_a_higher_kind() -> None:
    standings = {"rest": VersionStanding(Keep.REST, NOW - SETTLED_SECONDS), "served": VersionStanding(Keep.SERVING)}
    assert to_bring({"rest": standings["rest"]}, standings, 1, NOW) == ("served", "rest")


def test_a_version_in_use_is_not_swapped_out_unasked() -> None:
    standings = {"rest": VersionStanding(Keep.REST, NOW - 1), "served": VersionStanding(Keep.SERVING)}
    assert to_bring({"rest": standings["rest"]}, standings, 1, NOW) is None


def test_among_equals_nothing_is_swapped_unasked() -> None:
    standings = {"a": VersionStanding(Keep.SERVING, 1.0), "b": VersionStanding(Keep.SERVING, 900.0)}
    assert to_bring({"a": standings["a"]}, standings, 1, NOW) is None


def test_nothing_is_brought_when_everything_is_there() -> None:
    assert to_bring({"a": VersionStanding()}, {"a": VersionStanding()}, 4, NOW) is None


VERSIONS = st.text("abcdef", min_size=1, max_size=4)
STANDINGS = st.dictionaries(
    VERSIONS, st.builds(VersionStanding, st.sampled_from(Keep), st.floats(0, NOW, allow_nan=False)), max_size=12
)


@given(standings=STANDINGS, slots=st.integers(1, 6))
def test_bringing_comes_to_rest_and_holds_what_matters_most(standings: dict[str, VersionStanding], slots: int) -> None:
    held: dict[str, VersionStanding] = {}
    steps = 0
    while (step := to_bring(held, standings, slots, NOW * 2)) is not None:
        version, instead_of = step
        held.pop(instead_of or "", None)
        held[version] = standings[version]
        steps += 1
        assert len(held) <= slots
        assert steps <= len(standings) * 2
    kept = sorted((standing.keep for standing in held.values()), reverse=True)
    best = sorted((standing.keep for standing in standings.values()), reverse=True)[:slots]
    assert kept == best


@given(st.lists(st.sampled_from("pqrstuv"), min_size=1, unique=True), st.integers(1, 4))
def test_an_engine_that_goes_moves_only_the_versions_it_held(engines: list[str], copies: int) -> None:
    for number in range(30):
        version = f"v{number}"
        before = homes(version, engines, copies)
        assert len(before) == min(copies, len(engines))
        gone = engines[0]
        after = homes(version, [engine for engine in engines if engine != gone], copies)
        assert set(before) - {gone} <= set(after)


def test_versions_are_spread_evenly_over_engines() -> None:
    engines = ["a", "b", "c", "d"]
    counts = dict.fromkeys(engines, 0)
    for number in range(4_000):
        counts[homes(f"version-{number}", engines, 1)[0]] += 1
    assert all(900 < count < 1_100 for count in counts.values())
    assert homes("v", engines, None) == homes("v", engines, 4)
