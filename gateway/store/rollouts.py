"""Rollouts as they are stored: conversion between a rollout and its row."""

from typing import Any

import msgspec

from gateway.rollout.record import RolloutRecord, StoredRollout, UnreadableRollout, decode, encode
from gateway.store.errors import StoreUnreadable


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The stored JSON of one rollout; `body` is the part that `rollout/record.py` writes."""

    id: str
    alias: str
    is_open: bool
    body: dict[str, Any]


def to_row(stored: StoredRollout) -> RolloutRow:
    """Return the row to store for a rollout."""
    return RolloutRow(id=stored.id, alias=stored.alias, is_open=stored.is_open, body=encode(stored))


def from_row(row: RolloutRow) -> StoredRollout:
    """Return the rollout in a row."""
    return decode(row.body, id=row.id, alias=row.alias, is_open=row.is_open)


def readable(stored: StoredRollout) -> RolloutRecord:
    """Return a rollout's record.

    Raises:
        StoreUnreadable: This release cannot read the rollout.
    """
    if isinstance(stored, UnreadableRollout):
        raise StoreUnreadable(stored.problem)
    return stored
