"""One client connection: bytes in, whole requests to the pipeline, bytes back out.

A protocol class for uvicorn (`Config(http=ClientConnection)`), which keeps the sockets,
TLS, signals and shutdown. One request is served at a time; pipelined ones wait in order.
There is no timer and no task per request: `check` is called once in a while with the
time, and compares it with one deadline.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

import httptools

from gateway.errors import BadRequest, LoragateError, Overloaded, RequestTimeout
from gateway.receive.deps import Deps
from gateway.receive.endpoints import Kind
from gateway.receive.exchange import Exchange
from gateway.receive.failures import connection_header, reply_of, status_line
from gateway.receive.incoming import SMALL_BODY_BYTES, Incoming, headers_too_large
from gateway.receive.own_answers import own_answer
from gateway.receive.upgrade import has_body, parser_after_upgrade
from gateway.receive.waiting import Waiting

log = logging.getLogger("loragate.receive")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Pipelined requests that wait behind one being served; then the client is not read any further.
LONGEST_PIPELINE: Final = 16
# What a refused client still sends is dropped for so long when the worker stops.
_LINGER_IN_SHUTDOWN_SECONDS: Final = 1.0
_HALF_CLOSED_PROBE_SECONDS: Final = 0.05


class ClientConnection(asyncio.Protocol):
    """One client connection under uvicorn.

    Args:
        config, server_state, app_state, _loop: As uvicorn gives them; `app_state["deps"]`
            is what the worker has built (`gateway/app.py`).
    """

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        deps: Deps = app_state["deps"]
        self._deps = deps
        self.table = deps.table
        self.engines = deps.engines
        self.ledger = deps.ledger
        self.limits = deps.limits
        self.fingerprints = deps.fingerprints
        self.supply = deps.supply
        self.placing = deps.placing
        self.tallies = deps.tallies
        self.taps, self.note, self.engine_fields = deps.taps, deps.recent.note, deps.engine_fields
        # The transport's own method: asyncio buffers, and `pause_writing` says when it is too much.
        self.write: Callable[[bytes], None]
        self._connections: set[Any] = server_state.connections
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = Incoming()
        self._headers = self._incoming.headers  # where the next header goes
        self._stage = Waiting.REQUEST  # how far the request that is being read has come
        self._unread_bytes = 0  # received since the last request, or the last piece of a body
        self._queue: deque[Incoming] = deque()
        self._queued_bytes = 0
        self._exchange: Exchange | None = None
        self._is_paused = False  # the client takes less than it is sent
        self._is_held_back = False  # the client sends more than is served
        self._is_half_closed = False
        self._is_to_be_continued = False  # the parser stops at an upgrade, the body is still to come
        self._is_deaf = False  # what still comes is dropped
        self._waiting = Waiting.REQUEST
        self._deadline = 0.0
        self.is_draining = deps.is_leaving()  # the next reply says that it is the last
        self._is_ending = False  # and nothing more is waited for: closing before may lose a request on its way here
        self._transport: asyncio.Transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._connections.add(self)
        if len(self._connections) > self.limits.max_connections:
            self._refuse(Overloaded(f"This gateway worker holds {self.limits.max_connections} connections, its limit."))
            return
        # A new connection has as long to send its first request's headers as any.
        self._wait(Waiting.HEADERS, self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._queue.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unread_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError:
            log.exception("a request could not be taken; this is a bug")
            self._transport.abort()
        except httptools.HttpParserError:
            if self._is_open():
                self._refuse(BadRequest("The request is not valid HTTP/1.1."))
        else:
            too_long = self._unread_bytes > self.limits.max_header_bytes  # a head, or trailers, without an end
            if too_long and self._is_open():
                self._refuse(headers_too_large(self.limits))
            elif self._waiting is Waiting.REQUEST and self._stage is Waiting.HEADERS:
                self._wait(Waiting.HEADERS, self.limits.header_seconds)

    def _is_open(self) -> bool:
        """Whether a refusal can still be told: none has been, and the connection is not closing."""
        return not self._is_deaf and not self._transport.is_closing()

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self._parser = parser_after_upgrade(self, self._incoming.headers)
            else:
                return

    def eof_received(self) -> bool:
        exchange = self._exchange
        is_idle = exchange is None and not self._queue
        if is_idle or (exchange and exchange.is_http10) or self._transport.get_extra_info("ssl_object"):
            return False  # nothing to do, or no way to ask (`_probe`) whether the client is gone: it counts as gone
        self._is_half_closed = True
        self._probe()
        return True

    def pause_writing(self) -> None:
        self._wait(Waiting.READER, self.limits.stalled_reader_seconds)
        if self._exchange is not None:
            self._exchange.pause()
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        exchange = self._exchange
        if self._transport.is_closing():
            self._wait(Waiting.READER, self.limits.stalled_reader_seconds)
        elif exchange is not None:
            exchange.resume()
            self.waits_for_engine()
        elif self._is_deaf and not self._queue:
            self._wait(Waiting.LINGER, self.limits.linger_seconds)
        else:
            self._next(keep_alive=True)

    def shutdown(self) -> None:
        """Finish what is under way, then close; uvicorn calls this when it stops."""
        self.is_draining = self._is_ending = True
        if self._waiting is Waiting.LINGER:
            self._wait(Waiting.LINGER, min(_LINGER_IN_SHUTDOWN_SECONDS, self.limits.linger_seconds))
        elif self._exchange is None and not self._queue and self._stage is Waiting.REQUEST:
            self._close()

    # httptools

    def on_message_begin(self) -> None:
        self._incoming = incoming = Incoming()
        self._headers = incoming.headers
        self._stage = Waiting.HEADERS

    def on_url(self, url: bytes) -> None:
        self._incoming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._stage = Waiting.BODY
        self._headers = {}  # for trailers, which RFC 9110, 6.5.1 lets nobody merge
        if self._is_deaf:
            return
        incoming = self._incoming
        parser = self._parser
        incoming.method = parser.get_method()
        incoming.is_http10 = parser.get_http_version() == "1.0"
        incoming.keep_alive = parser.should_keep_alive()
        if b"upgrade" in incoming.headers:
            self._is_to_be_continued = parser.should_upgrade() and has_body(incoming.headers)
        try:
            incoming.admit(self.table(), self.limits, self._unread_bytes, self._deps.clock, self._deps.cross_origin)
        except LoragateError as error:
            incoming.error = error
        if self._exchange is None and not self._queue:
            self._await_body(incoming)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        if self._is_deaf:
            return
        incoming = self._incoming
        incoming.take(body, self.limits)
        if self._exchange is None and not self._queue:
            if incoming.error is None:
                self._wait(Waiting.BODY, self.limits.body_seconds)
            elif incoming.size > SMALL_BODY_BYTES:
                self._refuse(incoming.error)

    def on_message_complete(self) -> None:
        if self._is_to_be_continued:  # `upgrade.py`
            self._is_to_be_continued = False
            return
        self._unread_bytes = 0
        self._stage = Waiting.REQUEST
        if self._is_deaf:
            return
        incoming = self._incoming
        if self._exchange is None and not self._queue and not self._is_paused:
            self._serve(incoming)
            return
        self._queue.append(incoming)
        self._queued_bytes += incoming.size
        if not self._is_held_back and self._is_queue_full():
            self._is_held_back = True
            self._transport.pause_reading()

    def _is_queue_full(self) -> bool:
        return len(self._queue) >= LONGEST_PIPELINE or self._queued_bytes > self.limits.max_body_bytes

    def _await_body(self, incoming: Incoming) -> None:
        """Go on with the request whose head has been read: nothing before it is left to be answered."""
        self._wait(Waiting.BODY, self.limits.body_seconds)
        if incoming.error is not None and not incoming.is_worth_reading():
            self._refuse(incoming.error)
        elif incoming.expects:
            incoming.expects = False
            self._transport.write(CONTINUE)

    # 1 receive, 2 authenticate, 3 which model

    def _serve(self, incoming: Incoming) -> None:
        if incoming.is_last and incoming.error is not None:
            self._refuse(incoming.error)
            return
        received_at = monotonic()
        request_id = self._deps.ids.of(incoming.headers.get(b"x-request-id"))
        try:
            if incoming.error is not None:
                raise incoming.error
            if incoming.address.endpoint.kind is not Kind.PROXIED:
                self._reply(incoming, request_id, *own_answer(incoming, self._deps, received_at))
                return
            request = incoming.request(request_id, self.table(), self._deps.rates, received_at)
        except LoragateError as error:
            self._tell(incoming, request_id, error)
            return
        self._exchange = exchange = Exchange(self, request)
        exchange.begin()

    def _reply(self, incoming: Incoming, request_id: bytes, status: int, body: bytes) -> None:
        keep_alive = incoming.keep_alive and not self.is_draining
        more = incoming.reply_headers + connection_header(keep_alive=keep_alive, is_http10=incoming.is_http10)
        self._transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (status_line(status), len(body), request_id, more, b"" if incoming.method == b"HEAD" else body)
        )
        self._next(keep_alive=keep_alive)

    def _tell(self, incoming: Incoming, request_id: bytes, error: LoragateError) -> None:
        keep_alive = incoming.keep_alive and not self.is_draining
        cell = self.ledger.cell()
        cell.saw_error(error.code)
        cell.saw_status(error.status)
        is_http10, with_body, more = incoming.is_http10, incoming.method != b"HEAD", incoming.reply_headers
        self._transport.write(
            reply_of(error, request_id, keep_alive=keep_alive, is_http10=is_http10, with_body=with_body, headers=more)
        )
        self._next(keep_alive=keep_alive)

    # What an exchange asks of its client

    def abort(self) -> None:
        """Break the connection off."""
        self._exchange = None
        self._transport.abort()

    def waits_for_engine(self) -> None:
        """The next sign of life is the engine's to give; the exchange knows how long it may take."""
        if not self._is_paused:
            self._waiting = Waiting.ENGINE

    def exchange_is_over(self, *, keep_alive: bool) -> None:
        """The reply is complete; go on with the next request, or close."""
        self._exchange = None
        self._next(keep_alive=keep_alive)

    def _next(self, *, keep_alive: bool) -> None:
        if not keep_alive:
            self._close()
        elif self._is_paused:
            return  # `resume_writing` comes back here: replies to one who takes none would pile up
        elif self._queue:
            # Not from inside the last one's end: a long pipeline of quick errors would nest as deep.
            asyncio.get_running_loop().call_soon(self._serve_next)
        elif self._is_half_closed or (self._is_ending and self._stage is Waiting.REQUEST):
            self._close()
        elif self._stage is Waiting.BODY:
            self._await_body(self._incoming)
        elif self._stage is Waiting.HEADERS:
            self._wait(Waiting.HEADERS, self.limits.header_seconds)
        else:
            self._wait(Waiting.REQUEST, self.limits.keep_alive_seconds)

    def _serve_next(self) -> None:
        if self._exchange is not None or self._is_paused or not self._queue or self._transport.is_closing():
            return
        incoming = self._queue.popleft()
        self._queued_bytes -= incoming.size
        if self._is_held_back and not self._is_queue_full():
            self._is_held_back = False
            self._transport.resume_reading()
        self._serve(incoming)

    # Time, and clients that misbehave

    def check(self, now: float) -> None:
        """Act if the deadline has passed; called about once a second by the worker."""
        if self._is_half_closed:
            self._probe()
        if self._waiting is Waiting.ENGINE:
            if self._exchange is not None:
                self._exchange.check(now)
            return
        if now < self._deadline:
            return
        has_begun = self._unread_bytes or self._stage is Waiting.HEADERS
        if self._waiting is Waiting.READER:
            self._transport.abort()
        elif self._waiting is Waiting.BODY or (self._waiting is Waiting.HEADERS and has_begun):
            self._refuse(RequestTimeout("The request took too long to arrive."))
        else:
            self._close()

    def break_off(self, error: LoragateError) -> None:
        """End what is under way with `error`: the worker is out of time."""
        if self._exchange is not None:
            self.is_draining = True
            self._exchange.fail(error)
        self._transport.close()

    def _wait(self, what: Waiting, seconds: float) -> None:
        if not self._is_paused:  # until it reads on, a client has the time of a stalled reader, whatever else
            self._waiting = what
            self._deadline = monotonic() + seconds

    def _close(self) -> None:
        """Close when the client has taken what is still buffered, for which it has a reader's time."""
        self._queue.clear()
        self._wait(Waiting.READER, self.limits.stalled_reader_seconds)
        self._transport.close()

    def _refuse(self, error: LoragateError) -> None:
        """Answer at once, then drop what the client still sends: closing now would reset the
        connection, and the client might lose the answer. What was asked before is answered first."""
        self._is_deaf = True
        if self._exchange is not None or self._queue:
            self._queue.append(Incoming.broken(error))
            return
        cell = self.ledger.cell()
        cell.saw_error(error.code)
        cell.saw_status(error.status)
        request_id = self._deps.ids.of(self._incoming.headers.get(b"x-request-id"))
        with_body, more = self._incoming.method != b"HEAD", self._incoming.reply_headers
        self._transport.write(reply_of(error, request_id, keep_alive=False, with_body=with_body, headers=more))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._wait(Waiting.LINGER, self.limits.linger_seconds)

    def _probe(self) -> None:
        """Find out whether a client that sends no more still listens.

        A closed socket answers data with a reset, a half-closed one takes it. Before a reply
        has begun an interim `100 Continue` is such data, which every HTTP/1.1 client skips
        (RFC 9110, 15.2); in a stream an SSE comment is. Two writes are needed: the first
        provokes the reset, the second finds it.
        """
        if self._send_probe():
            asyncio.get_running_loop().call_later(_HALF_CLOSED_PROBE_SECONDS, self._send_probe)

    def _send_probe(self) -> bool:
        exchange = self._exchange
        if exchange is None or self._transport.is_closing() or self._is_paused:
            return False
        self._transport.write(exchange.comment() if exchange.has_begun else CONTINUE)
        return True
