"""HTTP pipelining: complete requests that wait on a connection behind the one being served, and back-pressure.

When too many wait, the connection is not read until one has been served.
"""

import asyncio
from collections import deque
from typing import Final

from gateway.receive.incoming import Incoming

# How many pipelined requests may wait; then reading is paused.
MAX_PIPELINE: Final = 16
# After a read of this size other connections get a turn of the event loop first: a quick sender is read for long at a
# time, and parsing one such read takes 30 ms if it is made of tiny chunks.
LONG_READ_BYTES: Final = 64 * 1024


class PipelineQueue:
    """Complete requests of one connection, in the order of their arrival.

    Args:
        most_bytes: The most that the waiting requests' bodies may have; then reading is paused.
    """

    __slots__ = ("_bytes", "_is_held_back", "_is_yielding", "_most_bytes", "_transport", "waiting")

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_held_back = False  # reading is paused because too much waits
        self._is_yielding = False  # reading is paused until the next turn of the event loop
        self.waiting: deque[Incoming] = deque()
        self._transport: asyncio.Transport

    def attach(self, transport: asyncio.Transport) -> None:
        """Set the transport whose reading is paused and resumed."""
        self._transport = transport

    def add(self, incoming: Incoming) -> None:
        """Append a request; pause reading if the queue is full."""
        self.waiting.append(incoming)
        self._bytes += incoming.size
        if not self._is_held_back and self._is_full():
            self._is_held_back = True
            self._transport.pause_reading()

    def take(self) -> Incoming:
        """Remove and return the first request; resume reading if there is room again."""
        incoming = self.waiting.popleft()
        self._bytes -= incoming.size
        if self._is_held_back and not self._is_full():
            self._is_held_back = False
            if not self._is_yielding:
                self._transport.resume_reading()
        return incoming

    def clear(self) -> None:
        for incoming in self.waiting:
            incoming.drop()
        self.waiting.clear()

    def yield_turn(self) -> None:
        """Pause reading until the next turn of the event loop."""
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
