"""Replies to requests with an idempotency key, stored so that a repeated request is carried out only once."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, delete, insert, select, update

from gateway.store import rows
from gateway.store.schema import idempotency
from gateway.store.sql import Store

KEEP_SECONDS: Final = 86_400
# A request that is older and has no reply is taken to have died with its gateway, and may be tried again.
WORK_SECONDS: Final = 300


Stored = tuple[str, int | None, str | None]


class KeyReused(Exception):
    """The same idempotency key was used for a different request before."""


class StillRunning(Exception):
    """The first request with this idempotency key is still being carried out."""


class KeyWasMade(Exception):
    """The first request created an API key, which is shown only once and therefore not part of the stored reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReply:
    """The reply to a request; `body` is JSON."""

    status: int
    body: str


class IdempotencyKeys:
    """The idempotency keys in a store. Every method blocks, and may raise StoreError.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def claim(self, key: str, request: str) -> StoredReply | None:
        """Return the stored reply; None if the caller has to carry out the request and then call `settle` or `release`.

        Args:
            key: The client's idempotency key together with its owner.
            request: A digest of the request.

        Raises:
            KeyReused: The key was used for a different request before.
            StillRunning: The same request is being carried out.
        """
        now = int(self._store.now())

        def work(connection: Connection) -> Stored | None:
            rows.hold(connection)  # so that two gateways cannot claim the same key
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
        first_request, status, body = found
        if first_request != request:
            raise KeyReused("this idempotency key came with another request before; take a new key")
        if status is None or body is None:
            raise StillRunning("the first request with this idempotency key is being carried out; ask again")
        return StoredReply(status=status, body=body)

    def settle(self, key: str, reply: StoredReply) -> None:
        """Store the reply to a claimed request."""
        change = update(idempotency).where(idempotency.c.key == key)
        values = {"status": reply.status, "body": reply.body, "expires": int(self._store.now()) + KEEP_SECONDS}
        self._store.run_write(lambda connection: connection.execute(change.values(values)))

    def renew(self, key: str) -> None:
        """Prolong the claim of a request that is still being carried out."""
        change = update(idempotency).where(idempotency.c.key == key, idempotency.c.status.is_(None))
        expires = int(self._store.now()) + WORK_SECONDS
        self._store.run_write(lambda connection: connection.execute(change.values(expires=expires)))

    def release(self, key: str) -> None:
        """Drop the claim of a request that changed nothing, so that the client may try again."""
        statement = delete(idempotency).where(idempotency.c.key == key, idempotency.c.status.is_(None))
        self._store.run_write(lambda connection: connection.execute(statement))
