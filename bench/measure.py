"""Measure one peer once: start it, put the four loads on it, stop it.

The peer has the last CPU to itself, the fake engine and the load generator share the first, unless
`pin` is off; so the reading does not depend on where the kernel happens to put them.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import connections
from bench.peers import Launch, Peer, Place
from bench.processes import Running, answers, command_of, free_port, listens, wait_quiet

ROOT = Path(__file__).parent.parent
CADENCE_MS = 5
STREAMS = 64
CONNECTIONS = 32
RATE = 300.0
WARM_UP = 1.0
IDLE_SECONDS = 90.0  # to open all idle streams; LiteLLM needs 20 of them
QUIET = 0.15  # CPUs that others may use during a window; above it the latencies are theirs
BUSY = 0.9  # a proxy that used less of its CPU than this was not the limit of the requests/s
CANDIDATE = "support@3f2a9c81d0e4"  # served by the engine too, for a split


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long and how much."""

    seconds: float = 4.0
    idle: int = 1000
    pin: bool = True
    engine_port: int = 0
    patience: float = 0.0
    """Seconds to wait for other programs to leave the CPUs, before each peer."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """What one run found for one peer; a value that could not be measured is absent."""

    name: str
    values: dict[str, float] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    """Errors and limits, for the notes under the table."""
    processes: list[str] = field(default_factory=list)


def cpus(options: Options, which: str) -> set[int] | None:
    """Return the CPUs for `which`, `proxy` or `load`; None leaves the choice to the kernel."""
    available = sorted(os.sched_getaffinity(0))
    if not options.pin or len(available) < 2:
        return None
    return {available[-1]} if which == "proxy" else {available[0]}


def pinned(options: Options) -> list[str]:
    """Return what to put before a command to keep it off the proxy's CPU."""
    chosen = cpus(options, "load")
    return ["taskset", "-c", ",".join(map(str, chosen))] if chosen else []


