"""One client connection: bytes in, whole requests to the pipeline, bytes back out.

A protocol class for uvicorn (`Config(http=ClientConnection)`), which keeps the sockets,
TLS, signals and shutdown. One request is served at a time; pipelined ones wait in order.
There is no timer and no task per request: `check` is called once in a while with the
time, and compares it with one deadline.
"""

import asyncio
from collections import deque
from enum import Enum, auto
from time import monotonic
from typing import Any, Final, cast

import httptools

from gateway.decide.authenticate import Principal, authenticate
from gateway.errors import (
    BadRequest,
    ExpectationFailed,
    HeadersTooLarge,
    LoragateError,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedEncoding,
)
from gateway.pipeline import Call
from gateway.receive.deps import Deps
from gateway.receive.endpoints import Address, Kind, find_endpoint
from gateway.receive.exchange import Exchange, Request, model_of
from gateway.receive.failures import reply_of, status_line
from gateway.receive.listing import list_models, show_model
from gateway.receive.wire import read

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# Pipelined requests that wait behind one being served; then the client is not read any further.
LONGEST_PIPELINE: Final = 16
# A body this small is read to its end before an error is told, so the connection can be kept.
SMALL_BODY_BYTES: Final = 64 * 1024
# Headers that the engine gets as the client sent them: what the body is, and the trace it belongs to.
_FORWARDED: Final = (b"content-type", b"accept", b"traceparent", b"tracestate")
_HALF_CLOSED_PROBE_SECONDS: Final = 0.05


class Waiting(Enum):
    """What the connection waits for, and so what its deadline means."""

    REQUEST = auto()  # idle between requests
    HEADERS = auto()
    BODY = auto()
    ENGINE = auto()
    READER = auto()  # the client takes nothing off a full buffer
    LINGER = auto()  # refused; what still comes is dropped


