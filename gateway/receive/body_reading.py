"""Bodies that are read in steps: a few milliseconds a turn of the event loop, all of them together.

While its body is read, a request stands in its connection where its exchange will stand.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Generator
from time import monotonic
from typing import TYPE_CHECKING, Final

from gateway.errors import LoragateError
from gateway.openai.body import Fields
from gateway.receive.incoming import Incoming

if TYPE_CHECKING:
    from gateway.receive.protocol import ClientConnection

log = logging.getLogger("loragate.receive")

# Of a turn, before everything else has its own; one step more may take 5 ms.
TURN_SECONDS: Final = 0.003


class BodyReading:
    """A request whose body is being read.

    Args:
        client: Its connection.
        incoming: The request.
        request_id: Its id.
        steps: What reads it.
    """

    __slots__ = ("_client", "_id", "_incoming", "_steps", "has_begun", "is_http10")

    def __init__(
        self, client: "ClientConnection", incoming: Incoming, request_id: bytes, steps: Generator[None, None, Fields]
    ) -> None:
        self._client = client
        self._incoming = incoming
        self._id = request_id
        self._steps: Generator[None, None, Fields] | None = steps
        self.is_http10 = incoming.is_http10
        self.has_begun = False

    def step(self) -> bool:
        """Take one step; False when there is none left, whatever came of it."""
        steps = self._steps
        if steps is None:
            return False
        try:
            next(steps)
        except StopIteration as end:
            self._steps = None
            self._client.body_is_read(self._incoming, self._id, end.value)
        except LoragateError as error:
            self.fail(error)
        except Exception:
            log.exception("a body could not be read; this is a bug")
            self._steps = None
            self._client.abort()
        return self._steps is not None

    # What a connection asks of who stands there

    def fail(self, error: LoragateError) -> None:
        """Answer with `error` instead."""
        if self._steps is not None:
            self._steps = None
            self._incoming.error = error
            self._client.body_is_read(self._incoming, self._id, None)

    def client_gone(self) -> None:
        """Nobody listens any more."""
        self._steps = None
        self._incoming.drop()

    def check(self, now: float) -> None:
        """Nothing is waited for."""

    def pause(self) -> None:
        """Nothing is on its way."""

    resume = pause

    def comment(self) -> bytes:
        """Return nothing: no reply has begun."""
        return b""


class BodyReadings:
    """The bodies that a worker reads in steps, one step of each in turn."""

    def __init__(self) -> None:
        self._waiting: deque[BodyReading] = deque()

    def add(self, reading: BodyReading) -> None:
        """Begin with the next turn."""
        self._waiting.append(reading)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        end = monotonic() + TURN_SECONDS
        waiting = self._waiting
        while waiting:
            reading = waiting[0]
            if reading.step():
                waiting.rotate(-1)
            else:
                waiting.popleft()
            if monotonic() >= end:
                break
        if waiting:
            asyncio.get_running_loop().call_soon(self._turn)
