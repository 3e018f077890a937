"""One client connection: bytes in, complete requests to the pipeline, bytes back out.

This is a protocol class for uvicorn (`Config(http=ClientConnection)`), which keeps the sockets, TLS, signals and
shutdown. One request is served at a time; pipelined ones wait in order. There is no timer and no task for each request:
the worker calls `check` twice a second with the time, which is compared with one deadline.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, cast

import httptools

from gateway.errors import BadRequest, LoragateError, Overloaded, RequestTimeout
from gateway.openai.body import Fields
from gateway.openai.endpoints import EndpointKind
from gateway.receive.body_reading import BodyReading
from gateway.receive.deps import Deps
from gateway.receive.exchange import Exchange
from gateway.receive.failures import reply_of
from gateway.receive.framing import JOINED
from gateway.receive.half_closed import CONTINUE, probe
from gateway.receive.incoming import SMALL_BODY_BYTES, Incoming, headers_too_large
from gateway.receive.local_replies import json_reply, local_reply
from gateway.receive.pipeline_queue import LONG_READ_BYTES, PipelineQueue
from gateway.receive.upgrade import has_body, parser_after_upgrade
from gateway.receive.waiting import Waiting

log = logging.getLogger("loragate.receive")

# When the worker stops, data that a refused client still sends is read and dropped for this long at most.
_LINGER_IN_SHUTDOWN_SECONDS: Final = 1.0


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
        self._limits = deps.limits
        # The transport's own method: asyncio buffers, and calls `pause_writing` when the buffer is full.
        self.write: Callable[[bytes], None]
        self.unsent_bytes: Callable[[], int]
        self._connections: set[Any] = server_state.connections
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = Incoming()
        self._headers = self._incoming.headers  # where the next header goes
        self._stage = Waiting.REQUEST  # how far the request that is being read has come
        self._unread_bytes = 0  # received since the last request, or the last piece of a body
        self._pipeline = PipelineQueue(deps.limits.max_body_bytes)
        self._queue = self._pipeline.waiting
        self._exchange: Exchange | BodyReading | None = None
        self._is_paused = False  # the client reads more slowly than it is sent to
        self._is_half_closed = False
        self._is_to_be_continued = False  # the parser stopped at an upgrade, and the body is still to come
        self._is_discarding = False  # after a refusal: data that still comes is dropped
        self._waiting = Waiting.REQUEST
        self._deadline = 0.0
        self.is_draining = deps.is_leaving()  # the next reply says `Connection: close`
        # Shutting down: close when idle. Not done while merely draining, as a request may be on its way here.
        self._is_ending = False
        self._transport: asyncio.Transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write, self.unsent_bytes = self._transport.write, self._transport.get_write_buffer_size
        self._pipeline.attach(self._transport)
        self._connections.add(self)
        most = self._limits.max_connections
        if len(self._connections) > most:
            self._refuse(Overloaded(f"This gateway worker holds {most} connections, its limit."))
            return
        # The time-out for headers counts from the connection on, even if nothing is sent.
        self._wait(Waiting.HEADERS, self._limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._pipeline.clear()
        self._incoming.drop()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        if self._is_discarding:
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
            if len(data) >= LONG_READ_BYTES:
                self._pipeline.yield_turn()
            too_long = self._unread_bytes > self._limits.max_header_bytes  # a head, or trailers, without an end
            if too_long and self._is_open():
                self._refuse(headers_too_large(self._limits))
            elif self._waiting is Waiting.REQUEST and self._stage is Waiting.HEADERS:
                self._wait(Waiting.HEADERS, self._limits.header_seconds)

    def _is_open(self) -> bool:
        """Whether a refusal can still be sent: none has been, and the connection is not closing."""
        return not self._is_discarding and not self._transport.is_closing()

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._incoming.is_last:
                    self._is_discarding = True
                    return
                data = memoryview(data)[upgrade.args[0] :]
                self._parser = parser_after_upgrade(self, self._incoming.headers)
            else:
                return

    def eof_received(self) -> bool:
        exchange = self._exchange
        is_idle = exchange is None and not self._queue
        if is_idle or (exchange and exchange.is_http10) or self._transport.get_extra_info("ssl_object"):
            return False  # nothing to serve, or no way to probe whether the client still reads: it counts as gone
        self._is_half_closed = True
        self._probe()
        return True

    def pause_writing(self) -> None:
        self._wait(Waiting.READER, self._limits.stalled_reader_seconds)
        if self._exchange is not None:
            self._exchange.pause()
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        exchange = self._exchange
        if self._transport.is_closing():
            self._wait(Waiting.READER, self._limits.stalled_reader_seconds)
        elif exchange is not None:
            exchange.resume()
            self.waits_for_engine()
        elif self._is_discarding and not self._queue:
            self._wait(Waiting.LINGER, self._limits.linger_seconds)
        else:
            self._next(keep_alive=True)

    def shutdown(self) -> None:
        """Finish the requests under way, then close; uvicorn calls this when it stops."""
        self.is_draining = self._is_ending = True
        if self._waiting is Waiting.LINGER:
            self._wait(Waiting.LINGER, min(_LINGER_IN_SHUTDOWN_SECONDS, self._limits.linger_seconds))
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
        name = name.lower()
        headers = self._headers
        if name in headers and name in JOINED:
            value = b"%b, %b" % (headers[name], value)
        headers[name] = value

    def on_headers_complete(self) -> None:
        self._stage = Waiting.BODY
        self._headers = {}  # trailers go here: RFC 9110, 6.5.1 forbids merging them into the headers
        if self._is_discarding:
            return
        incoming = self._incoming
        parser = self._parser
        incoming.method = parser.get_method()
        version = parser.get_http_version()
        incoming.is_http10 = version == "1.0"
        incoming.keep_alive = parser.should_keep_alive()
        if b"upgrade" in incoming.headers:
            self._is_to_be_continued = parser.should_upgrade() and has_body(incoming.headers)
        try:
            incoming.admit(version, self._deps, self._unread_bytes)
        except LoragateError as error:
            incoming.error = error
            if incoming.method == b"CONNECT":  # the bytes that follow are a tunnel's: neither HTTP nor a body
                incoming.is_last, incoming.keep_alive = True, False
        if self._exchange is None and not self._queue:
            self._await_body(incoming)

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        if self._is_discarding:
            return
        incoming = self._incoming
        incoming.take(body, self._limits, self._deps.body_memory)
        if self._exchange is None and not self._queue:
            if incoming.error is None:
                if self._waiting is Waiting.BODY:
                    self._deadline += len(body) / self._limits.min_body_bytes_per_second
            elif incoming.size > SMALL_BODY_BYTES:
                self._refuse(incoming.error)

    def on_message_complete(self) -> None:
        if self._is_to_be_continued:  # a new parser reads the body: see `upgrade.py`
            self._is_to_be_continued = False
            return
        self._unread_bytes = 0
        self._stage = Waiting.REQUEST
        if self._is_discarding:
            return
        incoming = self._incoming
        if self._exchange is None and not self._queue and not self._is_paused:
            self._serve(incoming)
            return
        self._pipeline.add(incoming)

    def _await_body(self, incoming: Incoming) -> None:
        """Wait for the body of a request whose head has been read; all earlier requests have been answered."""
        incoming.begun_at = now = monotonic()
        if not self._is_paused:
            self._waiting = Waiting.BODY
            self._deadline = now + self._limits.body_seconds + incoming.size / self._limits.min_body_bytes_per_second
        if incoming.error is not None and not incoming.may_be_drained():
            self._refuse(incoming.error)
        elif incoming.expects:
            incoming.expects = False
            self._transport.write(CONTINUE)

    # Serving a complete request

    def _serve(self, incoming: Incoming, request_id: bytes = b"", fields: Fields | None = None) -> None:
        if incoming.is_last and incoming.error is not None:
            self._refuse(incoming.error)
            return
        received_at = monotonic()
        request_id = request_id or self._deps.ids.of(incoming.headers.get(b"x-request-id"))
        try:
            if incoming.error is not None:
                raise incoming.error
            table = self._deps.table()
            incoming.recheck_caller(table, received_at, self._deps.clock)
            if incoming.address.endpoint.kind is not EndpointKind.PROXIED:
                self._reply(incoming, request_id, *local_reply(incoming, self._deps, received_at))
                return
            if incoming.size > SMALL_BODY_BYTES and fields is None and (steps := incoming.steps()) is not None:
                self._exchange = BodyReading(self, incoming, request_id, steps)
                self.waits_for_engine()
                self._deps.readings.add(self._exchange)
                return
            request = incoming.request(request_id, table, self._deps.rates, received_at, fields)
        except LoragateError as error:
            self._tell(incoming, request_id, error)
            return
        self._exchange = exchange = Exchange(self._deps, self, request)
        exchange.begin()

    def body_is_read(self, incoming: Incoming, request_id: bytes, fields: Fields | None) -> None:
        """Serve a request whose body has been parsed in steps; if `fields` is None, its `error` says why."""
        self._exchange = None
        self._serve(incoming, request_id, fields)

    def _reply(self, incoming: Incoming, request_id: bytes, status: int, body: bytes) -> None:
        keep_alive = incoming.keep_alive and not self.is_draining
        self._transport.write(json_reply(status, body, incoming, request_id, keep_alive=keep_alive))
        self._next(keep_alive=keep_alive)

    def _tell(self, incoming: Incoming, request_id: bytes, error: LoragateError) -> None:
        incoming.drop()
        keep_alive = incoming.keep_alive and not self.is_draining
        self._write_error(error, incoming, request_id, keep_alive=keep_alive)
        self._next(keep_alive=keep_alive)

    def _write_error(self, error: LoragateError, incoming: Incoming, request_id: bytes, *, keep_alive: bool) -> None:
        cell = self._deps.ledger.cell()
        cell.count_error(error.code)
        cell.count_status(error.status)
        is_http10, with_body, more = incoming.is_http10, incoming.method != b"HEAD", incoming.reply_headers
        self.write(
            reply_of(error, request_id, keep_alive=keep_alive, is_http10=is_http10, with_body=with_body, headers=more)
        )

    # ReplyTo: called by the exchange

    def abort(self) -> None:
        """Close the connection at once, without flushing."""
        self._exchange = None
        self._transport.abort()

    def waits_for_engine(self) -> None:
        """Leave the time-out to the exchange while the engine is awaited."""
        if not self._is_paused:
            self._waiting = Waiting.ENGINE

    def exchange_is_over(self, *, keep_alive: bool) -> None:
        """The reply is complete: serve the next request, or close."""
        self._exchange = None
        self._next(keep_alive=keep_alive)

    def _next(self, *, keep_alive: bool) -> None:
        if not keep_alive:
            self._close()
        elif self._is_paused:
            return  # `resume_writing` continues from here: else replies to a client that reads none would pile up
        elif self._queue:
            # Not called directly: a long pipeline of quick errors would recurse once for each request.
            asyncio.get_running_loop().call_soon(self._serve_next)
        elif self._is_half_closed or (self._is_ending and self._stage is Waiting.REQUEST):
            self._close()
        elif self._stage is Waiting.BODY:
            self._await_body(self._incoming)
        elif self._stage is Waiting.HEADERS:
            self._wait(Waiting.HEADERS, self._limits.header_seconds)
        else:
            self._wait(Waiting.REQUEST, self._limits.keep_alive_seconds)

    def _serve_next(self) -> None:
        if self._exchange is not None or self._is_paused or not self._queue or self._transport.is_closing():
            return
        self._serve(self._pipeline.take())

    # Time-outs, refusals, closing

    def check(self, now: float) -> None:
        """Act if the deadline has passed; the worker calls this twice a second."""
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
        """End the request under way with `error`, as the worker's time to drain is over, and close."""
        if self._exchange is not None:
            self.is_draining = True
            self._exchange.fail(error)
        self._transport.close()

    def _wait(self, what: Waiting, seconds: float) -> None:
        if not self._is_paused:  # while the client does not read, the stalled reader's deadline counts, not this one
            self._waiting = what
            self._deadline = monotonic() + seconds

    def _close(self) -> None:
        """Close once the client has taken what is still buffered, within `stalled_reader_seconds`."""
        self._pipeline.clear()
        self._wait(Waiting.READER, self._limits.stalled_reader_seconds)
        self._transport.close()

    def _refuse(self, error: LoragateError) -> None:
        """Answer with `error`, then drop what the client still sends; earlier requests are answered first.

        Closing at once would reset the connection, and the client might lose the answer (RFC 9112, 9.6).
        """
        self._is_discarding = True
        if self._stage is not Waiting.REQUEST:  # else that request is complete, and perhaps being served
            self._incoming.drop()
        if self._exchange is not None or self._queue:
            self._queue.append(Incoming.of_error(error))
            return
        request_id = self._deps.ids.of(self._incoming.headers.get(b"x-request-id"))
        self._write_error(error, self._incoming, request_id, keep_alive=False)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._wait(Waiting.LINGER, self._limits.linger_seconds)

    def _probe(self) -> None:
        probe(self._transport, lambda: None if self._is_paused else self._exchange)
