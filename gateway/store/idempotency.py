"""Remember what a repeated request was answered, so that it is carried out once."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from gateway.store import rows
from gateway.store.schema import idempotency
from gateway.store.sql import Store

KEEP_SECONDS: Final = 86_400
# A request that has not ended by then has died with its gateway, and may be tried again.
WORK_SECONDS: Final = 300


Stored = tuple[str, int | None, str | None]


class KeyReused(Exception):
    """The key came with another request before."""


class StillRunning(Exception):
    """The first request with this key is being carried out."""


class KeyWasMade(Exception):
    """The first request has made a key for the API, which is shown once and is no part of what is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReply:
    """What a request was answered; the body is JSON."""

    status: int
    body: str


class IdempotencyKeys:
    """What was answered under which key.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, key: str, request: str) -> StoredReply | None:
        """Return what was answered before; None when the request is yours to carry out, then `settle` or `release`.

        Args:
            key: The client's key, together with whose it is.
            request: A digest of what is asked for.

        Raises:
            KeyReused: It came with another request before.
            StillRunning: The same request is being carried out.
        """
        now = int(self._store.now())

        def work(connection: Connection) -> Stored | None:
            rows.hold(connection)  # or two could claim one key
            connection.execute(delete(idempotency).where(idempotency.c.expires <= now))
            table = idempotency.c
            found = connection.execute(
                select(table.request, table.status, table.body).where(table.key == key)
            ).one_or_none()
            if found is not None:
                return found.request, found.status, found.body
            connection.execute(insert(idempotency).values(key=key, request=request, expires=now + WORK_SECONDS))
            return None

        found = self._store.run_write(work)
        if found is None:
            return None
        known, status, body = found
        if known != request:
            raise KeyReused("this idempotency key came with another request before; take a new key")
        if status is None or body is None:
            raise StillRunning("the first request with this idempotency key is being carried out; ask again")
        return StoredReply(status=status, body=body)

    def settle(self, key: str, reply: StoredReply) -> None:
        """Remember what a claimed request was answered."""
        change = update(idempotency).where(idempotency.c.key == key)
        values = {"status": reply.status, "body": reply.body, "expires": int(self._store.now()) + KEEP_SECONDS}
        self._store.run_write(lambda connection: connection.execute(change.values(values)))

    def renew(self, key: str) -> None:
        """Say that a claimed request is still being carried out."""
        change = update(idempotency).where(idempotency.c.key == key, idempotency.c.status.is_(None))
        expires = int(self._store.now()) + WORK_SECONDS
        self._store.run_write(lambda connection: connection.execute(change.values(expires=expires)))

    def release(self, key: str) -> None:
        """Forget a claimed request that changed nothing, so that it may be tried again."""
        gone = delete(idempotency).where(idempotency.c.key == key, idempotency.c.status.is_(None))
        self._store.run_write(lambda connection: connection.execute(gone))
