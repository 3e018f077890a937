"""A stream's head before any engine has answered, for a request that waits; and comments for streams that are silent.

Load balancers cut a connection on which nothing comes for a minute, and some clients do. An SSE comment is
something that says nothing. Before an engine's head there is no stream to write one to, so the head goes out early,
and says 200: what the status would have told after that is told as the stream's error event.
"""

from typing import Any, Final

import msgspec

from gateway.errors import LoragateError
from gateway.openai.endpoints import Dialect
from gateway.receive.failures import connection_header, error_event, event_of, status_line
from gateway.receive.limits import Limits
from gateway.receive.request import Request

COMMENT: Final = b": keep-alive\n\n"
COMMENT_CHUNK: Final = b"%x\r\n%b\r\n" % (len(COMMENT), COMMENT)
# An engine's error is a line or two; one that repeats a long prompt is not told whole.
_MAX_TOLD_BYTES: Final = 64 * 1024


def may_begin_early(request: Request) -> bool:
    """Whether the reply will be a stream if all goes well, and its client understands one without a length."""
    return not request.is_http10 and request.endpoint.dialect is not Dialect.PLAIN and request.is_streamed


def is_silent_for_long(request: Request, limits: Limits, now: float, last: float | None) -> bool:
    """Whether the stream needs a comment by now, or its head if it has none (`last` is None).

    Args:
        request: Whose stream.
        limits: How long is long.
        now: Monotonic seconds.
        last: When anything last came, in monotonic seconds; None before the head.
    """
    if last is not None:
        return bool(limits.comment_seconds) and now - last >= limits.comment_seconds
    return 0 < limits.early_head_seconds <= now - request.received_at and may_begin_early(request)


def early_head(request: Request) -> bytes:
    """Return the head of a stream as far as it is known before anyone serves it."""
    lines = [
        status_line(200),
        b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nx-request-id: %b\r\n"
        % request.id,
        request.reply_headers,
        request.lease.headers(request.received_at) if request.lease is not None else b"",
        b"transfer-encoding: chunked\r\n",
        connection_header(keep_alive=request.keep_alive, is_http10=False),
        b"\r\n",
    ]
    return b"".join(lines)


def early_end(error: LoragateError, dialect: Dialect) -> bytes:
    """Return what ends a stream that nobody has served, its framing included."""
    event = event_of(error, dialect)
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)


class UnstreamedReply:
    """An engine's reply that is no stream, where the client has been promised one: it becomes an error event.

    Args:
        dialect: Of the endpoint.
        status: The engine's.
    """

    __slots__ = ("_dialect", "_parts", "_size", "_status")

    def __init__(self, dialect: Dialect, status: int) -> None:
        self._dialect = dialect
        self._status = status
        self._parts: list[bytes] = []
        self._size = 0

    def take(self, data: bytes, *, is_complete: bool) -> bytes:
        """Take a part of the body; return the event once it is complete, before that nothing."""
        self._size += len(data)
        if self._size > _MAX_TOLD_BYTES:
            self._parts.clear()
        elif data:
            self._parts.append(data)
        return error_event(self._error_fields(b"".join(self._parts)), self._dialect) if is_complete else b""

    def _error_fields(self, body: bytes) -> dict[str, Any]:
        try:
            told = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            told = None
        error = told.get("error", told) if isinstance(told, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            message = f"The engine answered with the status {self._status} and no stream."
            error = {"message": message, "type": "server_error", "code": "engine_failed"}
        return {name: error.get(name) for name in ("message", "type", "param", "code")}
