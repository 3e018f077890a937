"""The admin API's paths for the journal: read it, verify it, and explain a decision."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import FastAPI, Query
from fastapi import Path as InPath

from gateway.admin.models.rollouts import REFUSALS, DecisionView, EntryView, HeadView, JournalCheck, JournalView
from gateway.admin.operations import Operations
from gateway.admin.paging import Limit
from gateway.admin.rollouts.operations import UnknownRollout
from gateway.admin.route_journal import member
from gateway.rollout import journal as chain
from gateway.rollout.explain import InvalidHead, UnknownDecision, sentences, standing_lines
from gateway.rollout.record import RolloutRecord
from gateway.rollout.replay import KIND, ReplayError, replay
from gateway.store.errors import StoreError
from gateway.store.sql import Store

# The largest integer in SQLite and PostgreSQL.
_LARGEST: Final = 2**63 - 1
_MAX_DIGITS: Final = 19  # of _LARGEST; Python refuses to convert texts of thousands of digits
_Number = Annotated[int, InPath(ge=1, le=_LARGEST, description="The entry's number, from 1")]


def add_journal(app: FastAPI, operations: Operations) -> None:
    """Add the paths for the journal to the control plane."""
    store = operations.state.store

    @app.get("/admin/v1/journal", tags=["journal"], responses=REFUSALS)
    async def list_journal(
        *,
        after: Annotated[int, Query(ge=0, le=_LARGEST, description="Only entries after this number")] = 0,
        limit: Limit = 100,
        alias: Annotated[str | None, Query(description="Only what changed this alias")] = None,
        newest: Annotated[bool, Query(description="The last `limit` entries instead of the first")] = False,
    ) -> JournalView:
        """Journal entries, the oldest first."""
        about = "" if alias is None else member("alias", alias)
        if newest:
            last = await asyncio.to_thread(lambda: store.journal(after=after, limit=limit, about=about, newest=True))
            return JournalView(entries=[EntryView.model_validate(each) for each in last], next=None)
        entries = await asyncio.to_thread(lambda: store.journal(after=after, limit=limit + 1, about=about))
        return JournalView(
            entries=[EntryView.model_validate(each) for each in entries[:limit]],
            next=entries[limit - 1].number if len(entries) > limit else None,
        )

    @app.get("/admin/v1/journal/verify", tags=["journal"], responses=REFUSALS)
    async def verify_journal(
        head: Annotated[
            str | None,
            Query(
                description="An entry noted elsewhere, NUMBER:HASH; without it, a missing end may not show",
                json_schema_extra={"pattern": "^[1-9][0-9]{0,17}:[0-9a-f]{64}$"},
            ),
        ] = None,
    ) -> JournalCheck:
        """Whether every entry follows from the one before it, and from the head if one is given."""
        noted_head = parse_head(head) if head is not None else None
        return await asyncio.to_thread(_check_chain, store, noted_head)

    @app.get("/admin/v1/journal/{number}", tags=["journal"], responses=REFUSALS)
    async def show_journal_entry(number: _Number) -> EntryView:
        """One journal entry."""
        return EntryView.model_validate(await asyncio.to_thread(_entry, store, number))

    @app.get("/admin/v1/decisions/{decision}", tags=["journal"], responses=REFUSALS)
    async def explain_decision(
        decision: Annotated[
            str, InPath(description="A journal entry's number, or a rollout's id for all of its story")
        ],
    ) -> DecisionView:
        """Who decided what, why, and on which figures: before and after, gates, weights, digests, the plan's hash."""
        return await _explain(operations, decision)


async def _explain(operations: Operations, decision: str) -> DecisionView:
    store = operations.state.store
    if decision.isascii() and decision.isdigit():
        if len(decision) > _MAX_DIGITS or not 1 <= int(decision) <= _LARGEST:
            raise UnknownDecision(f"the journal has no entry `{decision[:100]}`")
        return _decision_view(decision, [await asyncio.to_thread(_entry, store, int(decision))], None)
    try:
        record = await operations.rollouts.find(decision)
    except UnknownRollout:
        raise UnknownDecision(
            f"no decision `{decision}`; give a number of `loragate journal ls`, or a rollout's id"
        ) from None
    entries = await asyncio.to_thread(_read_story, store, record)
    view = _decision_view(record.rollout.id, entries, _check_replay(entries, record))
    if not record.rollout.is_over:
        with contextlib.suppress(StoreError):  # while the store is away, the story ends with the journal
            view.story += standing_lines((await operations.rollouts.standing(record)).readings)
    return view


def parse_head(text: str) -> chain.JournalHead:
    """Return the journal head that is written as NUMBER:HASH.

    Raises:
        InvalidHead: The text does not have this form.
    """
    number, _, digest = text.partition(":")
    is_number = number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS and 0 < int(number) <= _LARGEST
    if not is_number or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InvalidHead(
            f"`{text[:100]}` is no head; write NUMBER:HASH with 64 hex digits, as `journal export` prints it"
        )
    return chain.JournalHead(number=int(number), hash=digest)


def _check_chain(store: Store, noted_head: chain.JournalHead | None) -> JournalCheck:
    found = store.verify_journal()
    head = store.journal_head()
    if found is None and noted_head is not None:
        found = _compare_with_noted(store, noted_head)
    return JournalCheck(
        status="whole" if found is None else "broken",
        number=None if found is None else found.number,
        reason=None if found is None else found.reason,
        head=None if head is None else HeadView.model_validate(head),
    )


def _compare_with_noted(store: Store, noted_head: chain.JournalHead) -> chain.Break | None:
    """Compare a chain that is intact in itself with an entry that was noted elsewhere; None if the entry is in it."""
    entries = store.journal(after=noted_head.number - 1, limit=1)
    if not entries:
        return chain.Break(
            number=noted_head.number, reason=f"entry {noted_head.number} is missing: the end was cut off"
        )
    if entries[0].hash != noted_head.hash:
        reason = f"entry {noted_head.number} is not the one that was noted: the chain was made anew"
        return chain.Break(number=noted_head.number, reason=reason)
    return None


def _entry(store: Store, number: int) -> chain.JournalEntry:
    entries = store.journal(after=number - 1, limit=1)
    if not entries or entries[0].number != number:
        raise UnknownDecision(f"the journal has no entry `{number}`; `loragate journal ls` lists them")
    return entries[0]


def _read_story(store: Store, record: RolloutRecord) -> list[chain.JournalEntry]:
    """Return all entries that name a rollout, the oldest first."""
    entries: list[chain.JournalEntry] = []
    after, about = record.journal_after, member("rollout", record.rollout.id)
    while page := store.journal(after=after, about=about):
        entries += page
        after = page[-1].number
    return entries


def _check_replay(entries: Sequence[chain.JournalEntry], record: RolloutRecord) -> str:
    try:
        state = replay(each.record for each in entries if each.record.get("kind") == KIND)
    except ReplayError as error:
        return f"broken: {error}"
    return "as stored" if state == record.rollout else "other: the records lead elsewhere than to what is stored"


def _decision_view(decision: str, entries: Sequence[chain.JournalEntry], replayed: str | None) -> DecisionView:
    first = entries[0].record if entries else {}
    alias, rollout = first.get("alias"), first.get("rollout")
    return DecisionView(
        id=decision,
        alias=alias if isinstance(alias, str) else None,
        rollout=rollout if isinstance(rollout, str) else None,
        story=[line for each in entries for line in sentences(each.record)],
        entries=[EntryView.model_validate(each) for each in entries],
        replay=replayed,
    )
