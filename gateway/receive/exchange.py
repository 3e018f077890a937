"""One request under way: from a complete call to the last byte of its reply.

Belongs to one client connection. Sends the call to an engine, hands each part of the
reply on as it comes, tries once more elsewhere if the engine fails before the first
byte, and ends a stream in-band if it fails after. Knows no sockets, only its client's
`write` and its engine's `Link`.
"""

from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.errors import EngineTimeout, LoragateError, VersionNotReady
from gateway.observe.ledger import Cell
from gateway.pipeline import Placement, answer
from gateway.ports import Link, ReplyHead
from gateway.receive.endpoints import Dialect
from gateway.receive.failures import connection_header, event_of, reply_of, status_line
from gateway.receive.request import Request
from gateway.receive.wire import addressed
from gateway.serve.sse import EventStream, usage_of

if TYPE_CHECKING:
    from gateway.receive.protocol import ClientConnection

EVENT_STREAM: Final = b"text/event-stream"
# Hop-by-hop (RFC 9110, 7.6.1), or said by us instead.
_NOT_FORWARDED: Final = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"server", b"x-request-id",
     b"proxy-authenticate", b"trailer", b"upgrade", b"te")
)  # fmt: skip
NOT_FOUND: Final = 404
# The first engine, and one more.
ATTEMPTS: Final = 2
# How often a request may find its version gone from an engine that was said to have it: 1 in 3 times when few slots
# change hands all the time, always when the engine keeps nothing.
LOSSES: Final = 20
# Idle connections that may turn out dead for one request, before that counts as the engine's failure.
STALE_CONNECTIONS: Final = 3
# A whole reply is kept up to here to read its usage; a larger one (thousands of prompt
# log-probabilities) is passed on and its tokens are not counted.
LARGEST_READ_REPLY_BYTES: Final = 4 * 1024 * 1024


@lru_cache(maxsize=4096)
def quoted(name: str) -> bytes:
    """Return `name` as a JSON string."""
    return msgspec.json.encode(name)


