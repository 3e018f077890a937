"""The seams: what one part of the gateway asks of another, and nothing more.

`receive` and `serve` never import each other; they meet in `app.py` through these.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.errors import LoragateError

# A request's bytes: in one piece, or a large one's in parts that nobody has to copy together.
Outgoing = bytes | Sequence[bytes | memoryview]


class ReplyHead(Protocol):
    """The beginning of an engine's reply."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Names in lower case, and values."""

    @property
    def length(self) -> int | None:
        """Bytes of the body if the engine said so, else None."""


class Reader(Protocol):
    """Who an engine's reply is for. Called on the event loop, never concurrently."""

    def on_sent(self) -> None:
        """The request has been handed to a connection."""

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        """A part of the reply: `head` once, with the first part; then data; the last part is complete."""

    def on_chunk(self, chunk: bytes) -> None:
        """A part of a chunked reply that is exactly one HTTP chunk and ends with an event, framing included."""

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        """No more will come. `is_stale`: an idle connection died before it brought a single byte."""


class Link(Protocol):
    """A request on its way to an engine, or a reply on its way back."""

    def pause(self) -> None:
        """Stop reading the reply until `resume`: the client is slower than the engine."""

    def resume(self) -> None:
        """Go on reading."""

    def cancel(self) -> None:
        """Nobody wants the reply any more: stop the engine's work on it. Harmless when it is over."""


class Engines(Protocol):
    """Connections to every engine we know."""

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Engine URL → requests of this worker that it has not finished."""

    @property
    def heard_at(self) -> Mapping[str, float]:
        """Engine URL → when anything last came from it, in monotonic seconds, to within a sweep; if anything has."""

    def send(self, url: str, request: Outgoing, reader: Reader) -> Link:
        """Send `request` to the engine at `url`; the reply comes to `reader`."""


class Waiter(Protocol):
    """A request whose version has to be loaded first."""

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        """The version has been loaded, or was where it was said to be missing; or why it cannot be."""


class Supply(Protocol):
    """Where versions that no engine has ready are asked for."""

    @property
    def recent(self) -> dict[str, float]:
        """Version → when it was last sent a request (monotonic seconds), since this was last told."""

    def want(self, version: str, missing_at: str | None, waiter: Waiter) -> None:
        """Have a version loaded, and tell the waiter, later and once.

        Args:
            version: A registered version.
            missing_at: The engine that should have it and said that it has not, if one did.
            waiter: Who is told.
        """