class Engine:
    """The fake engine as a process, and its knobs."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.port = options.engine_port or free_port()
        command = [
            sys.executable,
            "-m",
            "tests.fakes.engine",
            "--port",
            str(self.port),
            "--adapter",
            f"{CANDIDATE}=/none",
        ]
        self.running = Running(
            command, folder / "engine.log", cpus=cpus(options, "load"), env={"PYTHONPATH": str(ROOT)}
        )
        self.running.wait_ready(lambda: answers(self.port), 20)

    def turn(self, **knobs: Any) -> None:
        """Answer every request like this from now on."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/fake/knobs", body=json.dumps(knobs))
        assert connection.getresponse().status == 200, knobs
        connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is under load: where it listens, what it wants to hear, and the root of its process tree."""

    port: int
    launch: Launch
    engine_pid: int
    pid: int = 0


def load(kind: str, target: Target, options: Options, **arguments: Any) -> dict[str, Any]:
    """Run `bench.load` and return its report."""
    given = {"port": target.port, "model": target.launch.model, "key": target.launch.key, "watch": target.pid}
    given |= {"engine": target.engine_pid, **arguments}
    command = [sys.executable, "-m", "bench.load", kind]
    for name, value in given.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run([*pinned(options), *command], capture_output=True, text=True, timeout=180, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"bench.load {kind} failed: {done.stderr.strip().splitlines()[-1:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def started(peer: Peer, engine: Engine, options: Options) -> Iterator[Target]:
    """Have `peer` run, configured and ready.

    Raises:
        MissingError, NotReadyError: It cannot be started here.
    """
    with tempfile.TemporaryDirectory(prefix="loragate-bench-") as name:
        place = Place(port=free_port(), engine_port=engine.port, spare_port=free_port(), folder=Path(name))
        engine.turn()
        launch = peer.launch(place)
        running = Running(launch.command, Path(name) / "peer.log", env=launch.env, cpus=cpus(options, "proxy"))
        try:
            if peer.configure is not None:
                running.wait_ready(lambda: listens(place.port), peer.ready_seconds)
                peer.configure(place, launch)
            running.wait_ready(lambda: is_ready(place.port, launch), peer.ready_seconds)
            wait_quiet(options.patience, QUIET)
            yield Target(port=place.port, launch=launch, engine_pid=engine.running.pid, pid=running.pid)
        finally:
            running.stop()


def measure(peer: Peer, engine: Engine, options: Options) -> Reading:
    """Return what `peer` costs; it is started twice, so that no peak of another load is in its memory.

    Raises:
        MissingError, NotReadyError: It cannot be started here.
    """
    reading = Reading(name=peer.name)
    with started(peer, engine, options) as target:
        _requests(target, engine, options, reading)
        _latency(target, engine, options, reading)
        _events(target, engine, options, reading)
    with started(peer, engine, options) as target:
        _memory(target, engine, options, reading)
    return reading


def measure_direct(engine: Engine, options: Options) -> Reading:
    """Return what the fake engine does with no proxy before it: the zero of the latencies."""
    reading = Reading(name="direct")
    engine.turn()
    wait_quiet(options.patience, QUIET)
    target = Target(port=engine.port, launch=Launch(command=[]), engine_pid=engine.running.pid)
    _requests(target, engine, options, reading)
    _latency(target, engine, options, reading)
    return reading


def is_ready(port: int, launch: Launch) -> bool:
    """Return whether a chat request is answered with 200: the same test for every peer."""
    raw = connections.request_bytes(launch.model, launch.key, "127.0.0.1", stream=False)
    headers = {"authorization": f"Bearer {launch.key}", "content-type": "application/json"}
    return answers(port, "/v1/chat/completions", "POST", raw.partition(b"\r\n\r\n")[2], **headers)


def _memory(target: Target, engine: Engine, options: Options, reading: Reading) -> None:
    load("closed", target, options, connections=8, seconds=0.5, warm_up=0.5)
    engine.turn(events=64, cadence_ms=CADENCE_MS, hang_after=2)
    report = load("idle", target, options, connections=options.idle, seconds=IDLE_SECONDS)
    engine.turn()
    _note_errors(f"{options.idle} idle streams", report, reading)
    if report["streams"]:
        reading.values["rss_mb"] = report["rss"] / 1e6
        reading.values["stream_kb"] = (report["rss"] - report["rss_before"]) / 1e3 / report["streams"]


def _requests(target: Target, engine: Engine, options: Options, reading: Reading) -> None:
    report = load("closed", target, options, connections=CONNECTIONS, seconds=options.seconds, warm_up=WARM_UP)
    _note_errors("closed loop", report, reading)
    reading.values["rps"] = report["requests"] / report["seconds"]
    if not report["cpu"] or not report["requests"]:
        return
    totals = _totals(report["cpu"])
    spent = sum(totals.values())
    reading.values["request_us"] = spent * 1e6 / report["requests"]
    reading.values["request_system_share"] = sum(system for _, system in report["cpu"].values()) / spent
    reading.values["busy_share"] = spent / report["seconds"]
    busiest = max(totals, key=lambda pid: totals[pid])
    reading.values["worker_request_us"] = totals[busiest] * 1e6 / report["requests"]
    reading.processes = [f"{command_of(int(pid))[:80]}: {value / spent:.0%}" for pid, value in totals.items()]
    if spent / report["seconds"] < BUSY:
        reading.flags.append("requests/s limited by the load generator")


def _totals(cpu: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {pid: user + system for pid, (user, system) in cpu.items()}


def _events(target: Target, engine: Engine, options: Options, reading: Reading) -> None:
    events = int((WARM_UP + options.seconds + 1.0) * 1000 / CADENCE_MS)
    engine.turn(events=events, cadence_ms=CADENCE_MS)
    report = load("streams", target, options, connections=STREAMS, seconds=options.seconds, warm_up=WARM_UP)
    engine.turn()
    _note_errors("streams", report, reading)
    if not report["events"]:
        return
    totals = _totals(report["cpu"])
    reading.values["event_us"] = sum(totals.values()) * 1e6 / report["events"]
    reading.values["worker_event_us"] = max(totals.values()) * 1e6 / report["events"]
    reading.values["cadence_share"] = report["events"] / (STREAMS * report["seconds"] * 1000 / CADENCE_MS)
    if reading.values["cadence_share"] < 0.95:
        reading.flags.append(f"kept up with {reading.values['cadence_share']:.0%} of the events")


def _latency(target: Target, engine: Engine, options: Options, reading: Reading) -> None:
    if reading.values["rps"] < RATE:
        reading.flags.append(f"no latency: it cannot take {RATE:.0f} requests/s")
        return
    report = load("open", target, options, rate=RATE, seconds=options.seconds, warm_up=WARM_UP)
    _note_errors(f"{RATE:.0f} requests/s", report, reading)
    for point in ("p50", "p99"):
        if point in report:
            reading.values[f"{point}_ms"] = report[point] * 1e3


def _note_errors(where: str, report: Mapping[str, Any], reading: Reading) -> None:
    for kind, count in report["errors"].items():
        reading.flags.append(f"ERRORS, {where}: {count:,} x {kind}")
    strangers = report.get("strangers_share", 0.0)
    reading.values["strangers_share"] = max(strangers, reading.values.get("strangers_share", 0.0))
