"""The Protocol of a client's connection as its request uses it: where the reply is written."""

from collections.abc import Callable
from typing import Protocol


class ReplyTo(Protocol):
    """A client's connection."""

    is_draining: bool  # the next reply is the last one on this connection
    write: Callable[[bytes], None]
    unsent_bytes: Callable[[], int]  # how much is in the send buffer

    def waits_for_engine(self) -> None:
        """Stop the connection's own time-out: the request waits for an engine."""

    def exchange_is_over(self, *, keep_alive: bool) -> None:
        """Go on with the next request, or close: the reply is complete."""

    def abort(self) -> None:
        """Close at once: the reply is incomplete and cannot be completed."""
