"""A worker's side of loading versions on demand: which requests wait for which version, and which were used lately."""

import logging
from collections.abc import Callable

from gateway.errors import VersionNotReady
from gateway.ports import Waiter
from gateway.workers.channel import Supplied, Used, Want

log = logging.getLogger("loragate.worker")


class WorkerSupply:
    """Asks the node for versions, once for each however many requests wait for it.

    Args:
        send: Writes a message to the node.
    """

    def __init__(self, send: Callable[[Want | Used], None]) -> None:
        self._send = send
        self._waiters: dict[str, list[Waiter]] = {}
        self.recent: dict[str, float] = {}

    def want(self, version: str, missing_at: str | None, waiter: Waiter) -> None:
        """Have a version loaded; `waiter` is called back later, exactly once."""
        waiters = self._waiters.setdefault(version, [])
        waiters.append(waiter)
        if len(waiters) == 1:
            self._send(Want(version, missing_at, self.recent))
            self.recent.clear()

    def on_supplied(self, message: Supplied) -> None:
        """Call back all requests that wait for the version."""
        for waiter in self._waiters.pop(message.version, ()):
            problem = message.problem
            error = None if problem is None else VersionNotReady(problem)
            try:
                waiter.on_supply(error, was_there=message.was_there)
            except Exception:  # one request's fault must not leave the others waiting, nor end the worker
                log.exception("a request that waited for `%s` could not go on; this is a bug", message.version)

    def tell_recent(self) -> None:
        """Report the versions used since the last report, if any were."""
        if self.recent:
            self._send(Used(self.recent))
            self.recent.clear()
