"""Large bodies are parsed in steps: all of a worker's together take a few milliseconds of each event loop turn.

While its body is parsed, a request takes the place of the `Exchange` in its connection.
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

# Time for parsing in one turn of the event loop; the last step begun in it may take 5 ms more.
TURN_SECONDS: Final = 0.003


class BodyReading:
    """A request whose body is being parsed.

    Args:
        client: The request's connection.
        incoming: The request.
        request_id: The request's id.
        steps: The parser, which yields after each step and returns the fields.
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
        """Parse one step; False when parsing has ended, successfully or not."""
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

    # The part of `Exchange` that a connection calls

    def fail(self, error: LoragateError) -> None:
        """Stop parsing and answer with `error`."""
        if self._steps is not None:
            self._steps = None
            self._incoming.error = error
            self._client.body_is_read(self._incoming, self._id, None)

    def client_gone(self) -> None:
        """Stop parsing: the client has closed its connection."""
        self._steps = None
        self._incoming.drop()

    def check(self, now: float) -> None:
        """Do nothing: there is no time-out, as nothing is awaited."""

    def pause(self) -> None:
        """Do nothing: no engine is sending."""

    resume = pause

    def comment(self) -> bytes:
        return b""


class BodyReadings:
    """The bodies that a worker is parsing, one step of each in turn."""

    def __init__(self) -> None:
        self._waiting: deque[BodyReading] = deque()

    def add(self, reading: BodyReading) -> None:
        """Add a body; its first step is taken in the event loop's next turn."""
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
