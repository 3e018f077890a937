"""A steady load for tests: requests at a fixed rate over kept connections, and what became of each."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.patience import PATIENCE_SECONDS, until


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One request: when it was sent and ended (monotonic seconds), and what came.

    `status` 0: the connection broke before a reply. `is_whole`: the reply came to its end as HTTP and,
    streamed, with `[DONE]`.
    """

    target: str
    sent_at: float
    first_at: float
    ended_at: float
    status: int
    version: str
    arm: str
    is_whole: bool
    is_stream: bool
    unit: str
    text: bytes = b""

    @property
    def is_good(self) -> bool:
        """Whether a caller would be content."""
        return self.status == 200 and self.is_whole and b'"error"' not in self.text


@dataclass(slots=True)
class Load:
    """Sends requests from a thread of its own while it is used as a context.

    Args:
        targets: Base URLs, used in turn.
        rate: Requests a second over all targets.
        body: Returns the body of request `number`; `stream` in it is honoured.
        headers: Sent with each.
        unit: Returns the unit of request `number`.
    """

    targets: Sequence[str]
    rate: float
    body: Callable[[int], dict[str, Any]]
    headers: dict[str, str] = field(default_factory=dict)
    unit: Callable[[int], str] = lambda number: f"user-{number % 997}"
    done: list[Done] = field(default_factory=list)
    _idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * PATIENCE_SECONDS)

    def since(self, moment: float) -> list[Done]:
        """What was sent after `moment`."""
        return [each for each in list(self.done) if each.sent_at >= moment]

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more requests are over."""
        aim = len(self.done) + count
        until(lambda: len(self.done) >= aim, f"{count} more requests are over")

    async def _run(self) -> None:
        began, number = time.monotonic(), 0
        running: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            due = int((time.monotonic() - began) * self.rate)
            while number < due:
                task = asyncio.create_task(self._one(number))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.sleep(0.003)
        if running:
            await asyncio.wait(running, timeout=PATIENCE_SECONDS)
        for pool in self._idle.values():
            for _, writer in pool:
                writer.close()

    async def _one(self, number: int) -> None:
        target = self.targets[number % len(self.targets)]
        body, unit = self.body(number), self.unit(number)
        payload = json.dumps(body).encode()
        headers = {**self.headers, "x-loragate-unit": unit}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(payload)}\r\n{lines}\r\n"
        sent_at = time.monotonic()
        first_at, status, version, arm, text, is_whole = 0.0, 0, "", "", b"", False
        is_stream = bool(body.get("stream"))
        try:
            reader, writer = await self._connection(target)
            sent_at = time.monotonic()
            writer.write(head.encode() + payload)
            raw = await reader.readuntil(b"\r\n\r\n")
            first_at = time.monotonic()
            status, found = _head(raw)
            version, arm = found.get("x-loragate-version", ""), found.get("x-loragate-arm", "")
            text = await _body(reader, found)
            is_whole = not is_stream or status != 200 or b"data: [DONE]" in text
            if found.get("connection", "").lower() == "close":
                writer.close()
            else:
                self._idle[target].append((reader, writer))
        except (OSError, EOFError, ValueError):
            pass
        self.done.append(
            Done(
                target=target,
                sent_at=sent_at,
                first_at=first_at,
                ended_at=time.monotonic(),
                status=status,
                version=version,
                arm=arm,
                is_whole=is_whole,
                is_stream=is_stream,
                unit=unit,
                text=text[-2000:],
            )
        )

    async def _connection(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        pool = self._idle.setdefault(target, [])
        while pool:
            reader, writer = pool.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        parts = urlsplit(target)
        return await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)


def _head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    text = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return text
        text += chunk[:-2]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
