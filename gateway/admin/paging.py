"""Page through long lists: `limit` and a cursor in the query, `next` in the reply.

A cursor holds the place in the list's order where a page ended, not the number of entries before it. So
an entry that exists the whole time is listed exactly once, even if others are added or removed meanwhile.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Final, TypeVar

from fastapi import Query

from gateway.errors import BadRequest

T = TypeVar("T")
# The sort key of an entry: a number, then a name to order entries of the same number.
Place = tuple[int, str]

MAX_PAGE: Final = 1_000
# A cursor is `NUMBER.NAME`; these are the characters of aliases, versions and ids.
_CURSOR: Final = re.compile(r"[0-9]{1,15}\.[A-Za-z0-9._@-]{1,200}")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="At most so many")]
After = Annotated[
    str | None,
    Query(
        description="`next` of the page before; without it the first page",
        json_schema_extra={"pattern": f"^{_CURSOR.pattern}$"},
    ),
]
Before = After


def page(
    entries: Iterable[T], place: Callable[[T], Place], cursor: str | None, limit: int, *, newest_first: bool = False
) -> tuple[list[T], str | None]:
    """Return a page of `entries` in the order of their places, and the cursor of the next page; None after the last.

    Raises:
        BadRequest: The cursor is malformed.
    """
    since = place_of(cursor) if cursor is not None else None
    ordered = sorted(entries, key=place, reverse=newest_first)
    if since is not None:
        ordered = [each for each in ordered if (place(each) < since if newest_first else place(each) > since)]
    return cut(ordered, place, limit)


def cut(entries: list[T], place: Callable[[T], Place], limit: int) -> tuple[list[T], str | None]:
    """Return the first `limit` entries and the cursor of the next page; None if there are no more.

    `entries` are in order, and one more than `limit` if there is a next page.
    """
    on_page = entries[:limit]
    return on_page, cursor_of(place(on_page[-1])) if len(entries) > limit else None


def cursor_of(place: Place) -> str:
    """Return the cursor of the page that begins after `place`."""
    return f"{place[0]}.{place[1]}"


def place_of(cursor: str) -> Place:
    """Return the place that a cursor stands for.

    Raises:
        BadRequest: The cursor is malformed.
    """
    if _CURSOR.fullmatch(cursor) is None:
        raise BadRequest(
            f"`{cursor[:100]}` is no cursor; send `next` as the page before had it, or none for the first page.",
            code="invalid_cursor",
        )
    number, _, name = cursor.partition(".")
    return int(number), name
