"""A worker's copies on their way to the node: bounded in items and bytes, handed on in batches.

`offer` only puts a reference into a list, and a batch leaves as it is, a moment after its callers
have their replies. What does not fit is dropped and counted. The channel to the node is asked for
its room first, so that a node that does not read holds up nothing and fills no memory.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest
from gateway.mirror.faults import told
from gateway.observe.mirror_counts import MirrorCounts

log = logging.getLogger("loragate.worker")

# How soon a copy leaves the worker.
FLUSH_SECONDS: Final = 0.1
# One message's copies, so that other messages do not wait long behind them.
BATCH_BYTES: Final = 1024 * 1024
BATCH_ITEMS: Final = 100


class MirrorQueue:
    """One worker's queue; all on its event loop.

    Args:
        bounds: What it may hold.
        send: Sends copies to the node.
        has_room: Whether it can take more now.
        soon: Calls a function after so many seconds.
    """

    def __init__(
        self,
        bounds: Bounds,
        send: Callable[[Sequence[CapturedRequest]], None],
        has_room: Callable[[], bool],
        soon: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.counts = MirrorCounts()
        self._most_items = bounds.queue_items
        self._most_bytes = bounds.queue_bytes
        self._send = send
        self._has_room = has_room
        self._soon = soon
        self._waiting: deque[CapturedRequest] = deque()
        self._bytes = 0
        self._is_due = False
        self._has_told = False

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes more; then they are taken."""
        if self._bytes + size > self._most_bytes:
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        self._bytes -= size

    def offer(self, taken: CapturedRequest) -> None:
        """Take over a request that has ended well, with the bytes reserved for it."""
        if len(self._waiting) >= self._most_items:
            self._bytes -= taken.size
            self.counts.drop("queue_full")
            return
        self._waiting.append(taken)
        if not self._is_due:
            self._is_due = True
            self._soon(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand on a batch; the next one in a while, so that requests get their turn in between."""
        self._is_due = False
        try:
            has_gone = self._hand_on()
        except Exception as error:  # noqa: BLE001 (the fence: told without its text)
            has_gone = False
            self._fault(error)
        if self._waiting:
            self._is_due = True
            self._soon(0.0 if has_gone else FLUSH_SECONDS, self.flush)

    def _hand_on(self) -> bool:
        """Send the next batch; returns False if the node has no room for it now."""
        waiting = self._waiting
        if not self._has_room():
            return False
        batch: list[CapturedRequest] = []
        size = 0
        while waiting and size < BATCH_BYTES and len(batch) < BATCH_ITEMS:
            taken = waiting.popleft()
            self._bytes -= taken.size
            size += taken.size
            batch.append(taken)
        try:
            self._send(batch)
        except Exception:  # counted for what it cost; the error goes on to the fence in `flush`, which counts one more
            self.counts.drop("bug", len(batch) - 1)
            raise
        for taken in batch:
            self.counts.sample(taken.alias, taken.kind)
        return True

    def _fault(self, error: Exception) -> None:
        self.counts.drop("bug")
        if not self._has_told:
            self._has_told = True
            log.error("copies could not be handed on, and no caller noticed; this is a bug: %s", told(error))

    def close(self) -> None:
        """Hand on what is left, as far as there is room for it: the worker ends."""
        try:
            while self._waiting and self._has_room():
                self._hand_on()
        except Exception as error:  # noqa: BLE001 (the fence: told without its text)
            self._fault(error)
