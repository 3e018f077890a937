"""Long lists, a page at a time: `limit` and a cursor in the query, `next` in the reply.

A cursor says where a page ended in the list's order, not how many entries came before. So
whatever is added or removed meanwhile, each entry that was there all the time comes once.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Final, TypeVar

from fastapi import Query

from gateway.errors import BadRequest

T = TypeVar("T")
# Where an entry stands: a number, then a name among those of the same number.
Place = tuple[int, str]

MAX_PAGE: Final = 1_000
# Aliases, versions and ids are written with these.
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
    """Return a page of `entries` in the order of their places, and the cursor for the next; None after the last.

    Raises:
        BadRequest: The cursor is not one of ours.
    """
    since = place_of(cursor) if cursor is not None else None
    ordered = sorted(entries, key=place, reverse=newest_first)
    if since is not None:
        ordered = [each for each in ordered if (place(each) < since if newest_first else place(each) > since)]
    return cut(ordered, place, limit)


def cut(entries: list[T], place: Callable[[T], Place], limit: int) -> tuple[list[T], str | None]:
    """Return the first `limit` of entries of which one more was asked for, and the cursor; None after the last."""
    shown = entries[:limit]
    return shown, cursor_of(place(shown[-1])) if len(entries) > limit else None


def cursor_of(place: Place) -> str:
    """Return the cursor for what comes after `place`."""
    return f"{place[0]}.{place[1]}"


def place_of(cursor: str) -> Place:
    """Return the place that a cursor stands for.

    Raises:
        BadRequest: It is not one of ours.
    """
    if _CURSOR.fullmatch(cursor) is None:
        raise BadRequest(
            f"`{cursor[:100]}` is no cursor; send `next` as the page before had it, or none for the first page.",
            code="invalid_cursor",
        )
    number, _, name = cursor.partition(".")
    return int(number), name
