"""A view of the admin API is filled from the attributes of the values that it shows."""

from dataclasses import dataclass

import pytest

from gateway.admin.models.records import CopiedView, view_of


class StageView(CopiedView):
    name: str
    parts: list[int]
    count: int


@dataclass(frozen=True)
class NamedStage:
    name: str
    parts: tuple[int, ...]


def test_a_view_takes_each_field_from_the_first_value_that_has_it_unless_it_is_given() -> None:
    first, second = NamedStage("first", (1,)), NamedStage("second", (2,))
    assert view_of(StageView, first, second, count=3) == StageView(name="first", parts=[1], count=3)
    assert view_of(StageView, first, parts=(4, 5), count=2).parts == [4, 5]


def test_a_view_without_one_of_its_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        view_of(StageView, NamedStage("first", (1,)))
