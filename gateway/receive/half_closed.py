"""Finds out whether a client that has closed its sending half still reads.

A fully closed socket answers data with a TCP reset, a half-closed one accepts it. Data that changes nothing for the
client: before the reply has begun an interim `100 Continue`, which every HTTP/1.1 client skips (RFC 9110, 15.2); in a
stream an SSE comment. Two writes are needed: the first provokes the reset, the second meets it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PAUSE_SECONDS: Final = 0.05


class Probeable(Protocol):
    """A request under way on the connection, as far as a probe needs it."""

    has_begun: bool  # the reply's head has been sent

    def comment(self) -> bytes:
        """Return bytes that the client skips inside a reply that has begun; empty if the reply allows none."""


def probe(transport: asyncio.Transport, served: Callable[[], Probeable | None]) -> None:
    """Write to a half-closed connection, so that asyncio soon reports it as lost if the client has gone.

    Args:
        transport: The connection's transport.
        served: Returns the request under way, or None if nothing may be written now.
    """

    def write() -> bool:
        exchange = served()
        if exchange is None or transport.is_closing():
            return False
        transport.write(exchange.comment() if exchange.has_begun else CONTINUE)
        return True

    if write():
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS, write)
