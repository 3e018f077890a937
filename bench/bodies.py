"""What pathological and large bodies cost the other streams of a worker: `python -m bench.bodies [SIZES_IN_MIB …]`.

For each body a worker serves in a process of its own, before an engine that answers at once. A clock ticks on the
worker's event loop. Told is the longest time that the clock had to wait (by the worker's own CPU, and by the wall,
in which other processes take part), all the CPU that the body took, the peak of the worker's memory above that
before the body, in sizes of the body, and what the client got. `--only WORDS` takes the bodies of such a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import uvloop

from gateway.decide.route import Base, EngineState
from gateway.receive.protocol import ClientConnection
from gateway.serve.upstream import EnginePools
from gateway.store.snapshot import Snapshot, encode
from tests.support.one_worker import OneWorker

MIB: Final = 1024 * 1024
TICK_SECONDS: Final = 0.001
TARGET_SECONDS: Final = 0.05
TARGET_SIZES: Final = 3.0

_START: Final = b'{"model":"base","messages":[{"role":"user","content":"x"}],'


def _filled(unit: bytes, head: bytes = b"", tail: bytes = b"") -> Callable[[int], bytes]:
    """Return what makes a body of so many bytes out of one unit, over and over."""
    return lambda size: head + unit * max((size - len(head) - len(tail)) // len(unit), 1) + tail


def _member(unit: bytes, before: bytes = b"", after: bytes = b"", more: bytes = b"") -> Callable[[int], bytes]:
    return _filled(unit, _START + more + b'"a":' + before, after + b"}")


def _numbered(size: int) -> bytes:
    return _START + b"".join(b'"k%07d":1,' % number for number in range((size - 80) // 13)) + b'"z":1}'


_EMOJI: Final = "\U0001f600".encode()
CORPUS: Final[dict[str, Callable[[int], bytes]]] = {
    # Such as are sent
    "one long text": _member(b"x", b'"', b'"'),
    "an image in base64": _filled(
        b"QUJD",
        b'{"model":"base","messages":[{"role":"user","content":[{"type":"image_url",'
        b'"image_url":{"url":"data:image/png;base64,',
        b'"}}]}]}',
    ),
    "many messages": _filled(
        b'{"role":"user","content":"' + b"Tell me more, please. " * 20 + b'"},',
        b'{"model":"base","messages":[',
        b'{"role":"user","content":"x"}]}',
    ),
    "many short messages": _filled(
        b'{"role":"user","content":"hi, how are you today?"},',
        b'{"model":"base","messages":[',
        b'{"role":"user","content":"x"}]}',
    ),
    "token ids as a prompt": _filled(b"128000,", b'{"model":"base","prompt":[', b"1]}"),
    "texts to embed": _filled(
        b'"' + b"A short sentence to embed. " * 12 + b'",', b'{"model":"base","input":[', b'"x"]}'
    ),
    "many small pictures": _filled(
        b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' + b"QUJD" * 20 + b'"}},',
        b'{"model":"base","messages":[{"role":"user","content":[',
        b'{"type":"text","text":"x"}]}]}',
    ),
    "lists of token ids": _filled(b"[1," + b"128000," * 30 + b"2],", b'{"model":"base","prompt":[', b"[1]]}"),
    "code with escapes": _member(b'if (a == \\"b\\") {\\n\\treturn c;\\n}\\n', b'"', b'"'),
    "Chinese": _member("\u4f60\u597d\u4e16\u754c".encode(), b'"', b'"'),
    "Chinese, escaped": _member(b"\\u4f60\\u597d", b'"', b'"'),
    "emoji, escaped": _member(b"\\ud83d\\ude00", b'"', b'"'),
    # Structure
    "[] repeated": _member(b"[],", b"[", b"0]"),
    "[] repeated, model escaped": _filled(b"[],", b'{"\\u006dodel":"base","a":[', b"0]}"),
    "{} repeated": _member(b"{},", b"[", b"0]"),
    "objects of one member": _member(b'{"a":1},', b"[", b"0]"),
    "nested 150 deep, again and again": _member(b"[" * 150 + b"]" * 150 + b",", b"[", b"0]"),
    "nested without end": _member(b"["),
    "closed without end": _member(b"]", b"[", b""),
    "empty strings": _member(b'"",', b"[", b"0]"),
    "strings of one letter": _member(b'"a",', b"[", b"0]"),
    "short numbers": _member(b"1,", b"[", b"1]"),
    "literals": _member(b"null,", b"[", b"true]"),
    "one key, over and over": _filled(b'"":1,', _START, b'"z":1}'),
    "many keys": _numbered,
    "many keys, model escaped": lambda size: b'{"\\u006dodel":"base",' + _numbered(size)[1:],
    "many keys within": _member(b'"":1,', b"{", b'"z":1}'),
    "model, over and over": _filled(b'"model":"base",', b"{", b'"z":1}'),
    "stream_options, over and over": _filled(b'"stream_options":{},', _START + b'"stream":true,', b'"z":1}'),
    "a long stream_options": _filled(b'"a":1,', _START + b'"stream":true,"stream_options":{', b'"z":1}}'),
    '"model" in a text, over and over': _member(b'\\"model\\":', b'"', b'"'),
    "[] repeated, beside a picture": _filled(b"[],", b'{"model":"base","messages":[{"image_url":"data:,"},', b"0]}"),
    "numbers beside a picture": _filled(b"1,", b'{"model":"base","messages":[{"image_url":"data:,"},', b"0]}"),
    "[] repeated, as a prompt": _filled(b"[],", b'{"model":"base","prompt":[', b"0]}"),
    # Strings
    "quotes, escaped": _member(b'\\"', b'"', b'"'),
    "backslashes": _member(b"\\\\", b'"', b'"'),
    "an odd backslash at the end": _member(b"\\\\", b'"', b'\\"'),
    "a text that does not end, of escaped quotes": _member(b'\\"', b"[" + b"[]," * 300 + b'"'),
    "\\u00xx": _member(b"\\u006d", b'"', b'"'),
    "halves of surrogate pairs": _member(b"\\ud800", b'"', b'"'),
    "a long key": _filled(b"k", _START + b'"', b'":1}'),
    "a long escaped key": _filled(b"\\u006d", _START + b'"', b'":1}'),
    "a long model": _filled(b"m", b'{"model":"', b'"}'),
    "one emoji at the end": _filled(b"x", _START + b'"a":"', _EMOJI + b'"}'),
    "not UTF-8 at the end": _filled(b"x", _START + b'"a":"', b'\xff"}'),
    # Beside the point
    "white space before": _filled(b" ", b"", _START + b'"z":1}'),
    "white space behind": _filled(b" \n", _START + b'"z":1}'),
    "white space within": _filled(b"\t", _START, b'"z":1}'),
    "one long number": _member(b"9", b""),
    "a byte order mark": lambda size: b"\xef\xbb\xbf" + _member(b"x", b'"', b'"')(size - 3),
    "NUL": _filled(b"\0", _START + b'"a":"', b'"}'),
    "nothing but commas": _member(b",", b"[", b"]"),
}


def _worker(engine: str, orders: Connection) -> None:
    """Serve on a port that is told first; then tell of each time between two orders."""
    table = encode(
        Snapshot(
            version=1,
            base=Base(name="base"),
            keys=None,
            routes=(),
            versions=(),
            engines=(EngineState(url=engine, is_up=True),),
        )
    )
    parts = OneWorker(table)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        deps = replace(parts.deps, engines=EnginePools(5.0, time.monotonic))
        state = SimpleNamespace(connections=set())
        server = await loop.create_server(lambda: ClientConnection(None, state, {"deps": deps}), "127.0.0.1", 0)
        orders.send(server.sockets[0].getsockname()[1])
        clock = _Clock(loop)
        done = loop.create_future()

        def on_order() -> None:
            if orders.recv() == "stop":
                done.set_result(None)
            else:
                orders.send(clock.told())

        loop.add_reader(orders.fileno(), on_order)
        await done

    uvloop.run(serve())


class _Clock:
    """Ticks on an event loop, and knows how long it was kept from it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begin()
        self._tick()

    def _begin(self) -> None:
        self._longest = self._longest_cpu = 0.0
        self._at, self._cpu_at = time.perf_counter(), time.thread_time()
        self._began = self._cpu_at
        self._idle = _peak(is_new=True)

    def _tick(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        self._longest = max(self._longest, now - self._at - TICK_SECONDS)
        self._longest_cpu = max(self._longest_cpu, cpu - self._cpu_at)
        self._at, self._cpu_at = time.perf_counter(), time.thread_time()
        self._loop.call_later(TICK_SECONDS, self._tick)

    def told(self) -> dict[str, float]:
        """Return what there was since the last time."""
        found = {
            "wall": self._longest,
            "turn": self._longest_cpu,
            "cpu": time.thread_time() - self._began,
            "memory": _peak() - self._idle,
        }
        self._begin()
        return found


def _peak(*, is_new: bool = False) -> int:
    """Return the most memory that was resident since the process began, or since the kernel last forgot the peak."""
    if is_new:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _engine(listener: socket.socket) -> None:
    """Take any request and answer it, one connection after the other or at once."""

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            while head := _head(client):
                left = int((re.search(rb"content-length: (\d+)", head) or [b"", b"0"])[1]) - len(
                    head.partition(b"\r\n\r\n")[2]
                )
                while left > 0:
                    left -= len(client.recv(min(left, MIB)))
                client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(client,), daemon=True).start()


