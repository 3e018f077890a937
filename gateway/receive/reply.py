"""A reply on its way from an engine to a client: its head, its body's framing, its timing and its usage.

`Reply` knows neither of the two connections: it takes what the engine sends and returns what is to be written.
"""

from typing import Final

from gateway.errors import LoragateError
from gateway.observe.ledger import Cell
from gateway.openai.endpoints import Dialect
from gateway.pipeline import Placement
from gateway.ports import ReplyHead
from gateway.receive.early_head import COMMENT, COMMENT_CHUNK, UnstreamedReply
from gateway.receive.engine_headers import forwardable_headers, is_event_stream
from gateway.receive.failures import connection_header, event_of, status_line
from gateway.receive.request import Request
from gateway.receive.tap import Tap
from gateway.serve.content import has_content
from gateway.serve.sse import CONTENT, EventStream
from gateway.serve.whole_reply import WholeReply

# Bytes of text per token, for estimates where a reply has no usage: OpenAI's rule of thumb for English.
BYTES_PER_TOKEN: Final = 4
_FAILED: Final = 400


class Reply:
    """One reply that has begun.

    Args:
        head: The head that the engine sent.
        request: The request that it answers; its `keep_alive` is cleared if the reply can only end by closing.
        cell: Where its timing is counted.
        hides_usage: Remove the usage from the stream: the gateway asked for it, not the client.
        fingerprint: The engine's `system_fingerprint`, if an earlier stream has told it.
        is_early: The client has got an early head already.

    `tap` is set where the request is copied for evaluators; it gets all that the engine sends.
    """

    __slots__ = (
        "_cell",
        "_events",
        "_is_chunked",
        "_last_at",
        "_passing",
        "_received_at",
        "_unstreamed",
        "_usage",
        "_whole",
        "pieces",
        "status",
        "tap",
    )

    def __init__(
        self,
        head: ReplyHead,
        request: Request,
        cell: Cell,
        *,
        hides_usage: bool,
        fingerprint: bytes | None,
        is_early: bool = False,
    ) -> None:
        self._cell = cell
        self._received_at = request.received_at
        self._last_at = 0.0  # when the last content came
        self.pieces = 0  # how many events with content a stream has had
        self._usage: tuple[int, int] | None = None  # prompt and completion tokens, once the reply is complete
        self.tap: Tap | None = None
        self._events: EventStream | None = None
        self._whole: WholeReply | None = None
        self._unstreamed: UnstreamedReply | None = None  # turns the body into an event, where an early head was sent
        self.status = status = head.status
        if is_event_stream(head.headers):
            self._events = EventStream(hide_usage=hides_usage, fingerprint=fingerprint)
        else:
            self._whole = WholeReply()
            if is_early:
                self._unstreamed = UnstreamedReply(request.endpoint.dialect, status)
        # The gateway may add an event to a stream or remove one, so the engine's length does not hold for it.
        has_length = head.length is not None and self._events is None
        self._is_chunked = is_early or (not has_length and not request.is_http10 and status not in (204, 304))
        self._passing = self._events if self._is_chunked else None
        if not has_length and request.is_http10:
            request.keep_alive = False

    def head(self, head: ReplyHead, request: Request, placed: Placement, overhead_seconds: float) -> bytes:
        """Return the head for the client."""
        lines = [status_line(head.status), forwardable_headers(head.headers)]
        lines.append(
            b"x-request-id: %b\r\nx-loragate-version: %b\r\nx-loragate-arm: %b\r\nx-loragate-route-reason: %b\r\n"
            % (request.id, placed.version.encode(), placed.arm.encode(), placed.reason.encode())
        )
        if request.reply_headers:
            lines.append(request.reply_headers)
        if request.lease is not None:
            lines.append(request.lease.headers(request.received_at))
        if self._events is None:
            lines.append(b"x-loragate-overhead-ms: %.3f\r\n" % (overhead_seconds * 1000))
        if self._is_chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif self._events is None and head.length is not None:
            lines.append(b"content-length: %d\r\n" % head.length)
        lines.append(connection_header(keep_alive=request.keep_alive, is_http10=request.is_http10))
        lines.append(b"\r\n")
        return b"".join(lines)

    def body(self, data: bytes, now: float, *, is_complete: bool) -> bytes:
        """Return the client's bytes for the next part of the body, framed."""
        if self.tap is not None:
            self.tap.data(data)
        if self._events is not None:
            data = self._pass_on(data, now, is_complete=is_complete)
        elif self._whole is not None:
            self._whole.take(data)
            if self._unstreamed is not None:
                data = self._unstreamed.take(data, is_complete=is_complete)
        if not self._is_chunked:
            return data
        framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return framed + b"0\r\n\r\n" if is_complete else framed

    def passes(self, chunk: bytes, now: float) -> bool:
        """Whether a chunk of whole events goes to the client unchanged: the usual case of a stream, kept fast."""
        events = self._passing
        if events is None or not (kind := events.passes(chunk)):
            return False
        if self.tap is not None:
            self.tap.chunk(chunk)
        if kind == CONTENT:
            if self._last_at:
                self._cell.observe_token_gap(now - self._last_at)
                self._last_at = now
                self.pieces += 1
            else:
                self._saw_content(now)
        return True

    def _pass_on(self, data: bytes, now: float, *, is_complete: bool) -> bytes:
        """Return the client's part of a stream's new bytes, and observe the timing of content."""
        events = self._events
        assert events is not None
        was_split = events.is_split
        data = events.feed(data)
        if data and (was_split or has_content(data)):
            self._saw_content(now)
        return data + events.rest() if is_complete else data

    def _saw_content(self, now: float) -> None:
        if self._last_at:
            self._cell.observe_token_gap(now - self._last_at)
        else:
            self._cell.observe_first_token(now - self._received_at)
            if self.tap is not None:
                self.tap.first_content(now)
        self._last_at = now
        self.pieces += 1

    @property
    def waits_for_content(self) -> bool:
        """Whether this is a stream that has begun and has had no content yet."""
        return self._events is not None and not self._last_at

    def on_complete(self, fingerprints: dict[str, bytes], engine_url: str) -> None:
        """Record what a complete reply has told: its usage, and the engine's `system_fingerprint`."""
        usage = None
        if self._events is not None:
            usage = self._events.usage
            if self._events.fingerprint is not None:
                fingerprints[engine_url] = self._events.fingerprint
        elif self._whole is not None and self.status == 200:
            usage = self._whole.usage()
        self._usage = usage
        if usage is not None:
            self._cell.prompt_tokens += usage[0]
            self._cell.generation_tokens += usage[1]
        if self.status >= 400:
            self._cell.count_error("engine_status")

    def usage_tokens(self) -> int:
        """Return prompt and completion tokens together, from a complete reply's usage; 0 if it had none."""
        return sum(self._usage) if self._usage is not None else 0

    def estimate_tokens(self, prompt_tokens: int, tokens_per_piece: int) -> int:
        """Return an estimate of the tokens used so far, from partial usage and from what has come.

        Args:
            prompt_tokens: An estimate for the prompt, used if the reply has not told.
            tokens_per_piece: How many tokens the client has asked for in each event (`stream_interval`).
        """
        if self.status >= _FAILED:
            return 0
        if self._events is None:
            size = self._whole.size if self._whole is not None else 0
            return prompt_tokens + size // BYTES_PER_TOKEN
        prompt, generated = self._events.usage or (0, 0)
        return (prompt or prompt_tokens) + max(generated, self.pieces * tokens_per_piece)

    @property
    def has_failed(self) -> bool:
        """Whether a stream held an error event, or a good reply was no stream although an early head promised one."""
        if self._events is None:
            return self._unstreamed is not None and self.status < _FAILED
        return self._events.has_failed

    def end_with(self, error: LoragateError, dialect: Dialect) -> bytes | None:
        """Return the event that ends a stream with an error; None for a whole reply, where only aborting can tell."""
        event = event_of(error, dialect)
        if self._events is not None:
            if self._events.is_split:
                event = b"\n\n" + event
            event = self._events.whole_rest() + event
        elif self._unstreamed is None:
            return None
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event) if self._is_chunked else event

    @property
    def has_an_end(self) -> bool:
        """Whether its framing marks its end (chunked), so that the connection can be kept after an error."""
        return self._is_chunked

    def comment(self) -> bytes:
        """Return an SSE comment, framed; empty inside an event and in replies that are no stream."""
        if self._events.is_split if self._events is not None else self._unstreamed is None:
            return b""
        return COMMENT_CHUNK if self._is_chunked else COMMENT
