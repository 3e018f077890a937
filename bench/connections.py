"""Client connections of the load generator: raw protocols that check each reply and little else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Protocol, cast

PROMPT = (
    "You are the support assistant of a shop that sells garden tools. Answer in two sentences, name the "
    "article and its price, and never promise a delivery date. "
)
TAIL = b"0\r\n\r\n"


def request_bytes(model: str, key: str, host: str, *, stream: bool) -> bytes:
    """Return one chat request as the OpenAI client sends it, with a body of about 1 KB."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": PROMPT * 3},
            {"role": "user", "content": "Which rake is best for wet leaves on gravel, and what does it cost? " * 5},
        ],
        "temperature": 0.2,
        "max_tokens": 4096 if stream else 12,
        "stream": stream,
        "user": "customer-4711",
    }
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nUser-Agent: loragate-bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Whole(asyncio.Protocol):
    """One keep-alive connection whose replies are not streamed."""

    def __init__(self, done: Callable[[Whole, str | None], None]) -> None:
        self.done = done
        self.buffer = b""
        self.busy = False
        self.counted = False
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> None:
        self.busy = True
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or not _is_complete(buffer, end):
            self.buffer = buffer
            return
        self.buffer = b""
        self.busy = False
        self.done(self, None if buffer.startswith(b"HTTP/1.1 200") else f"status {buffer[9:12].decode()}")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self.done(self, "connection lost")


def _is_complete(buffer: bytes, end: int) -> bool:
    """Return whether `buffer`, whose head ends at `end`, holds the whole reply and its JSON's end."""
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return b"chunked" in head and buffer.endswith(TAIL)
    line_end = head.find(b"\r\n", at)
    length = int(head[at + 15 : line_end if line_end > 0 else end])
    return len(buffer) - end - 4 == length and (buffer.endswith(b"}") or not head.startswith(b"http/1.1 200"))


class Owner(Protocol):
    """Who a stream tells that it is over."""

    events: int

    def stream_ended(self, stream: Stream, complete: bool) -> None: ...


class Stream(asyncio.Protocol):
    """One streamed reply on a connection of its own; counts events as they come."""

    def __init__(self, load: Owner, request: bytes) -> None:
        self.load = load
        self.request = request
        self.events = 0
        self.status = b""
        self.last = b""
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if not self.status:
            self.status = data[9:12]
        count = data.count(b"\n\n") + (self.last[-1:] == b"\n" and data[:1] == b"\n")
        self.load.events += count
        self.events += count
        self.last = data if len(data) > 32 else (self.last + data)[-64:]
        if self.last.endswith(TAIL):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            complete = self.status == b"200" and self.last.endswith(TAIL) and b"[DONE]" in self.last
            self.load.stream_ended(self, complete)
            self.transport.close()
