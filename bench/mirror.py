"""What copying requests costs the data plane: python -m bench.mirror [--quick].

Two measurements, each with mirroring at 0 % and at 10 % by turns, in one run, on one worker:

* in this process: protocol, exchange and queue without sockets, CPU microseconds a request. It shows what is
  added; a ratio would flatter nobody, since the system calls, which are most of a request, are missing;
* a worker process in front of the fake engine, under load: its CPU time over the requests it has served. Its
  ratio is what is promised.

And what remembering each request for feedback costs (`gateway/receive/recent_requests.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.measure import CANDIDATE, Engine, Options, cpus
from gateway.decide.assign import Arm
from gateway.decide.authenticate import ANYONE
from gateway.decide.exposure import Exposure, RolloutTag
from gateway.decide.route import Base, EngineState
from gateway.mirror.bounds import Bounds
from gateway.mirror.captured import CapturedRequest
from gateway.pipeline import Placement
from gateway.receive.limits import Limits
from gateway.receive.recent_requests import RecentRequests
from gateway.records.routes import MirrorPolicy, RouteRecord
from gateway.records.state import Desired
from gateway.store.snapshot import encode, of_state
from gateway.workers.channel import Configure
from gateway.workers.pool import WorkerPool
from tests.support.one_worker import OneWorker, Script, events, request_of
from tests.support.worker_pools import VersionSupplier

LIMIT = 1.10
ALIAS = "support"


def table_of(share: int, engine: str) -> bytes:
    """Return a route table whose alias copies so many basis points of its requests."""
    route = RouteRecord(alias=ALIAS, control=CANDIDATE, salt="bench", mirror=MirrorPolicy(share=share))
    view = EngineState(url=engine, versions=frozenset([CANDIDATE]))
    made = of_state(Desired(routes=(route,)), version=1, base=Base(name="base"), engines=(view,), with_keys=False)
    return encode(msgspec.structs.replace(made, versions=(CANDIDATE,)))


CHAT = json.dumps(
    {
        "model": ALIAS,
        "messages": [
            {"role": "system", "content": "Be brief. " * 20},
            {"role": "user", "content": "How do I reset my password? " * 8},
        ],
    }
).encode()
WHOLE = Script(
    json.dumps(
        {
            "id": "c",
            "choices": [{"index": 0, "message": {"content": "Click it. " * 60}}],
            "usage": {"prompt_tokens": 80, "completion_tokens": 120},
        }
    ).encode()
)
DELTA = b'{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word%d"}}]}'
STREAM = Script(*events(*(DELTA % number for number in range(60))), b"data: [DONE]\n\n", is_stream=True)


def in_process(name: str, script: Script, body: bytes, blocks: int, number: int) -> None:
    """Print CPU microseconds a request without sockets, at 0 % and at 10 %, block by block in turns."""
    ends = {}
    for share in (0, 1000):
        worker = OneWorker(table_of(share, "http://engine"), Bounds())
        worker.engines.is_recording = False
        worker.engines.script = script
        ends[share] = (worker, *worker.connect())
    request = request_of(body)
    gc.collect()
    gc.freeze()  # as a worker does
    found: dict[int, list[float]] = {0: [], 1000: []}
    for block in range(blocks):
        for share in (0, 1000) if block % 2 else (1000, 0):
            worker, client, wire = ends[share]
            began = time.process_time()
            for _ in range(number):
                client.data_received(request)
                wire.written.clear()
            worker.flush()
            discard(worker.taken)
            found[share].append((time.process_time() - began) / number * 1e6)
    off, on = (statistics.median(found[share]) for share in (0, 1000))
    sys.stdout.write(f"{name:34} 0 %: {off:7.1f} us   10 %: {on:7.1f} us   {on - off:+.1f} us a request\n")
    sys.stdout.flush()


def discard(copies: list[CapturedRequest]) -> None:
    """Encode copies as the channel to the node does, and forget them."""
    if copies:
        msgspec.msgpack.encode(copies)
        copies.clear()


def remembering(rounds: int) -> None:
    """Print what noting a request in the ring for feedback costs, keeping and freeing its values included."""
    found: dict[int, list[float]] = {0: [], 20_000: []}
    rings = {size: RecentRequests(size) for size in found}
    tag = RolloutTag(id="r", stage=1)
    for number in range(rounds):
        for size in (0, 20_000) if number % 2 else (20_000, 0):
            note = rings[size].note
            began = time.process_time()
            for at in range(30_000):
                exposure = Exposure(tag, ALIAS, Arm.CONTROL, f"unit-{at}")
                placed = Placement(ALIAS, CANDIDATE, Arm.CONTROL, "split", "http://engine", exposure)
                note((b"req-0123456789abcdef-%x" % at, placed, ANYONE))
            found[size].append((time.process_time() - began) / 30_000 * 1e9)
    none, full = (statistics.median(found[size]) for size in (0, 20_000))
    sys.stdout.write(f"{'remembering the last 20,000':34} {full - none:.0f} ns a request (limit 500)\n")


def cpu_nanoseconds(pid: int) -> int:
    """Return the CPU time that a process of one thread has had, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