def _head(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        if not part:
            return b""
        data += part
    return data


def _ask(port: int, body: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=300) as client:
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        answer = b""
        with contextlib.suppress(OSError):
            client.sendall(head + body)
        with contextlib.suppress(OSError):
            while part := client.recv(65536):
                answer += part
    message = re.search(rb'"message":"([^"]*)', answer)
    return answer[9:12].decode() + (f" {message[1].decode()[:60]}" if message else "")


def measured(sizes: list[int], only: str = "") -> Iterator[dict[str, Any]]:
    """Yield what each body of the corpus cost, at each size in MiB: a worker of its own for each."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_engine, args=(listener,), daemon=True).start()
    try:
        for size in sizes:
            for name in CORPUS:
                if only in name:
                    yield _one(name, size, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        listener.close()


def _one(name: str, size: int, engine: str) -> dict[str, Any]:
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=_worker, args=(engine, theirs))
    worker.start()
    try:
        port = ours.recv()
        for _ in range(3):  # all modules are loaded, all buffers there
            _ask(port, _member(b"x", b'"', b'"')(64 * 1024))
        body = CORPUS[name](size * MIB - 64)
        ours.send("tell")
        ours.recv()
        answer = _ask(port, body)
        ours.send("tell")
        return {"body": name, "mib": size, "answer": answer, "bytes": len(body), **ours.recv()}
    finally:
        ours.send("stop")
        worker.join(10)


def main(arguments: list[str]) -> None:
    """Print a line for each body and size, and in the end the worst of all."""
    as_json = "--json" in arguments
    sizes = [int(each) for each in arguments if each.isdecimal()] or [1, 8, 32]
    rows = []
    only = arguments[arguments.index("--only") + 1] if "--only" in arguments else ""
    for row in measured(sizes, only):
        rows.append(row)
        if as_json:
            print(json.dumps(row), flush=True)
            continue
        print(
            f"{row['mib']:3d} MiB  turn {1e3 * row['turn']:6.1f} ms  wall {1e3 * row['wall']:6.1f} ms  cpu "
            f"{1e3 * row['cpu']:7.1f} ms  memory {row['memory'] / row['bytes']:5.2f} x  {row['body']}: {row['answer']}",
            flush=True,
        )
    slow = [row for row in rows if row["turn"] > TARGET_SECONDS]
    # Of a small body the worker's own buffers are more than it takes.
    fat = [row for row in rows if row["memory"] > TARGET_SIZES * max(row["bytes"], 4 * MIB)]
    print(
        f"{len(rows)} bodies: the longest turn {1e3 * max(row['turn'] for row in rows):.1f} ms, {len(slow)} above "
        f"{1e3 * TARGET_SECONDS:g} ms; {len(fat)} above {TARGET_SIZES:g} times their size"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
