"""A client that has closed its sending half: does it still listen?

A closed socket answers data with a reset, a half-closed one takes it. Before a reply has begun an interim
`100 Continue` is such data, which every HTTP/1.1 client skips (RFC 9110, 15.2); in a stream an SSE comment is.
Two writes are needed: the first provokes the reset, the second finds it.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PAUSE_SECONDS: Final = 0.05


class Probeable(Protocol):
    """What a connection is about, as far as it is asked here."""

    has_begun: bool

    def comment(self) -> bytes:
        """Return bytes that a reply which has begun may carry without meaning."""


def probe(transport: asyncio.Transport, served: Callable[[], Probeable | None]) -> None:
    """Find out whether a client still listens; its connection is lost soon if it does not.

    Args:
        transport: The connection's.
        served: Returns what is under way and may be written to, if anything.
    """

    def write() -> bool:
        exchange = served()
        if exchange is None or transport.is_closing():
            return False
        transport.write(exchange.comment() if exchange.has_begun else CONTINUE)
        return True

    if write():
        asyncio.get_running_loop().call_later(_PAUSE_SECONDS, write)
