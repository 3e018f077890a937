"""One HTTP call to a server that may do anything: bounded in time and bytes, and answered by a value.

What is read is bytes as they came: nothing is decompressed, redirected or followed.
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
# Nothing that comes compressed is wanted: a small reply could become a large one.
_ENDS_EVENT: Final = re.compile(rb"\n\r?\n")
_HEADERS: Final = {"accept-encoding": "identity", "content-type": "application/json"}


class CallFailed(Exception):
    """There is no reply; `reason` says why in a word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReply:
    """What came back.

    Attributes:
        status: The HTTP status.
        body: As much of it as was allowed.
        is_whole: False where it was cut at a bound of ours, or broke off.
        cut: Why it was cut: `bytes`, `time` or `broken`; empty if it is whole.
        first_seconds: Until a stream's first content; None without any.
        seconds: Until the end.
    """

    status: int
    body: bytes
    is_whole: bool = True
    cut: str = ""
    first_seconds: float | None = None
    seconds: float = 0.0


class ServerConnection:
    """One server, asked over kept-alive connections.

    Args:
        url: `http://…`, `https://…` or `unix:///path`.
        headers: Sent with each call.
        ca: The file of certificates that its own is checked by, as an engine's is; the system's if empty. None: by
            those that come with httpx.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, ca: str | None = None) -> None:
        parts = urlsplit(url)
        is_unix = parts.scheme == "unix"
        # Reading all certificates for TLS takes 50 ms: only where there is TLS.
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
        """Close the connections."""
        await self._client.aclose()

    async def call(
        self, path: str, body: bytes | None = None, *, seconds: float, most_bytes: int, keeps_part: bool = False
    ) -> ServerReply:
        """Return the reply to a POST of `body`, or to a GET without one.

        Args:
            path: Below the server's URL.
            body: JSON.
            seconds: For all of it.
            most_bytes: Of the reply's body.
            keeps_part: Return what came of a body that is too long, too late or broken off; else that is a failure.

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
            # httpx lets a few of its parts' own errors through, such as for a header that is no text.
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
    """What has come of a reply; one buffer, as a server may send it byte by byte."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.first_seconds: float | None = None
        self._looked_through = 0  # bytes of events without content

    def add(self, part: bytes, seconds: float) -> None:
        """Take the next bytes."""
        self.body += part
        if self.first_seconds is None and _ENDS_EVENT.search(self.body, max(0, len(self.body) - len(part) - 3)):
            if has_content(bytes(self.body[self._looked_through :])):
                self.first_seconds = seconds
            self._looked_through = max(self.body.rfind(b"\n\n"), self.body.rfind(b"\n\r\n"), self._looked_through)
