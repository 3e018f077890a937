"""An HTTP client for the gateway's own requests to an engine (health, models, probes), on the data plane's connections.

An idle node sends three such requests a second to each engine. With httpx that took 16 ms of CPU a second, with this
client 13, and httpx was an eighth of its imports (docs/decisions/0021).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from gateway.engine_address import OPEN, PLAIN_HEAD, Access, why_unreachable
from gateway.errors import EngineFailed, LoragateError
from gateway.ports import ReplyHead
from gateway.serve.upstream import EnginePool

CONNECT_SECONDS: Final = 5.0
# The largest answer to a POST: the likeliest tokens after 10,000 prompts.
MAX_ANSWER: Final = 64 * 1024 * 1024
# The largest answer to a GET unless the caller says otherwise: health checks have almost no body.
MAX_SHORT_ANSWER: Final = 64 * 1024


class NoAnswer(Exception):
    """The engine did not answer, or not in time; the message says which."""


class Answer(NamedTuple):
    """The status and body of an answer; the body is empty if a successful answer was reported by `on_part`."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed.

        Raises:
            ValueError: The body is not JSON, or is nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def text(self) -> str:
        """Return the body as text; bytes that are not UTF-8 are replaced."""
        return self.body.decode(errors="replace")


class EngineClient:
    """A client for one engine.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        access: The engine's API key and certificates.
    """

    def __init__(self, url: str, access: Access = OPEN) -> None:
        self._url = url
        self._access = access
        self._pool: EnginePool | None = None  # made at the first request, on the event loop that sends it

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    async def get(self, path: str, seconds: float, most_bytes: int = MAX_SHORT_ANSWER) -> Answer:
        """Send a GET.

        Raises:
            NoAnswer: There was no answer within `seconds`, or it was longer than `most_bytes`.
        """
        return await self._ask(self._request("GET", path, b""), seconds, None, most_bytes)

    async def get_anew(self, path: str, seconds: float, most_bytes: int) -> Answer:
        """Send a GET over a new connection, which a load balancer may send to another engine.

        Raises:
            NoAnswer: There was no answer within `seconds`, or it was longer than `most_bytes`.
        """
        async with self._anew() as client:
            return await client.get(path, seconds, most_bytes)

    async def post_anew(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        """Send a POST with a JSON object over a new connection.

        Raises:
            NoAnswer: There was no answer within `seconds`.
        """
        async with self._anew() as client:
            return await client.post(path, body, seconds)

    @asynccontextmanager
    async def _anew(self) -> AsyncIterator["EngineClient"]:
        client = EngineClient(self._url, self._access)
        try:
            yield client
        finally:
            client.close()

    async def post(
        self, path: str, body: dict[str, Any], seconds: float, on_part: Callable[[], None] | None = None
    ) -> Answer:
        """Send a POST with a JSON object; with `on_part`, call that for each part of a good answer, and keep no body.

        The engine's work is stopped when the time is over or the caller is cancelled.

        Raises:
            NoAnswer: There was no answer within `seconds`.
        """
        return await self._ask(self._request("POST", path, json.dumps(body).encode()), seconds, on_part, MAX_ANSWER)

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        about_body = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        return b"%b %b%b%b\r\n%b" % (method.encode(), path.encode(), PLAIN_HEAD, about_body.encode(), body)

    async def _ask(self, request: bytes, seconds: float, on_part: Callable[[], None] | None, most_bytes: int) -> Answer:
        loop = asyncio.get_running_loop()
        if self._pool is None:
            self._pool = EnginePool(self._url, {}, CONNECT_SECONDS, loop.time, access=self._access)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    answer = _AnswerReader(loop.create_future(), on_part, most_bytes)
                    link = self._pool.send(request, answer)
                    try:
                        return await answer.whole
                    except _Stale:  # the engine had closed the idle connection before it got the request: send it again
                        continue
                    finally:
                        if not answer.is_over:  # else another request may use the connection by now
                            link.cancel()
        except TimeoutError:
            raise NoAnswer(f"nothing within {seconds:g} s") from None
        except LoragateError as error:
            why = why_unreachable(error.__cause__)
            raise NoAnswer(f"the engine is not reachable: {why}" if why else error.message) from None


class _Stale(Exception):
    """An idle connection was closed before the answer's first byte."""


class _AnswerReader:
    """Collects one answer; see `gateway.ports.Reader`."""

    def __init__(self, whole: asyncio.Future[Answer], on_part: Callable[[], None] | None, most_bytes: int) -> None:
        self.whole = whole
        self.is_over = False
        self._on_part = on_part
        self._most_bytes = most_bytes
        self._status = 0
        self._body = bytearray()

    def on_sent(self) -> None:
        """Do nothing: only the answer counts."""

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        if head is not None:
            self._status = head.status
        if data:
            self._take(data)
        self.is_over = is_complete
        if is_complete and not self.whole.done():
            self.whole.set_result(Answer(self._status, bytes(self._body)))

    def on_chunk(self, chunk: bytes) -> None:
        self._take(chunk[chunk.index(b"\r\n") + 2 : -2])

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        self.is_over = True
        if not self.whole.done():
            self.whole.set_exception(_Stale() if is_stale else error)

    def _take(self, data: bytes) -> None:
        if self._on_part is not None and self._status == HTTPStatus.OK:
            self._on_part()
        elif len(self._body) + len(data) <= self._most_bytes:
            self._body += data
        elif not self.whole.done():
            self.whole.set_exception(EngineFailed(f"The engine's answer is longer than {self._most_bytes:,} bytes."))