class Exchange:
    """A request and its reply, between one client and one engine."""

    __slots__ = (
        "_attempts", "_cell", "_client", "_events", "_heard_at", "_hides_usage", "_is_chunked", "_is_counted",
        "_is_there", "_last_at", "_link", "_losses", "_parked_at", "_parked_seconds", "_placement", "_request",
        "_sent_at", "_stale", "_status", "_tried", "_whole", "has_begun", "is_over",
    )  # fmt: skip

    def __init__(self, client: "ClientConnection", request: Request) -> None:
        self._client = client
        self._request = request
        self._attempts = 0
        self._stale = 0
        self._tried: tuple[str, ...] = ()
        self._link: Link | None = None
        self._placement: Placement
        self._cell: Cell
        self._is_counted = False
        self._hides_usage = False
        self._events: EventStream | None = None
        self._whole: list[bytes] | None = None
        self._is_chunked = False
        self._status = 0
        self._sent_at = 0.0
        self._heard_at = 0.0  # the engine's last sign of life
        self._last_at = 0.0  # the last events
        self._parked_at = 0.0  # since when it waits for its version to be loaded; 0 if it does not
        self._parked_seconds = 0.0
        self._losses = 0
        self._is_there = False  # the engine has the version, so a 404 is its own answer
        self.has_begun = False  # the head has gone to the client
        self.is_over = False

    def begin(self) -> None:
        """Decide who serves, and send; may be over at once, with an error."""
        client = self._client
        try:
            self._placement = placed = answer(self._request.call, client.table(), client.engines.in_flight, self._tried)
            self._count(placed)
            message = self._message(placed)
        except VersionNotReady as error:
            if error.version and not self._tried:
                self._park(error.version, None)
            else:
                self.fail(error)
            return
        except LoragateError as error:
            self.fail(error)
            return
        self._attempts += 1
        self._heard_at = monotonic()
        client.waits_for_engine()
        link = client.engines.send(placed.engine_url, message, self)
        if not self.is_over:
            self._link = link

    def _park(self, version: str, missing_at: str | None) -> None:
        """Wait until `version` has been loaded; the answer comes to `on_supply`."""
        self._parked_at = monotonic()
        self._client.waits_for_engine()
        self._client.supply.want(version, missing_at, self)

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        """The version has been loaded, or cannot be; or the engine has had it all along."""
        self._is_there = was_there
        if self.is_over or not self._parked_at:
            return
        self._parked_seconds += monotonic() - self._parked_at
        self._parked_at = 0.0
        if error is None:
            self.begin()
        else:
            self.fail(error)

    def _count(self, placed: Placement) -> None:
        if self._is_counted:
            self._cell.in_flight -= 1
            self._cell.retries += 1
        self._cell = self._client.ledger.cell(placed.alias, placed.version)
        self._cell.in_flight += 1
        self._is_counted = True

    def _message(self, placed: Placement) -> bytes:
        """Return the request as the engine gets it."""
        request = self._request
        fields = request.fields
        if fields is None:
            return b"%b %b HTTP/1.1\r\nhost: engine\r\nx-request-id: %b\r\n%b\r\n" % (
                request.endpoint.method, request.endpoint.path, request.id, request.extra_headers,
            )  # fmt: skip
        ask = request.endpoint.dialect is Dialect.COMPLETIONS and fields.leaves_usage()
        self._hides_usage = ask
        body = addressed(request.body, fields, quoted(placed.version), ask_usage=ask)
        return b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
            request.endpoint.path, len(body), request.id, request.extra_headers, body,
        )  # fmt: skip

    # Reader: what the engine connection calls

    def on_sent(self) -> None:
        self._sent_at = sent_at = monotonic()
        self._client.supply.recent[self._placement.version] = sent_at
        self._cell.added(sent_at - self._request.received_at - self._parked_seconds)

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        if head is not None and head.status == NOT_FOUND and self._is_missing():
            return
        now = monotonic()
        out = self._head(head, now) if head is not None else b""
        if self._events is not None:
            data = self._passed(data, now, is_complete)
        elif self._whole is not None:
            self._keep(data)
        if is_complete:
            self._link = None  # its connection is free for others: a write below must not pause it
        if self._is_chunked:
            if data:
                out = b"%b%x\r\n%b\r\n" % (out, len(data), data)
            if is_complete:
                out += b"0\r\n\r\n"
        elif data:
            out += data
        client = self._client
        if out:
            client.write(out)
        if is_complete:
            self._end(now)
        else:
            self._heard_at = now

    def _is_missing(self) -> bool:
        """Whether to have an adapter looked for where it should be, instead of passing a 404 on.

        An engine that somebody restarted has forgotten its adapters; one that has just evicted
        this one may not have read our request before. An engine that has it after all is believed.
        """
        placed = self._placement
        if self._is_there or "@" not in placed.version:
            return False
        self._losses += 1
        if self._losses > LOSSES:  # each time it was loaded again: for ever, if nobody stops
            self.fail(VersionNotReady(f"The engine does not keep `{placed.version}`. Try again."))
            return True
        self._attempts = 0
        self._drop_link()
        self._park(placed.version, placed.engine_url)
        return True

    def on_chunk(self, chunk: bytes) -> None:
        """One HTTP chunk of whole events, in its framing: the usual step of a stream, and so the quickest."""
        events = self._events
        if events is None or not self._is_chunked or not events.passes(chunk):
            self.on_reply(None, chunk[chunk.index(b"\r\n") + 2 : -2], False)
            return
        now = monotonic()
        if self._last_at:
            self._cell.took_between_tokens(now - self._last_at)
        else:
            self._cell.took_to_first_token(now - self._request.received_at)
        self._last_at = self._heard_at = now
        self._client.write(chunk)

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        self._link = None
        self._client.fingerprints.pop(self._placement.engine_url, None)  # what comes back may be another
        if self.is_over:
            return
        if not self.has_begun:
            if is_stale and self._stale < STALE_CONNECTIONS:  # closed before our request came: not its fault
                self._stale += 1
                self._attempts -= 1
                self.begin()
                return
            if self._attempts < ATTEMPTS:
                self._tried = (*self._tried, self._placement.engine_url)
                try:
                    answer(self._request.call, self._client.table(), self._client.engines.in_flight, self._tried)
                except LoragateError:
                    self.fail(error)  # nowhere else to go: the first reason is the one that helps
                else:
                    self.begin()
                return
        self.fail(error)

    # The reply

    def _head(self, head: ReplyHead, now: float) -> bytes:
        """Return the head for the client, and choose how the body is read on its way."""
        request = self._request
        status = head.status
        self._status = status
        if self._parked_seconds:
            self._cell.waited_for_load(self._parked_seconds)
        lines = [status_line(status)]
        is_stream = False
        for name, value in head.headers:
            if name not in _NOT_FORWARDED:
                lines.append(b"%b: %b\r\n" % (name, value))
                if name == b"content-type":
                    is_stream = value.startswith(EVENT_STREAM)
        placed = self._placement
        lines.append(
            b"x-request-id: %b\r\nx-loragate-version: %b\r\nx-loragate-arm: %b\r\nx-loragate-route-reason: %b\r\n"
            % (request.id, placed.version.encode(), placed.arm.encode(), placed.reason.encode())
        )
        if is_stream:
            known = self._client.fingerprints.get(placed.engine_url)
            self._events = EventStream(hide_usage=self._hides_usage, fingerprint=known)
        else:
            self._whole = []
            overhead = self._sent_at - request.received_at + monotonic() - now
            lines.append(b"x-loragate-overhead-ms: %.3f\r\n" % (overhead * 1000))
        if head.length is not None and not is_stream:  # an event may be added to a stream, or taken out
            lines.append(b"content-length: %d\r\n" % head.length)
        elif request.is_http10:
            request.keep_alive = False
        elif status not in (204, 304):
            self._is_chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        request.keep_alive = request.keep_alive and not self._client.is_draining
        lines.append(connection_header(keep_alive=request.keep_alive, is_http10=request.is_http10))
        lines.append(b"\r\n")
        self.has_begun = True
        request.body, request.fields = b"", None  # no other try can come, and a stream may be long
        return b"".join(lines)

    def _passed(self, data: bytes, now: float, is_complete: bool) -> bytes:
        """Return what of a stream's new bytes goes on, and observe its pace."""
        events = self._events
        assert events is not None
        data = events.feed(data)
        if data:
            if self._last_at:
                self._cell.took_between_tokens(now - self._last_at)
            else:
                self._cell.took_to_first_token(now - self._request.received_at)
            self._last_at = now
        return data + events.rest() if is_complete else data

    def _keep(self, data: bytes) -> None:
        whole = self._whole
        if data and whole is not None:
            whole.append(data)
            if len(whole) > 1 and sum(map(len, whole)) > LARGEST_READ_REPLY_BYTES:
                self._whole = None

    # The end

    def _end(self, now: float) -> None:
        usage = None
        if self._events is not None:
            usage = self._events.usage
            if self._events.fingerprint is not None:
                self._client.fingerprints[self._placement.engine_url] = self._events.fingerprint
        elif self._whole and self._status == 200:
            usage = usage_of(b"".join(self._whole))
        if usage is not None:
            self._cell.prompt_tokens += usage[0]
            self._cell.generation_tokens += usage[1]
        if self._status >= 400:
            self._cell.saw_error("engine_status")
        self._close_books(self._status, now)
        self._client.exchange_is_over(keep_alive=self._request.keep_alive)

    def fail(self, error: LoragateError) -> None:
        """End the reply with `error`: as a reply if none has begun, else in-band, else by closing."""
        if self.is_over:
            return
        self._drop_link()
        cell = self._cell if self._is_counted else self._client.ledger.cell()
        cell.saw_error(error.code)
        self._close_books(error.status if not self.has_begun else self._status, monotonic())
        client = self._client
        request = self._request
        if not self.has_begun:
            keep_alive = request.keep_alive and not client.is_draining
            client.write(reply_of(error, request.id, keep_alive=keep_alive, is_http10=request.is_http10))
            client.exchange_is_over(keep_alive=keep_alive)
        elif self._events is not None:
            event = event_of(error, request.endpoint.dialect)
            if self._events.is_split:
                event = b"\n\n" + event
            event = self._events.whole_rest() + event
            client.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event) if self._is_chunked else event)
            client.exchange_is_over(keep_alive=request.keep_alive and self._is_chunked)
        else:
            client.abort()  # a length was promised: only a broken connection says that it was not kept

    @property
    def is_http10(self) -> bool:
        """Whether the client speaks HTTP/1.0."""
        return self._request.is_http10

    def comment(self) -> bytes:
        """Return bytes that a reply which has begun may carry without meaning; none if there are none."""
        if self._events is None or self._events.is_split:
            return b""
        return b"3\r\n:\n\n\r\n" if self._is_chunked else b":\n\n"

    def check(self, now: float) -> None:
        """Give up if the engine has sent nothing for longer than it may."""
        limits = self._client.limits
        if self._parked_at:
            if now - self._parked_at >= limits.load_seconds:
                self.fail(VersionNotReady(f"The adapter was not loaded within {limits.load_seconds:g} s. Try again."))
            return
        allowed = limits.idle_seconds if self.has_begun else limits.first_byte_seconds
        if now - self._heard_at >= allowed:
            what = "nothing more" if self.has_begun else "no reply"
            self.fail(EngineTimeout(f"The engine sent {what} for {allowed:g} s."))

    def client_gone(self) -> None:
        """Nobody listens any more: free the engine at once."""
        if not self.is_over:
            self._drop_link()
            # nginx's code for a client that closed; it is never sent, only counted.
            self._close_books(self._status if self.has_begun else 499, monotonic())
            if self._is_counted:
                self._cell.saw_error("client_gone")

    def pause(self) -> None:
        """The client is slower than the engine."""
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """The client has caught up; the engine's silence counts from now."""
        self._heard_at = monotonic()
        if self._link is not None:
            self._link.resume()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.cancel()

    def _close_books(self, status: int, now: float) -> None:
        self.is_over = True
        self._link = None
        self._request.body, self._request.fields = b"", None  # who loads its version still knows us
        if self._is_counted:
            self._cell.in_flight -= 1
        cell = self._cell if self._is_counted else self._client.ledger.cell()
        cell.saw_status(status)
        cell.took(now - self._request.received_at)
