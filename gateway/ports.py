"""The Protocols between `receive` and `serve`, which never import each other; `app.py` connects them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.errors import LoragateError

# A request's bytes: in one piece, or for a large request in parts, which are sent without joining them.
Outgoing = bytes | Sequence[bytes | memoryview]


class ReplyHead(Protocol):
    """The head of an engine's reply."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The header lines: names in lower case, and values."""

    @property
    def length(self) -> int | None:
        """The body's length in bytes if the engine has sent it, else None."""


class Reader(Protocol):
    """Receives an engine's reply. Called on the event loop, never concurrently."""

    def on_sent(self) -> None:
        """The request has been written to a connection."""

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        """A part of the reply has come: `head` with the first part only; `is_complete` with the last."""

    def on_chunk(self, chunk: bytes) -> None:
        """Exactly one HTTP chunk of a chunked reply has come, framing included, which ends with the end of an event."""

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        """The reply will not be completed. `is_stale`: a reused connection was closed before it brought a byte."""


class Link(Protocol):
    """A request on its way to an engine, or a reply on its way back."""

    def pause(self) -> None:
        """Stop reading the reply until `resume`: the client is slower than the engine."""

    def resume(self) -> None:
        """Read the reply again."""

    def cancel(self) -> None:
        """Stop the engine's work on the request. Harmless if it is over."""


class Engines(Protocol):
    """The connections to all engines."""

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Engine URL → unfinished requests of this worker."""

    @property
    def heard_at(self) -> Mapping[str, float]:
        """Engine URL → when it last sent anything, in monotonic seconds, to within a sweep; absent if it never has."""

    def send(self, url: str, request: Outgoing, reader: Reader) -> Link:
        """Send `request` to the engine at `url`; the reply comes to `reader`."""


class Waiter(Protocol):
    """A request whose version has to be loaded first."""

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        """The version is ready, or (`was_there`) the engine that answered 404 had it all along; or it has failed."""


class Supply(Protocol):
    """Loads versions that no engine has ready."""

    @property
    def recent(self) -> dict[str, float]:
        """Version → when it was last sent a request (monotonic seconds), since the last report to the node."""

    def want(self, version: str, missing_at: str | None, waiter: Waiter) -> None:
        """Have a version loaded; the waiter is called back later, exactly once.

        Args:
            version: A registered version.
            missing_at: The URL of the engine that should have the version and answered 404; None if there is none.
            waiter: The request that waits.
        """
