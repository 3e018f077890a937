"""Keep-alive for streams: SSE comments while an engine is silent, and an early head while a request waits for one.

Load balancers, and some clients, cut a connection on which nothing comes for a minute. An SSE comment keeps it open and
means nothing to the client. Before an engine's head there is no stream to write a comment to, so the gateway sends a
head of its own, with status 200; an error after that can only be told as the stream's error event.
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
# An engine's error has a line or two; a body larger than this, such as one that repeats a long prompt, is not quoted.
_MAX_ERROR_BYTES: Final = 64 * 1024


def may_begin_early(request: Request) -> bool:
    """Whether the request asks for a stream, and its client understands chunked encoding (HTTP/1.1)."""
    return not request.is_http10 and request.endpoint.dialect is not Dialect.PLAIN and request.is_streamed


def is_silent_for_long(request: Request, limits: Limits, now: float, last: float | None) -> bool:
    """Whether the stream needs a comment by now, or an early head if it has no head yet (`last` is None).

    Args:
        request: The request that the stream answers.
        limits: `comment_seconds` and `early_head_seconds` decide.
        now: Monotonic seconds.
        last: When anything was last written, in monotonic seconds; None before the head.
    """
    if last is not None:
        return bool(limits.comment_seconds) and now - last >= limits.comment_seconds
    return 0 < limits.early_head_seconds <= now - request.received_at and may_begin_early(request)


def early_head(request: Request) -> bytes:
    """Return the head of a stream that no engine serves yet: without version, arm and route reason."""
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
    """Return the error event and the last chunk that end a stream which no engine has served."""
    event = event_of(error, dialect)
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)


class UnstreamedReply:
    """An engine's reply that is no stream, after the early head promised one: it becomes the stream's error event.

    Args:
        dialect: The endpoint's dialect, which decides the event's form.
        status: The engine's HTTP status.
    """

    __slots__ = ("_dialect", "_parts", "_size", "_status")

    def __init__(self, dialect: Dialect, status: int) -> None:
        self._dialect = dialect
        self._status = status
        self._parts: list[bytes] = []
        self._size = 0

    def take(self, data: bytes, *, is_complete: bool) -> bytes:
        """Take a part of the body; return the error event once the body is complete, until then nothing."""
        self._size += len(data)
        if self._size > _MAX_ERROR_BYTES:
            self._parts.clear()
        elif data:
            self._parts.append(data)
        return error_event(self._error_fields(b"".join(self._parts)), self._dialect) if is_complete else b""

    def _error_fields(self, body: bytes) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(body)
        except (ValueError, RecursionError):
            answer = None
        error = answer.get("error", answer) if isinstance(answer, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            message = f"The engine answered with the status {self._status} and no stream."
            error = {"message": message, "type": "server_error", "code": "engine_failed"}
        return {name: error.get(name) for name in ("message", "type", "param", "code")}