class Incoming:
    """A request while it is being read."""

    __slots__ = (
        "address",
        "body",
        "caller",
        "error",
        "expects",
        "headers",
        "is_http10",
        "keep_alive",
        "method",
        "size",
        "url",
    )

    def __init__(self) -> None:
        self.url = b""
        self.method = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []
        self.size = 0
        self.address: Address
        self.caller: Principal
        self.error: LoragateError | None = None
        self.expects = False
        self.is_http10 = False
        self.keep_alive = True


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
        self._loop = _loop
        self._connections: set[Any] = server_state.connections
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = Incoming()
        self._is_reading_head = False
        self._head_bytes = 0
        self._waiting_requests: deque[Incoming] = deque()
        self._exchange: Exchange | None = None
        self._is_paused = False
        self._is_half_closed = False
        self._waiting = Waiting.REQUEST
        self._deadline = 0.0
        self.is_draining = False
        self._transport: asyncio.Transport

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        if len(self._connections) > self.limits.max_connections:
            self._refuse(Overloaded(f"This gateway worker holds {self.limits.max_connections} connections, its limit."))
            return
        # A new connection has as long to send its first request's headers as any.
        self._wait(Waiting.HEADERS, self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._waiting_requests.clear()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def data_received(self, data: bytes) -> None:
        if self._waiting is Waiting.LINGER:
            return
        if self._waiting is Waiting.REQUEST:
            self._wait(Waiting.HEADERS, self.limits.header_seconds)
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequest("This gateway does not upgrade connections; send plain HTTP/1.1."))
        except httptools.HttpParserError:
            if self._waiting is not Waiting.LINGER:
                self._refuse(BadRequest("The request is not valid HTTP/1.1."))
        else:
            if self._is_reading_head and self._head_bytes > self.limits.max_header_bytes:
                self._refuse(self._headers_too_large())

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is None or exchange.is_http10 or self._transport.get_extra_info("ssl_object") is not None:
            return False  # nothing under way, or no way to ask (`_probe`): the client is gone
        self._is_half_closed = True
        self._probe()
        return True

    def pause_writing(self) -> None:
        self._is_paused = True
        if self._exchange is not None:
            self._exchange.pause()
            self._wait(Waiting.READER, self.limits.stalled_reader_seconds)

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._exchange is not None:
            self._exchange.resume()
            self._wait(Waiting.ENGINE, self.limits.idle_seconds)

    def shutdown(self) -> None:
        """Finish what is under way, then close; uvicorn calls this when it stops."""
        self.is_draining = True
        is_idle = self._waiting is Waiting.REQUEST or (self._waiting is Waiting.HEADERS and not self._head_bytes)
        if self._exchange is None and not self._waiting_requests and is_idle:
            self._transport.close()

    # httptools

    def on_message_begin(self) -> None:
        self._incoming = Incoming()
        self._is_reading_head = True

    def on_url(self, url: bytes) -> None:
        self._incoming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._waiting is Waiting.LINGER:
            return
        incoming = self._incoming
        parser = self._parser
        self._is_reading_head = False
        incoming.method = parser.get_method()
        incoming.is_http10 = parser.get_http_version() == "1.0"
        incoming.keep_alive = parser.should_keep_alive()
        try:
            self._admit(incoming)
        except LoragateError as error:
            incoming.error = error
        if self._exchange is None:
            self._wait(Waiting.BODY, self.limits.body_seconds)
            if incoming.error is not None and not self._is_worth_reading(incoming):
                self._refuse(incoming.error)
            elif incoming.expects:
                self._transport.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        if self._waiting is Waiting.LINGER:
            return
        incoming = self._incoming
        incoming.size += len(body)
        if incoming.error is not None:
            if incoming.size > SMALL_BODY_BYTES and self._exchange is None:
                self._refuse(incoming.error)
        elif incoming.size > self.limits.max_body_bytes:
            incoming.error = self._too_large(incoming.size)
            incoming.body.clear()
        else:
            incoming.body.append(body)
            if self._exchange is None:
                self._wait(Waiting.BODY, self.limits.body_seconds)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if self._waiting is Waiting.LINGER:
            return
        if self._exchange is None and not self._waiting_requests:
            self._serve(self._incoming)
        else:
            self._waiting_requests.append(self._incoming)
            if len(self._waiting_requests) == LONGEST_PIPELINE:
                self._transport.pause_reading()

    # 1 receive, 2 authenticate

    def _admit(self, incoming: Incoming) -> None:
        """Decide from the headers alone whether the body is worth reading."""
        headers = incoming.headers
        limits = self.limits
        if len(headers) > limits.max_headers or (
            self._head_bytes > limits.max_header_bytes
            and sum(len(name) + len(value) + 4 for name, value in headers.items()) > limits.max_header_bytes
        ):
            raise self._headers_too_large()
        address = incoming.address = find_endpoint(incoming.method, incoming.url)
        if address.endpoint.kind is not Kind.HEALTH:
            credential = headers.get(b"authorization") or headers.get(b"x-api-key")
            incoming.caller = authenticate(credential, self.table().keys)
        length = headers.get(b"content-length")
        if length is not None and int(length) > limits.max_body_bytes:
            raise self._too_large(int(length))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedEncoding("Compressed bodies are not read; send the body without a content-encoding.")
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise ExpectationFailed("`Expect` may only be 100-continue.")
            incoming.expects = not incoming.is_http10

    def _is_worth_reading(self, incoming: Incoming) -> bool:
        """Whether a refused request's body is small enough to be read, so that its connection can go on."""
        headers = incoming.headers
        if b"transfer-encoding" in headers or b"expect" in headers:
            return False
        return int(headers.get(b"content-length", b"0")) <= SMALL_BODY_BYTES

    def _serve(self, incoming: Incoming) -> None:
        received_at = monotonic()
        request_id = self._deps.ids.of(incoming.headers.get(b"x-request-id"))
        try:
            if incoming.error is not None:
                raise incoming.error
            if incoming.address.endpoint.kind is not Kind.PROXIED:
                self._reply(incoming, request_id, self._own_answer(incoming))
                return
            request = self._request(incoming, request_id, received_at)
        except LoragateError as error:
            self._tell(incoming, request_id, error)
            return
        self._exchange = exchange = Exchange(self, request)
        exchange.begin()

    def _request(self, incoming: Incoming, request_id: bytes, received_at: float) -> Request:
        """Return the request as the pipeline takes it."""
        endpoint, in_path = incoming.address.endpoint, incoming.address.model
        headers = incoming.headers
        parts = incoming.body
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        fields = read(body) if endpoint.method == b"POST" else None
        base = self.table().base
        model = model_of(fields, endpoint, in_path, base.name if base else None)
        unit = headers.get(b"x-loragate-unit")
        caller = incoming.caller
        named = unit.decode("latin-1") if unit else (fields.unit() if fields is not None else None)
        extra = b"".join([b"%b: %b\r\n" % (name, headers[name]) for name in _FORWARDED if name in headers])
        return Request(
            request_id, endpoint, body, fields, Call(caller, model, named or caller.id),
            keep_alive=incoming.keep_alive, is_http10=incoming.is_http10, extra_headers=extra, received_at=received_at,
        )  # fmt: skip

    def _own_answer(self, incoming: Incoming) -> bytes:
        """Return what the gateway itself knows: that it is alive, and its models."""
        endpoint, model = incoming.address.endpoint, incoming.address.model
        if endpoint.kind is Kind.HEALTH:
            return b'{"status":"ok"}'
        if endpoint.kind is Kind.MODEL and model is not None:
            return show_model(self.table(), incoming.caller, model)
        return list_models(self.table(), incoming.caller)

    def _reply(self, incoming: Incoming, request_id: bytes, body: bytes) -> None:
        keep_alive = incoming.keep_alive and not self.is_draining
        close = b"" if keep_alive else b"connection: close\r\n"
        self._transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (status_line(200), len(body), request_id, close, body)
        )
        self._next(keep_alive)

    def _tell(self, incoming: Incoming, request_id: bytes, error: LoragateError) -> None:
        keep_alive = incoming.keep_alive and not self.is_draining
        cell = self.ledger.cell()
        cell.saw_error(error.code)
        cell.saw_status(error.status)
        is_head = incoming.method == b"HEAD"
        self._transport.write(reply_of(error, request_id, keep_alive=keep_alive, with_body=not is_head))
        self._next(keep_alive)

    # What an exchange asks of its client

    def write(self, data: bytes) -> None:
        """Send to the client; asyncio buffers, and `pause_writing` says when it is too much."""
        self._transport.write(data)

    def abort(self) -> None:
        """Break the connection off."""
        self._exchange = None
        self._transport.abort()

    def waits_for_engine(self, seconds: float, now: float | None = None) -> None:
        """The engine has so long for its next sign of life."""
        if not self._is_paused:
            self._waiting = Waiting.ENGINE
            self._deadline = (monotonic() if now is None else now) + seconds

    def exchange_is_over(self, *, keep_alive: bool) -> None:
        """The reply is complete; go on with the next request, or close."""
        self._exchange = None
        self._next(keep_alive)

    def _next(self, keep_alive: bool) -> None:
        if not keep_alive or self._is_half_closed:
            self._waiting_requests.clear()
            self._transport.close()
            return
        queue = self._waiting_requests
        if not queue:
            self._wait(Waiting.REQUEST, self.limits.keep_alive_seconds)
            if self.is_draining:
                self._transport.close()
            return
        if len(queue) == LONGEST_PIPELINE:
            self._transport.resume_reading()
        # Not from inside the last one's end: a long pipeline of quick errors would nest as deep.
        asyncio.get_running_loop().call_soon(self._serve_next)

    def _serve_next(self) -> None:
        if self._exchange is None and self._waiting_requests and not self._transport.is_closing():
            self._serve(self._waiting_requests.popleft())

    # Time, and clients that misbehave

    def check(self, now: float) -> None:
        """Act if the deadline has passed; called about once a second by the worker."""
        if self._is_half_closed:
            self._probe()
        if now < self._deadline:
            return
        if self._waiting is Waiting.ENGINE:
            if self._exchange is not None:
                self._exchange.timed_out()
        elif self._waiting is Waiting.READER:
            self._transport.abort()
        elif self._waiting is Waiting.BODY or (self._waiting is Waiting.HEADERS and self._head_bytes):
            self._refuse(RequestTimeout("The request took too long to arrive."))
        else:
            self._transport.close()

    def break_off(self, error: LoragateError) -> None:
        """End what is under way with `error`: the worker is out of time."""
        if self._exchange is not None:
            self.is_draining = True
            self._exchange.fail(error)
        self._transport.close()

    def _wait(self, what: Waiting, seconds: float) -> None:
        self._waiting = what
        self._deadline = monotonic() + seconds

    def _refuse(self, error: LoragateError) -> None:
        """Answer at once, then drop what the client still sends: closing now would reset the
        connection, and the client might lose the answer. What was asked before is answered first."""
        if self._exchange is not None or self._waiting_requests:
            broken = Incoming()
            broken.error = error
            broken.keep_alive = False
            self._waiting_requests.append(broken)
            self._transport.pause_reading()
            return
        cell = self.ledger.cell()
        cell.saw_error(error.code)
        cell.saw_status(error.status)
        is_head = self._incoming.method == b"HEAD"
        self._transport.write(reply_of(error, self._deps.ids.of(None), keep_alive=False, with_body=not is_head))
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

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The headers are larger than {self.limits.max_header_bytes:,} bytes or more than {self.limits.max_headers}."
        )

    def _too_large(self, size: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"The body has {size:,} bytes or more; the limit is {self.limits.max_body_bytes:,}. Send less in one "
            "request, or have the operator raise `limits.max_body_bytes`."
        )
