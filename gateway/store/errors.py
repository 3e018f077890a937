"""Errors of the store; the text of each says what an operator can do about it.

StoreError
├── StoreUnavailable   away, slow, full or read-only: go on serving, try again later
│   └── SessionsNotKept   the pooler shares sessions: set another pool mode, or connect without it
├── StaleWrite         the state has changed meanwhile: read it again
├── Fenced             another leader has taken over: stop writing
├── StoreTooNew        written by a later release: upgrade this one
└── StoreUnreadable    damaged, or no store of Loragate: restore a backup
"""


class StoreError(Exception):
    """The store could not carry out a call."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is too slow, full, or takes no writes.

    If `write` raises it, the change may or may not be stored (the answer may have been lost):
    read again, or repeat it with the same `expected`, which is then refused as a StaleWrite.
    """


class SessionsNotKept(StoreUnavailable):
    """A connection pooler shares sessions of PostgreSQL between transactions, which loses locks and notifications.

    A gateway refuses to start with such a pooler. If one is put in between while a gateway runs, the gateway treats
    the store as unavailable and goes on serving.
    """


class StaleWrite(StoreError):
    """The state has changed since the caller read it; nothing was written."""


class Fenced(StoreError):
    """Another leader has taken over from the one that tried to write; nothing was written."""


class StoreTooNew(StoreError):
    """The store was written by a later release than this one."""


class StoreUnreadable(StoreError):
    """The store was reached, but its content cannot be decoded."""
