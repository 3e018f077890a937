"""Questions that the gateway asks an engine for itself, over the data plane's own connections.

Three a second and engine. Through httpx an idle node took 16 ms of CPU a second, this way 13, and an eighth of its
imports was httpx (docs/decisions/0021).
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
# The longest answer to a POST that is kept: the likeliest tokens after 10,000 prompts.
MAX_ANSWER: Final = 64 * 1024 * 1024
# And to a GET, if nothing else is said: a health check has no body to speak of.
MAX_SHORT_ANSWER: Final = 64 * 1024


class NoAnswer(Exception):
    """The engine did not answer, or not in time; the message says which."""


class Answer(NamedTuple):
    """A status, and the body; none of a good answer that was told of in parts."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Return the body's value.

        Raises:
            ValueError: It is not JSON, or nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def text(self) -> str:
        """Return the body as text, whatever it is."""
        return self.body.decode(errors="replace")


class EngineClient:
    """Asks one engine.

    Args:
        url: `http://…`, `https://…`, or `unix:///path`.
        access: What opens it.
    """

    def __init__(self, url: str, access: Access = OPEN) -> None:
        self._url = url
        self._access = access
        self._pool: EnginePool | None = None  # made on the loop that asks

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.close()

    async def get(self, path: str, seconds: float, most_bytes: int = MAX_SHORT_ANSWER) -> Answer:
        """Ask for a path; an answer longer than `most_bytes` is none.

        Raises:
            NoAnswer: Within so many seconds and bytes, or at all.
        """
        return await self._ask(self._request("GET", path, b""), seconds, None, most_bytes)

    async def get_anew(self, path: str, seconds: float, most_bytes: int) -> Answer:
        """Ask for a path over a connection of its own, which a balancer may lead elsewhere.

        Raises:
            NoAnswer: Within so many seconds and bytes, or at all.
        """
        async with self._anew() as client:
            return await client.get(path, seconds, most_bytes)

    async def post_anew(self, path: str, body: dict[str, Any], seconds: float) -> Answer:
        """Send a JSON object over a connection of its own.

        Raises:
            NoAnswer: Within so many seconds, or at all.
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
        """Send a JSON object; if there is `on_part`, call it for each part of a good answer in place of keeping it.

        The engine's work is stopped when the time is over, or the caller is cancelled.

        Raises:
            NoAnswer: Within so many seconds, or at all.
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
                    answer = _Reading(loop.create_future(), on_part, most_bytes)
                    link = self._pool.send(request, answer)
                    try:
                        return await answer.whole
                    except _Stale:  # the engine had closed the idle connection: it has not read the question
                        continue
                    finally:
                        if not answer.is_over:  # else another question may have the connection by now
                            link.cancel()
        except TimeoutError:
            raise NoAnswer(f"nothing within {seconds:g} s") from None
        except LoragateError as error:
            why = why_unreachable(error.__cause__)
            raise NoAnswer(f"the engine is not reachable: {why}" if why else error.message) from None


class _Stale(Exception):
    """An idle connection died before it brought a byte."""


class _Reading:
    """One answer on its way."""

    def __init__(self, whole: asyncio.Future[Answer], on_part: Callable[[], None] | None, most_bytes: int) -> None:
        self.whole = whole
        self.is_over = False
        self._on_part = on_part
        self._most_bytes = most_bytes
        self._status = 0
        self._body = bytearray()

    def on_sent(self) -> None:
        """The request has been handed to a connection."""

    def on_reply(self, head: ReplyHead | None, data: bytes, is_complete: bool) -> None:
        """Keep a part, or tell of it."""
        if head is not None:
            self._status = head.status
        if data:
            self._take(data)
        self.is_over = is_complete
        if is_complete and not self.whole.done():
            self.whole.set_result(Answer(self._status, bytes(self._body)))

    def on_chunk(self, chunk: bytes) -> None:
        """Keep a chunk's content, or tell of it."""
        self._take(chunk[chunk.index(b"\r\n") + 2 : -2])

    def on_engine_lost(self, error: LoragateError, *, is_stale: bool) -> None:
        """Give up."""
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
