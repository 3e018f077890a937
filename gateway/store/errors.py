"""What can go wrong with the store; each error says what to do.

StoreError
├── StoreUnavailable   gone, slow, full or read-only: serve on, try again
│   └── SessionsNotKept   behind a pooler that lends its sessions: another pooler mode, or none
├── StaleWrite         someone else was first: read again
├── Fenced             another leader has taken over: write no more
├── StoreTooNew        written by a later release: upgrade this one
└── StoreUnreadable    damaged, or not ours: restore it
"""


class StoreError(Exception):
    """The store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is too slow, full, or takes no writes.

    If `write` raises it, the change may or may not be stored (the answer may have been lost):
    read again, or repeat it with the same `expected`, which is then refused as a StaleWrite.
    """


class SessionsNotKept(StoreUnavailable):
    """A pooler lends sessions of PostgreSQL for a transaction, so locks and notifications are lost.

    At a start this is refused; a pooler that comes later is as bad as a store that is away, and as harmless.
    """


class StaleWrite(StoreError):
    """The state is no longer the one that the change was made from; nothing was written."""


class Fenced(StoreError):
    """Another leader has taken over since; nothing was written."""


class StoreTooNew(StoreError):
    """The store was written by a later release."""


class StoreUnreadable(StoreError):
    """What is stored is there and cannot be understood."""
