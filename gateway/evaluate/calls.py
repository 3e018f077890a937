"""One HTTP call to a server that is not trusted: bounded in time and bytes, with a value as its result.

The body is returned as the bytes that came: nothing is decompressed, and redirects are not followed.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.engine_address import tls_context
from gateway.serve.content import has_content

CONNECT_SECONDS: Final = 5.0
_ENDS_EVENT: Final = re.compile(rb"\n\r?\n")
# `identity`: a small compressed reply could decompress to more than the bound.
_HEADERS: Final = {"accept-encoding": "identity", "content-type": "application/json"}


class CallFailed(Exception):
    """There is no usable reply; `reason` says why in one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReply:
    """A reply, or the part of it that was received.

    Attributes:
        status: The HTTP status.
        body: The body, cut at the bound on bytes.
        is_whole: False if the body was cut at one of our bounds, or the connection broke.
        cut: Why the body is not whole: `bytes`, `time` or `broken`; empty if it is whole.
        first_seconds: Seconds until a stream's first content; None if there was none.
        seconds: Seconds until the end.
    """

    status: int
    body: bytes
    is_whole: bool = True
    cut: str = ""
    first_seconds: float | None = None
    seconds: float = 0.0


class ServerConnection:
    """A client for one server; its connections are kept alive between calls.

    Args:
        url: `http://…`, `https://…` or `unix:///path`.
        headers: Sent with each call.
        ca: The file of certificates that verify the server's own, as for engines; empty for the system's. None: those
            that come with httpx.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        is_unix = parts.scheme == "unix"
        # Reading the certificates takes 50 ms, so only do so for TLS.
        verify = (True if ca is None else tls_context(ca)) if parts.scheme == "https" else False
        self.url = url
        self._client = httpx.AsyncClient(
            base_url="http://engine" if is_unix else url,
            transport=httpx.AsyncHTTPTransport(uds=parts.path if is_unix else None, verify=verify),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            trust_env=False,
            follow_redirects=False,
            headers={**_HEADERS, **(headers or {})},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def call(
        self, path: str, body: bytes | None = None, *, seconds: float, most_bytes: int, keeps_part: bool = False
    ) -> ServerReply:
        """Send a POST with `body`, or a GET without one, and return the reply.

        Args:
            path: Below the server's URL.
            body: JSON.
            seconds: The bound on the whole call.
            most_bytes: The bound on the reply's body.
            keeps_part: Return the received part of a body that is too long, too late or broken off; otherwise these
                raise.

        Raises:
            CallFailed: `unreachable`, `broken`, `late` or `too_large`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        reading = _Reading()
        cut = ""
        try:
            async with asyncio.timeout(seconds):
                async with self._client.stream("GET" if body is None else "POST", path, content=body) as reply:
                    reading.status = reply.status_code
                    async for part in reply.aiter_raw():
                        reading.add(part, loop.time() - began)
                        if len(reading.body) > most_bytes:
                            cut = "bytes"
                            break
        except TimeoutError:
            cut = "time"
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise CallFailed("unreachable") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError):
            # httpx does not wrap every error of the libraries below it, such as that for an undecodable header.
            cut = "broken"
        if cut and not (keeps_part and reading.body):
            raise CallFailed({"bytes": "too_large", "time": "late"}.get(cut, "broken"))
        return ServerReply(
            status=reading.status,
            body=bytes(reading.body[:most_bytes]),
            is_whole=not cut,
            cut=cut,
            first_seconds=reading.first_seconds,
            seconds=loop.time() - began,
        )


class _Reading:
    """The received part of a reply. It is one buffer because a server may send its body byte by byte."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.first_seconds: float | None = None
        self._searched = 0  # bytes at the beginning that are events without content

    def add(self, part: bytes, seconds: float) -> None:
        self.body += part
        if self.first_seconds is None and _ENDS_EVENT.search(self.body, max(0, len(self.body) - len(part) - 3)):
            if has_content(bytes(self.body[self._searched :])):
                self.first_seconds = seconds
            self._searched = max(self.body.rfind(b"\n\n"), self.body.rfind(b"\n\r\n"), self._searched)
