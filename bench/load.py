"""The load generator: a process of its own, raw asyncio protocols on uvloop, one JSON line at the end.

Four loads: `closed` (connections that send again when answered), `open` (a fixed rate, whatever the
answers do), `streams` (all events of paced streams) and `idle` (streams that wait after their first
event). Every reply must be complete and have status 200; anything else is counted by its kind.
Loops are bounded in time and in number. With `--watch PID` the CPU of that process tree is read at
both ends of the measured window, so that warm-up and ramp-down do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import uvloop

from bench.connections import Stream, Whole, request_bytes
from bench.processes import cpu_seconds, machine_seconds, rss_bytes

DRAIN_SECONDS = 10.0  # after the window, for replies and streams that are still on their way
MAX_IN_FLIGHT = 2000  # open loop; requests beyond it are not sent and count as errors


class Load:
    """What was sent, what came back, and the CPU that the watched process spent meanwhile."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.request = request_bytes(
            options.model, options.key, f"127.0.0.1:{options.port}", stream=options.load in ("streams", "idle")
        )
        self.requests = self.events = 0
        self.errors: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.measuring = False
        self.stopped = False
        self.result: dict[str, Any] = {}

    async def connect(self, make: Callable[[], asyncio.Protocol]) -> Any:
        """Return a new connection's protocol."""
        loop = asyncio.get_running_loop()
        return (await asyncio.wait_for(loop.create_connection(make, "127.0.0.1", self.options.port), 20))[1]

    async def window(self) -> None:
        """Warm up, then measure for `--seconds`."""
        await asyncio.sleep(self.options.warm_up)
        strangers = self._strangers()
        before, started = self._mark()
        self.measuring = True
        await asyncio.sleep(self.options.seconds)
        self.measuring = False
        requests, events = self.requests, self.events
        after, ended = self._mark()
        nothing = (0.0, 0.0)
        cpu = {
            pid: [now - then for now, then in zip(spent, before.get(pid, nothing), strict=True)]
            for pid, spent in after.items()
        }
        self.result = {"seconds": ended - started, "requests": requests, "events": events, "cpu": cpu}
        others = (self._strangers() - strangers) / (ended - started)
        self.result["strangers_share"] = min(max(others, 0.0), float(os.cpu_count() or 1))

    def _strangers(self) -> float:
        """Return the CPU seconds used by whatever is neither the proxy, nor the engine, nor this process."""
        known = sum(os.times()[:2])
        for pid in (self.options.watch, self.options.engine):
            if pid:
                known += sum(user + system for user, system in cpu_seconds(pid).values())
        return machine_seconds() - known

    def _mark(self) -> tuple[dict[int, tuple[float, float]], float]:
        spent = cpu_seconds(self.options.watch) if self.options.watch else {}
        self.requests = self.events = 0
        return spent, time.perf_counter()

    async def closed(self) -> None:
        """Keep `--connections` requests in flight."""

        def done(connection: Whole, error: str | None) -> None:
            if error:
                self.errors[error] += 1
            if self.measuring:
                self.requests += 1
                self.latencies.append(time.perf_counter() - connection.sent)
            if not self.stopped and error != "connection lost":
                connection.send(self.request)

        for _ in range(self.options.connections):
            (await self.connect(lambda: Whole(done))).send(self.request)
        await self.window()
        self.stopped = True

    async def open(self) -> None:
        """Send `--rate` requests a second, however slow the answers are."""
        free: deque[Whole] = deque()
        flying = 0

        def done(connection: Whole, error: str | None) -> None:
            nonlocal flying
            flying -= 1
            if error:
                self.errors[error] += 1
            if error != "connection lost":
                free.append(connection)
            if connection.counted:
                self.requests += 1
                self.latencies.append(time.perf_counter() - connection.sent)

        def send(connection: Whole) -> None:
            connection.counted = self.measuring
            connection.send(self.request)

        async def send_on_new() -> None:
            nonlocal flying
            try:
                send(await self.connect(lambda: Whole(done)))
            except (OSError, TimeoutError) as error:
                flying -= 1
                self.errors[f"connect: {type(error).__name__}"] += 1

        for _ in range(32):
            free.append(await self.connect(lambda: Whole(done)))
        window = asyncio.ensure_future(self.window())
        started, sent, tasks = time.perf_counter(), 0, set()
        while not window.done():
            while sent < (time.perf_counter() - started) * self.options.rate:
                sent += 1
                if flying >= MAX_IN_FLIGHT:
                    self.errors["not sent: too many in flight"] += 1
                    continue
                flying += 1
                while free and free[-1].transport.is_closing():
                    free.pop()
                if free:
                    send(free.pop())
                else:
                    task = asyncio.ensure_future(send_on_new())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            await asyncio.sleep(0.001)
        await window
        await self._drain(lambda: flying == 0)
        if flying:
            self.errors["unanswered"] += flying

    async def streams(self) -> None:
        """Read `--connections` paced streams to their ends; the window lies inside them."""
        self.ended = self.broken = 0
        for _ in range(self.options.connections):
            await self.connect(lambda: Stream(self, self.request))
        await self.window()
        await self._drain(lambda: self.ended == self.options.connections)
        self.stopped = True
        unfinished = self.options.connections - self.ended
        self.result["unfinished"] = unfinished
        if self.broken:
            self.errors["stream not complete"] += self.broken

    def stream_ended(self, stream: Stream, complete: bool) -> None:
        """Count a stream that is over; called once for each."""
        if not self.stopped:
            self.ended += 1
            self.broken += not complete

    async def idle(self) -> None:
        """Open `--connections` streams and read the memory once each has had an event."""
        self.ended = self.broken = 0
        before = rss_bytes(self.options.watch)
        opened: list[Stream] = []
        deadline = time.monotonic() + self.options.seconds
        while len(opened) < self.options.connections and time.monotonic() < deadline:
            opened.append(await self.connect(lambda: Stream(self, self.request)))
            if len(opened) % 20 == 0:
                await asyncio.sleep(0.02)
        while any(not one.events for one in opened) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.0)
        waiting = sum(1 for one in opened if one.events and not one.ended)
        after = rss_bytes(self.options.watch)
        self.stopped = True
        self.result = {"streams": waiting, "rss_before": before, "rss": after}
        if waiting < self.options.connections:
            self.errors["stream without first event"] += self.options.connections - waiting

    async def _drain(self, is_over: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while not is_over() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def report(self) -> dict[str, Any]:
        """Return the counts, with the latencies' percentiles in seconds."""
        self.latencies.sort()
        points = {
            f"p{point}": self.latencies[len(self.latencies) * point // 100] for point in (50, 99) if self.latencies
        }
        return {**self.result, **points, "errors": dict(self.errors)}


def main() -> None:
    """Run one load and print its report."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__.splitlines()[0])
    parser.add_argument("load", choices=["closed", "open", "streams", "idle"])
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--model", default="base", help="(default: %(default)s)")
    parser.add_argument("--key", default="none", help="API key (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second, open (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured window (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before it (default: %(default)s)")
    parser.add_argument("--watch", type=int, default=0, help="root of the process tree whose CPU and memory are read")
    parser.add_argument("--engine", type=int, default=0, help="pid of the fake engine, to know who else uses the CPUs")
    options = parser.parse_args()
    gc.freeze()
    gc.disable()  # a collection would look like latency of the proxy
    load = Load(options)
    uvloop.run(getattr(load, options.load)())
    sys.stdout.write(json.dumps(load.report()) + "\n")


if __name__ == "__main__":
    main()
