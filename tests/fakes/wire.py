"""One connection to the fake engine: HTTP/1.1 in, paced bytes out.

Knows sockets and pace, not what the bytes mean (`plan.py`) nor which model is loaded (`engine.py`).
One write per event, as vLLM under uvicorn does, so that a proxy sees the event boundaries it
would see in production.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import httptools

from tests.fakes.knobs import Knobs
from tests.fakes.pace import PACE
from tests.fakes.plan import END, Plan
from tests.fakes.ticker import Ticker

_BURST = 64  # events written in one turn of the loop when there is no cadence
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(slots=True, eq=False)
class Received:
    """One request as it arrived, for a test to look at."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool
    at: float = field(default_factory=time.monotonic)
    ended: str | None = None
    """`complete`, `aborted` (the client went away) or `cut` (as told); None: still running."""

    def header(self, name: str) -> str | None:
        """Return the first header of that name, which matches in any case."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), None)


class Host(Protocol):
    """What a connection asks of the engine."""

    loop: asyncio.AbstractEventLoop
    ticker: Ticker

    def opened(self, connection: Connection) -> None: ...
    def closed(self, connection: Connection) -> None: ...
    def answer(self, request: Received) -> Plan: ...
    def ended(self, request: Received, how: str) -> None: ...
    def slowness(self, knobs: Knobs) -> float: ...
    def hold(self, then: Callable[[], None]) -> None: ...


class Connection(asyncio.Protocol):
    """Answers requests one after another; pipelined ones wait for their turn."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Received] = deque()
        self.current: Received | None = None
        self.stream: Streaming | None = None
        self.paused = False
        self.is_closed = False
        self.used_at = 0.0

    # asyncio.Protocol
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self.used_at = self.host.loop.time()
        self.host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self.host.closed(self)
        self._end("aborted")

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.stream is not None:
            self.stream.resumed()

    # httptools
    def on_message_begin(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.transport.write(_CONTINUE)
        self.headers.append((name, value))

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        request = Received(
            self.parser.get_method().decode(),
            self.target.decode("latin-1"),
            self.headers,
            body,
            self.parser.should_keep_alive(),
        )
        if self.current is None:
            self._start(request)
        else:
            self.waiting.append(request)

    # one answer
    def _start(self, request: Received) -> None:
        self.current = request
        plan = self.host.answer(request)
        if plan.knobs.hang:
            return
        if plan.knobs.drop:
            self.cut("close")
            return
        if plan.knobs.held:
            self.host.hold(self._if_current(request, lambda: self._send(request, plan)))
            return
        wait_seconds = PACE * (plan.wait_seconds + self.host.slowness(plan.knobs))
        if wait_seconds:
            self.host.loop.call_later(wait_seconds, self._if_current(request, lambda: self._send(request, plan)))
        else:
            self._send(request, plan)

    def _if_current(self, request: Received, then: Callable[[], None]) -> Callable[[], None]:
        return lambda: then() if self.current is request and not self.is_closed else None

    def _send(self, request: Received, plan: Plan) -> None:
        if plan.chunks:
            self._send_stream(request, plan)
        elif plan.knobs.cut_after is not None:
            self.transport.write(plan.whole[: len(plan.head) + len(plan.body) // 2])
            self.cut(plan.knobs.cut)
        elif request.keep_alive and not plan.knobs.close_after_reply:
            self.transport.write(plan.whole)
            self.finish()
        else:
            self.transport.write(plan.whole if request.keep_alive else _closing(plan.head) + plan.body)
            request.keep_alive = False
            self.finish()

    def _send_stream(self, request: Received, plan: Plan) -> None:
        self.transport.write(plan.head if request.keep_alive else _closing(plan.head))
        request.keep_alive = request.keep_alive and not plan.knobs.close_after_reply
        self.stream = Streaming(self, plan)
        if plan.knobs.ttft_ms:
            self.host.loop.call_later(PACE * plan.knobs.ttft_ms / 1000.0, self._if_current(request, self.stream.begin))
        else:
            self.stream.begin()

    def finish(self) -> None:
        """Count the current answer as complete and take the next request."""
        request = self.current
        self._end("complete")
        if request is not None and not request.keep_alive:
            self.transport.close()
            return
        self.used_at = self.host.loop.time()
        if self.waiting:
            self._start(self.waiting.popleft())

    def cut(self, how: str) -> None:
        """Drop the connection in the middle of the current answer: `close` (FIN) or `reset` (RST)."""
        self._end("cut")
        if how == "reset":
            self.reset()
        else:
            self.transport.close()

    def reset(self) -> None:
        """Drop the connection with an RST where the socket has one (TCP)."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _end(self, how: str) -> None:
        request, self.current, self.stream = self.current, None, None
        if request is not None:
            self.host.ended(request, how)


class Streaming:
    """The events of one answer, sent at a cadence or as fast as they are read."""

    __slots__ = ("at", "connection", "plan", "pumping", "stop")

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self.connection = connection
        self.plan = plan
        self.at = 0
        limits = [limit for limit in (plan.knobs.cut_after, plan.knobs.hang_after) if limit is not None]
        self.stop = min([plan.paced, *limits])
        self.pumping = False

    def begin(self) -> None:
        """Send the first event now and let the cadence send the rest."""
        if not self.plan.knobs.cadence_ms:
            self.pump()
        elif self.tick():
            self.connection.host.ticker.join(PACE * self.plan.knobs.cadence_ms / 1000.0, self)

    def tick(self) -> bool:
        """Send one event; a reader that is too slow makes it wait for the next beat."""
        connection = self.connection
        if connection.is_closed or connection.stream is not self:
            return False
        if self.at < self.stop:
            if connection.paused:
                return True
            connection.transport.write(self.plan.chunks[self.at])
            self.at += 1
        if self.at < self.stop:
            return True
        self._close()
        return False

    def pump(self) -> None:
        """Send events without a pause, giving way to other connections now and then."""
        self.pumping = False
        for _ in range(_BURST):
            if self.connection.paused or not self.tick():
                return
        self.pumping = True
        self.connection.host.loop.call_soon(self.pump)

    def resumed(self) -> None:
        """The reader has caught up."""
        if not self.plan.knobs.cadence_ms and not self.pumping:
            self.pump()

    def _close(self) -> None:
        knobs, connection = self.plan.knobs, self.connection
        if knobs.cut_after is not None and self.stop == knobs.cut_after:
            connection.cut(knobs.cut)
        elif knobs.hang_after is None or self.stop != knobs.hang_after:
            for chunk in self.plan.chunks[self.plan.paced :]:
                connection.transport.write(chunk)
            connection.transport.write(END)
            connection.finish()


def _closing(head: bytes) -> bytes:
    return head[:-2] + b"connection: close\r\n\r\n"