async def _load(port: int, seconds: float, kind: str, options: Options) -> asyncio.subprocess.Process:
    command = [
        sys.executable,
        "-m",
        "bench.load",
        kind,
        "--port",
        str(port),
        "--model",
        ALIAS,
        "--seconds",
        str(seconds),
        "--warm-up",
        "0.1",
        "--connections",
        "16",
    ]
    pinned = cpus(options, "load")
    if pinned:
        command = ["taskset", "-c", ",".join(map(str, pinned)), *command]
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def _answered(pool: WorkerPool) -> int:
    return sum(sum(cell.statuses.values()) for cell in await pool.collect())


async def worker_process(slices: int) -> float:
    """Return the ratio of a real worker's CPU a request, mirroring at 10 % to 0 %.

    The load goes on while the route table changes, three times a second: so whatever else the machine does
    bears on both alike.
    """
    options = Options()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(options, Path(folder))
        url = f"http://127.0.0.1:{engine.port}"
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        listener.setblocking(False)

        def configure(newest: bytes) -> Configure:
            return Configure(
                limits=Limits(),
                connect_seconds=5.0,
                drain_seconds=1.0,
                certificate=None,
                private_key=None,
                table=newest or table_of(0, url),
            )

        pool = WorkerPool(listener, 1)
        pool.configure, pool.supplier = configure, VersionSupplier()
        task = asyncio.create_task(pool.run())
        try:
            while pool.ready < 1:
                await asyncio.sleep(0.05)
            (pid,) = pool.pids()
            load = await _load(listener.getsockname()[1], slices * 0.5 + 1, "closed", options)
            await asyncio.sleep(0.8)
            found: dict[int, list[float]] = {0: [], 1000: []}
            for number in range(slices):
                for share in (0, 1000) if number % 2 else (1000, 0):
                    await pool.publish(table_of(share, url))
                    requests, spent = await _answered(pool), cpu_nanoseconds(pid)
                    await asyncio.sleep(0.2)
                    spent, requests = cpu_nanoseconds(pid) - spent, await _answered(pool) - requests
                    if requests > 20:
                        found[share].append(spent / requests / 1e3)
            if load.returncode is None:
                load.terminate()
            await load.wait()
            copies = sum(pool.mirror.sampled.get(ALIAS, {}).values())
            off, on = (statistics.median(found[share]) for share in (0, 1000))
            sys.stdout.write(
                f"{'worker process, whole replies':34} 0 %: {off:7.1f} us   10 %: {on:7.1f} us   ratio {on / off:.3f} "
                f"(limit {LIMIT}); {copies:,} copies, lost: {dict(pool.mirror.dropped) or 'none'}\n"
            )
            return on / off
        finally:
            await pool.stop(1.0)
            await task
            listener.close()
            engine.running.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and end with 1 if the worker's ratio is over its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.mirror", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    quick = parser.parse_args(arguments).quick
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    stream = CHAT.replace(b'{"model"', b'{"stream": true, "stream_options": {"include_usage": true}, "model"', 1)
    blocks = 50 if quick else 300
    in_process("in process, whole replies", WHOLE, CHAT, blocks, 100)
    in_process("in process, streams of 61 events", STREAM, stream, blocks, 30)
    ratio = loop.run_until_complete(worker_process(20 if quick else 100))
    remembering(10 if quick else 60)
    sys.exit(int(ratio > LIMIT))


if __name__ == "__main__":
    main()
