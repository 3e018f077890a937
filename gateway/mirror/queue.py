"""A worker's queue of captured requests for the node: bounded in items and bytes, sent in batches.

`offer` only appends a reference to a list, and a batch is sent a moment later, after its callers have their replies.
What does not fit is dropped and counted. Before sending, the queue checks that the channel has room, so a node that
does not read neither blocks the worker nor fills its memory.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest
from gateway.mirror.faults import safe_traceback
from gateway.observe.mirror_counts import MirrorCounts

log = logging.getLogger("loragate.worker")

# How long a captured request waits in the worker.
FLUSH_SECONDS: Final = 0.1
# The bounds on one message, so that other messages do not wait long behind it.
BATCH_BYTES: Final = 1024 * 1024
BATCH_ITEMS: Final = 100


class MirrorQueue:
    """One worker's queue; used on its event loop only.

    Args:
        bounds: The bounds on items and bytes.
        send: Sends captured requests to the node.
        has_room: Whether the channel to the node can take more now.
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
        self._has_logged = False

    def reserve(self, size: int) -> bool:
        """Reserve bytes for a request that is being captured; False if there is no room."""
        if self._bytes + size > self._most_bytes:
            return False
        self._bytes += size
        return True

    def release(self, size: int) -> None:
        """Give reserved bytes back."""
        self._bytes -= size

    def offer(self, captured: CapturedRequest) -> None:
        """Add a captured request that has ended well; its bytes were reserved."""
        if len(self._waiting) >= self._most_items:
            self._bytes -= captured.size
            self.counts.drop("queue_full")
            return
        self._waiting.append(captured)
        if not self._is_due:
            self._is_due = True
            self._soon(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Send one batch. The next one follows later, so that requests are served in between."""
        self._is_due = False
        try:
            was_sent = self._send_batch()
        except Exception as error:  # noqa: BLE001 (a bug here must end nothing else; its text may quote callers)
            was_sent = False
            self._fault(error)
        if self._waiting:
            self._is_due = True
            self._soon(0.0 if was_sent else FLUSH_SECONDS, self.flush)

    def _send_batch(self) -> bool:
        """Send the next batch; returns False if the channel has no room for it now."""
        waiting = self._waiting
        if not self._has_room():
            return False
        batch: list[CapturedRequest] = []
        size = 0
        while waiting and size < BATCH_BYTES and len(batch) < BATCH_ITEMS:
            captured = waiting.popleft()
            self._bytes -= captured.size
            size += captured.size
            batch.append(captured)
        try:
            self._send(batch)
        except Exception:  # the whole batch is lost; `flush` logs the error and counts one of its copies
            self.counts.drop("bug", len(batch) - 1)
            raise
        for captured in batch:
            self.counts.sample(captured.alias, captured.kind)
        return True

    def _fault(self, error: Exception) -> None:
        self.counts.drop("bug")
        if not self._has_logged:
            self._has_logged = True
            log.error("copies could not be handed on, and no caller noticed; this is a bug: %s", safe_traceback(error))

    def close(self) -> None:
        """Send what is left while the channel has room, because the worker ends."""
        try:
            while self._waiting and self._has_room():
                self._send_batch()
        except Exception as error:  # noqa: BLE001 (a bug here must end nothing else; its text may quote callers)
            self._fault(error)
