"""Requests that wait on a connection behind the one being served; and when its client is not read any further."""

import asyncio
from collections import deque
from typing import Final

from gateway.receive.incoming import Incoming

# Pipelined requests that wait behind one being served; then the client is not read any further.
MAX_PIPELINE: Final = 16
# After a read of this size others have their turn: a client that sends quickly is read for long at a time, and
# taking a read apart that is made of tiny chunks takes 30 ms.
LONG_READ_BYTES: Final = 64 * 1024


class PipelineQueue:
    """Complete requests in the order of their arrival.

    Args:
        most_bytes: Of their bodies, before no more is read.
    """

    __slots__ = ("_bytes", "_is_held_back", "_is_yielding", "_most_bytes", "_transport", "waiting")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_held_back = False  # the client sends more than is served
        self._is_yielding = False  # until the next turn of the event loop
        self.waiting: deque[Incoming] = deque()
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport) -> None:
        """Take the transport that is read or not."""
        self._transport = transport

    def add(self, incoming: Incoming) -> None:
        """Let a request wait."""
        self.waiting.append(incoming)
        self._bytes += incoming.size
        if not self._is_held_back and self._is_full():
            self._is_held_back = True
            self._transport.pause_reading()

    def take(self) -> Incoming:
        """Return the first that waits."""
        incoming = self.waiting.popleft()
        self._bytes -= incoming.size
        if self._is_held_back and not self._is_full():
            self._is_held_back = False
            if not self._is_yielding:
                self._transport.resume_reading()
        return incoming

    def clear(self) -> None:
        """Drop them all."""
        for incoming in self.waiting:
            incoming.drop()
        self.waiting.clear()

    def yield_turn(self) -> None:
        """Read nothing more until the event loop's next turn."""
        if not self._is_yielding and not self._transport.is_closing():
            self._is_yielding = True
            if not self._is_held_back:
                self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        self._is_yielding = False
        if not self._is_held_back and not self._transport.is_closing():
            self._transport.resume_reading()

    def _is_full(self) -> bool:
        return len(self.waiting) >= MAX_PIPELINE or self._bytes > self._most_bytes
