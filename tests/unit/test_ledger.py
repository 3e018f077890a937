"""Counts are exact, and add up over workers."""

import pytest

from gateway.observe.ledger import DURATION_BOUNDS, ITL_BOUNDS, OVERHEAD_BOUNDS, TTFT_BOUNDS, Ledger, sum_cells


def test_a_cell_counts_what_it_saw() -> None:
    cell = Ledger().cell("a", "v")
    cell.count_status(200)
    cell.count_status(200)
    cell.count_error("x")
    assert (cell.statuses, cell.errors) == ({200: 2}, {"x": 1})


@pytest.mark.parametrize(
    ("observe", "field", "bounds"),
    [
        ("observe_first_token", "ttft", TTFT_BOUNDS),
        ("observe_token_gap", "itl", ITL_BOUNDS),
        ("observe_duration", "duration", DURATION_BOUNDS),
        ("observe_overhead", "overhead", OVERHEAD_BOUNDS),
    ],
)
def test_an_observation_falls_into_the_bucket_that_it_is_at_most(
    observe: str, field: str, bounds: tuple[float, ...]
) -> None:
    cell = Ledger().cell()
    values = [*bounds, bounds[-1] * 2]
    for value in values:
        getattr(cell, observe)(value)
    histogram = getattr(cell, field)
    assert histogram.counts == [1] * (len(bounds) + 1)
    assert histogram.sum == pytest.approx(sum(values))
    getattr(cell, observe)(0.0)
    assert histogram.counts[0] == 2
    assert list(bounds) == sorted(set(bounds))


def test_merging_adds_cells_of_the_same_version_and_leaves_the_parts_alone() -> None:
    ledgers = [Ledger(), Ledger()]
    for number, ledger in enumerate(ledgers, start=1):
        cell = ledger.cell("b", "v")
        assert ledger.cell("b", "v") is cell
        cell.in_flight = cell.prompt_tokens = cell.generation_tokens = cell.retries = number
        cell.count_status(200)
        cell.count_error("e")
        cell.observe_duration(1.0)
    ledgers[1].cell("a", "v").count_status(404)
    first, second = sum_cells(ledger.cells() for ledger in ledgers)
    assert (first.alias, second.alias) == ("a", "b")
    assert (second.in_flight, second.prompt_tokens, second.generation_tokens, second.retries) == (3, 3, 3, 3)
    assert (second.statuses, second.errors, second.duration.sum) == ({200: 2}, {"e": 2}, 2.0)
    assert ledgers[0].cell("b", "v").in_flight == 1
    assert sum_cells([]) == []
