"""The tap: what is kept of a request that is copied, while its reply goes by.

It keeps references to the engine's bytes, no copies, up to a bound. Nothing in here waits or
raises: a fault is counted as `bug`, told once, and the request goes on as if it were not copied.
"""

import logging
from typing import Final, Protocol

from gateway.decide.sample import Copy, pick_copy
from gateway.mirror.captured import CapturedRequest
from gateway.mirror.faults import told
from gateway.observe.mirror_counts import MirrorCounts
from gateway.openai.endpoints import Dialect
from gateway.openai.identity import name_of
from gateway.pipeline import Placement
from gateway.ports import ReplyHead
from gateway.receive.engine_headers import is_event_stream
from gateway.receive.request import Request

log = logging.getLogger("loragate.receive")

_OK: Final = 200
# What a part takes beside its bytes; and how much is reserved at once, so that most parts only count down.
PART_BYTES: Final = 48
RESERVE_BYTES: Final = 16 * 1024


class Offers(Protocol):
    """Where what was taken goes: `gateway/mirror/queue.py`. Nothing of it waits."""

    @property
    def counts(self) -> MirrorCounts:
        """What became of copies so far."""

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes more; then they are taken."""

    def release(self, size: int) -> None:
        """Give back what was reserved."""

    def offer(self, taken: CapturedRequest) -> None:
        """Take over a request that has ended well, with what is reserved for it."""


class Tap:
    """One copied request's tap; given up when it takes too much."""

    __slots__ = ("_left", "_most", "_parts", "_taken", "_taps")

    def __init__(self, taps: "Taps", taken: CapturedRequest, most: int) -> None:
        self._taps = taps
        self._taken: CapturedRequest | None = taken
        self._parts = taken.parts
        self._most = most  # bytes of the reply that it may reserve yet
        self._left = 0  # of those that it has reserved

    def data(self, data: bytes) -> None:
        """Keep a part of the reply's body, without HTTP's framing."""
        taken = self._taken
        if data and taken is not None:
            taken.plain.append(len(self._parts))
            self.chunk(data)

    def chunk(self, chunk: bytes) -> None:
        """Keep an HTTP chunk of it, in its framing."""
        try:
            self._left = left = self._left - len(chunk) - PART_BYTES
            if left < 0 and not self._reserves():
                return
            self._parts.append(chunk)
        except Exception as error:  # noqa: BLE001 (the fence: a caller never meets a fault of the mirror)
            self._taps.fault(error)

    def _reserves(self) -> bool:
        """Whether there is room for what has come; some is reserved for what will come, too."""
        taken = self._taken
        if taken is None:
            return False
        size = min(max(RESERVE_BYTES, -self._left), self._most)
        if size + self._left < 0:
            self._give_up("too_large")
        elif not self._taps.offers.reserve(size):
            self._give_up("queue_full", is_loss=True)
        else:
            self._most -= size
            self._left += size
            taken.size += size
            return True
        return False

    def first_content(self, now: float) -> None:
        """The model has said something, for the first time."""
        if self._taken is not None:
            self._taken.first_at = now

    def end(self, now: float, *, client_left: bool, has_failed: bool) -> None:
        """The reply is over."""
        taken = self._taken
        if taken is None:
            return
        try:
            if client_left:
                self._give_up("client_gone")
            elif has_failed:
                self._give_up("failed")
            else:
                self._taken = None
                taken.ended_at = now
                taken.size -= self._left
                self._taps.offers.release(self._left)
                self._taps.offers.offer(taken)
        except Exception as error:  # noqa: BLE001 (the fence: a caller never meets a fault of the mirror)
            self._taps.fault(error)

    def _give_up(self, reason: str, *, is_loss: bool = False) -> None:
        taken, self._taken = self._taken, None
        self._parts = []
        self._left = 0
        counts = self._taps.offers.counts
        if is_loss:
            counts.drop(reason)
        else:
            counts.skip(reason)
        if taken is not None:
            self._taps.offers.release(taken.size)


class Taps:
    """Decides which requests are copied.

    Args:
        offers: Where copies go.
        request_bytes, reply_bytes: The largest that is copied.
    """

    def __init__(self, offers: Offers, request_bytes: int, reply_bytes: int) -> None:
        self.offers = offers
        self._request_bytes = request_bytes
        self._reply_bytes = reply_bytes
        self._is_told = False

    def of(self, request: Request, placed: Placement, head: ReplyHead, sent_at: float) -> Tap | None:
        """Return the tap of a request whose reply begins; None if it is not copied.

        Args:
            request: With its body.
            placed: Who serves it; its mirror is not None.
            head: The reply's.
            sent_at: When it was sent to the engine, monotonic seconds.
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
            taken = CapturedRequest(
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
                name_of(request),
                request.task_header,
                body if isinstance(body, bytes) else body.whole(),
                is_event_stream(head.headers),
                size,
                sent_at,
            )
            return Tap(self, taken, self._reply_bytes)
        return None

    def fault(self, error: Exception) -> None:
        """Count a fault of ours, and tell the first."""
        self.offers.counts.drop("bug")
        if not self._is_told:
            self._is_told = True
            log.error("a request could not be copied, and its caller noticed nothing; this is a bug: %s", told(error))
