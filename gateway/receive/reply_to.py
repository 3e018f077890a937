"""Where a reply goes: what a request that is being served asks of its client's connection."""

from collections.abc import Callable
from typing import Protocol


class ReplyTo(Protocol):
    """A client's connection, as its request knows it."""

    is_draining: bool  # the next reply is the last one on it
    write: Callable[[bytes], None]
    unsent_bytes: Callable[[], int]  # how much the client has not taken yet

    def waits_for_engine(self) -> None:
        """The next sign of life is an engine's to give."""

    def exchange_is_over(self, *, keep_alive: bool) -> None:
        """The reply is complete."""

    def abort(self) -> None:
        """Break the connection off: the reply is not complete and never will be."""
