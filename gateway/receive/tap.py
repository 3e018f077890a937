"""The tap: captures a request and its reply for evaluators while the reply passes to the client.

It keeps references to the engine's bytes, not copies, up to a bound. Nothing here blocks or raises: a fault is counted
as `bug` and logged once, and the request goes on as if it were not captured.
"""

import logging
from typing import Final, Protocol

from gateway.decide.sample import Copy, pick_copy
from gateway.mirror.captured import CapturedRequest
from gateway.mirror.faults import safe_traceback
from gateway.observe.mirror_counts import MirrorCounts
from gateway.openai.endpoints import Dialect
from gateway.openai.identity import client_identity
from gateway.pipeline import Placement
from gateway.ports import ReplyHead
from gateway.receive.engine_headers import is_event_stream
from gateway.receive.request import Request

log = logging.getLogger("loragate.receive")

_OK: Final = 200
# Memory overhead of one part of the reply; and how much is reserved at once, so that most parts only count down.
PART_BYTES: Final = 48
RESERVE_BYTES: Final = 16 * 1024


class Offers(Protocol):
    """The queue for captured requests (`gateway/mirror/queue.py`). None of its methods blocks."""

    @property
    def counts(self) -> MirrorCounts:
        """Counts of captured, skipped and dropped requests."""

    def reserve(self, size: int) -> bool:
        """Reserve `size` bytes; False if there is no room."""

    def release(self, size: int) -> None:
        """Release `size` reserved bytes."""

    def offer(self, captured: CapturedRequest) -> None:
        """Queue a captured request whose reply is complete; its reservation goes with it."""


class Tap:
    """Captures one request; gives up when that takes too much memory."""

    __slots__ = ("_captured", "_left", "_most", "_parts", "_taps")

    def __init__(self, taps: "Taps", captured: CapturedRequest, most: int) -> None:
        self._taps = taps
        self._captured: CapturedRequest | None = captured
        self._parts = captured.parts
        self._most = most  # how many bytes it may still reserve for the reply
        self._left = 0  # reserved bytes that are not used yet

    def data(self, data: bytes) -> None:
        """Keep a part of the reply's body that has no chunk framing."""
        captured = self._captured
        if data and captured is not None:
            captured.plain.append(len(self._parts))
            self.chunk(data)

    def chunk(self, chunk: bytes) -> None:
        """Keep an HTTP chunk of the reply's body, framing included."""
        try:
            self._left = left = self._left - len(chunk) - PART_BYTES
            if left < 0 and not self._reserve():
                return
            self._parts.append(chunk)
        except Exception as error:  # noqa: BLE001 (the fence: a caller never meets a fault of the mirror)
            self._taps.fault(error)

    def _reserve(self) -> bool:
        """Reserve memory for what has come, and some in advance; give up and return False if there is none."""
        captured = self._captured
        if captured is None:
            return False
        size = min(max(RESERVE_BYTES, -self._left), self._most)
        if size + self._left < 0:
            self._give_up("too_large")
        elif not self._taps.offers.reserve(size):
            self._give_up("queue_full", is_loss=True)
        else:
            self._most -= size
            self._left += size
            captured.size += size
            return True
        return False

    def first_content(self, now: float) -> None:
        """Record when the reply's first content came, in monotonic seconds."""
        if self._captured is not None:
            self._captured.first_at = now

    def end(self, now: float, *, client_left: bool, has_failed: bool) -> None:
        """End the capture: queue the request if its reply is complete, else discard it."""
        captured = self._captured
        if captured is None:
            return
        try:
            if client_left:
                self._give_up("client_gone")
            elif has_failed:
                self._give_up("failed")
            else:
                self._captured = None
                captured.ended_at = now
                captured.size -= self._left
                self._taps.offers.release(self._left)
                self._taps.offers.offer(captured)
        except Exception as error:  # noqa: BLE001 (the fence: a caller never meets a fault of the mirror)
            self._taps.fault(error)

    def _give_up(self, reason: str, *, is_loss: bool = False) -> None:
        captured, self._captured = self._captured, None
        self._parts = []
        self._left = 0
        counts = self._taps.offers.counts
        if is_loss:
            counts.drop(reason)
        else:
            counts.skip(reason)
        if captured is not None:
            self._taps.offers.release(captured.size)


class Taps:
    """Decides which requests are captured.

    Args:
        offers: The queue for captured requests.
        request_bytes, reply_bytes: Larger requests and replies are not captured.
    """

    def __init__(self, offers: Offers, request_bytes: int, reply_bytes: int) -> None:
        self.offers = offers
        self._request_bytes = request_bytes
        self._reply_bytes = reply_bytes
        self._is_logged = False  # a fault has been logged already

    def of(self, request: Request, placed: Placement, head: ReplyHead, sent_at: float) -> Tap | None:
        """Return a tap for a request whose reply begins; None if it is not captured.

        Args:
            request: The request, still with its body.
            placed: Its placement, with a mirror.
            head: The reply's head.
            sent_at: When the request was sent to the engine, in monotonic seconds.
        """
        try:
            mirror = placed.mirror
            copy = pick_copy(mirror, placed.version, request.id) if mirror is not None else None
            return None if copy is None else self._begin(copy, request, placed, head, sent_at)
        except Exception as error:  # noqa: BLE001 (the fence: a caller never meets a fault of the mirror)
            self.fault(error)
            return None

    def _begin(self, copy: Copy, request: Request, placed: Placement, head: ReplyHead, sent_at: float) -> Tap | None:
        mirror, endpoint, counts = placed.mirror, request.endpoint, self.offers.counts
        body = request.body
        size = len(body)
        if mirror is None or endpoint.dialect is Dialect.PLAIN:
            return None
        if head.status != _OK:
            counts.skip("status")
        elif size > self._request_bytes or (head.length or 0) > self._reply_bytes:
            counts.skip("too_large")
        elif not self.offers.reserve(size):
            counts.drop("queue_full")
        else:
            tag = placed.exposure.tag if placed.exposure is not None else None
            captured = CapturedRequest(
                copy.kind,
                copy.control,
                copy.other,
                copy.served,
                placed.alias,
                tag.id if tag else "",
                tag.stage if tag else 0,
                mirror.capture,
                endpoint.path,
                request.id,
                request.caller.unit,
                mirror.salt,
                client_identity(request),
                request.task_header,
                body if isinstance(body, bytes) else body.whole(),
                is_event_stream(head.headers),
                size,
                sent_at,
            )
            return Tap(self, captured, self._reply_bytes)
        return None

    def fault(self, error: Exception) -> None:
        """Count a fault in this code, and log the first."""
        self.offers.counts.drop("bug")
        if not self._is_logged:
            self._is_logged = True
            log.error(
                "a request could not be copied, and its caller noticed nothing; this is a bug: %s",
                safe_traceback(error),
            )
