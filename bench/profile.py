"""`python -m bench.profile`: where Loragate's worker spends its CPU under load, by function and by library.

py-spy samples the busiest process of the tree from outside (it needs ptrace: root, or the same user
where the kernel allows it). The kernel's share comes from /proc, without py-spy attached; what py-spy
shows inside a native function of uvloop is mostly the system call below it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import (
    CADENCE_MS,
    CONNECTIONS,
    STREAMS,
    WARM_UP,
    Engine,
    Options,
    Target,
    load,
    pinned,
    started,
)
from bench.peers import MissingError, loragate
from bench.peers.peer import venv_python
from bench.processes import NotReadyError

_FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)$")
_RATE = 250  # samples a second; more slows the worker visibly
_START_SECONDS = 2.0  # py-spy reads the symbols before it samples


@dataclass(frozen=True, slots=True)
class Frame:
    """One function on the stack and the library that it belongs to."""

    function: str
    library: str


def frame_of(text: str) -> Frame:
    """Return the frame that py-spy wrote as `function (path/file.py:12)`."""
    found = _FRAME.match(text)
    if found is None:
        return Frame(text, "native")
    path = found["file"]
    name = path.rpartition("/")[2]
    if path.startswith(("gateway/", "adapters/", "evaluators/")):
        library = "loragate " + path
    elif path.startswith("<") or path.endswith((".c", ".h")) or name.startswith(("python", "libpython", "_")):
        library = "python"
    else:
        library = path.partition("/")[0] if "/" in path else name
    return Frame(found["function"], library.partition(".cpython")[0])


def shares(folded: str) -> tuple[Counter[str], Counter[str], Counter[str], int]:
    """Return samples by function alone, by function with what it calls, and by library, and their sum."""
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    libraries: Counter[str] = Counter()
    total = 0
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame_of(part) for part in stack.split(";") if not part.startswith(("process ", "thread "))]
        if not frames or not count.isdigit():
            continue
        names = [f"{frame.function}  [{frame.library}]" for frame in frames]
        total += int(count)
        own[names[-1]] += int(count)
        libraries[frames[-1].library] += int(count)
        for name in set(names):
            inclusive[name] += int(count)
    return own, inclusive, libraries, total


def listing(title: str, counted: Counter[str], total: int, top: int) -> list[str]:
    """Return the `top` of `counted` as lines of percentages."""
    return [title, *(f"  {count / total:6.1%}  {name}" for name, count in counted.most_common(top)), ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Loragate under one kind of load, `requests` or `events`."""

    kind: str
    target: Target
    engine: Engine
    options: Options

    def load(self, seconds: float) -> dict[str, Any]:
        """Put the load on for so long, and return its report."""
        if self.kind == "requests":
            return load("closed", self.target, self.options, connections=CONNECTIONS, seconds=seconds, warm_up=WARM_UP)
        self.engine.turn(events=int((seconds + WARM_UP + 1) * 1000 / CADENCE_MS), cadence_ms=CADENCE_MS)
        try:
            return load("streams", self.target, self.options, connections=STREAMS, seconds=seconds, warm_up=WARM_UP)
        finally:
            self.engine.turn()


def profile(kind: str, asked: argparse.Namespace) -> str:
    """Start Loragate before the fake engine, put one kind of load on it and return the report."""
    options = Options(seconds=asked.seconds, engine_port=asked.engine_port)
    with tempfile.TemporaryDirectory(prefix="loragate-profile-") as name, ExitStack() as running:
        engine = Engine(options, Path(name))
        running.callback(engine.running.stop)
        target = running.enter_context(started(loragate.PEER, engine, options))
        session = Session(kind=kind, target=target, engine=engine, options=options)
        return report(session, Path(name) / "folded.txt", asked)


def report(session: Session, output: Path, asked: argparse.Namespace) -> str:
    """Return the CPU of the busiest process without py-spy, then what py-spy sees in it."""
    plain = session.load(asked.seconds)
    done = plain["requests" if session.kind == "requests" else "events"]
    worker = max(plain["cpu"], key=lambda pid: float(sum(plain["cpu"][pid])))
    user, system = plain["cpu"][worker]
    spent = user + system
    sample(session, worker, output, native=asked.native)
    own, inclusive, libraries, total = shares(output.read_text())
    if not total:
        raise MissingError("py-spy took no sample of a busy thread")
    lines = [
        f"{session.kind}: {spent * 1e6 / max(done, 1):.1f} CPU us each in the worker (without py-spy), {done:,} in "
        f"{plain['seconds']:.1f} s; user {user / spent:.0%}, system {system / spent:.0%}; {total:,} samples",
        "",
        *listing("by library (where the sample was):", libraries, total, asked.top),
        *listing("by function alone:", own, total, asked.top),
        *listing("by function with what it calls:", inclusive, total, asked.top),
    ]
    return "\n".join(lines)


def sample(session: Session, worker: str, output: Path, *, native: bool) -> None:
    """Let py-spy watch process `worker` under load and write its stacks, folded, to `output`."""
    spy = venv_python("py-spy", "py-spy==0.4.3").parent / "py-spy"
    seconds = round(session.options.seconds)
    command = [str(spy), "record", "-p", worker, "-d", str(seconds), "-r", str(_RATE), "-f", "raw", "--nolineno"]
    command += ["--native"] if native else []
    sampler = subprocess.Popen(
        [*pinned(session.options), *command, "-o", str(output)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    session.load(session.options.seconds + _START_SECONDS)
    said = sampler.communicate(timeout=60)[0].decode(errors="replace").strip()
    if not output.exists():
        raise MissingError(f"py-spy failed: {said.splitlines()[-1] if said else 'no output'}")


def main(arguments: Sequence[str]) -> None:
    """Profile both loads, or the one asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.splitlines()[0])
    parser.add_argument("--load", choices=["requests", "events", "both"], default="both", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of sampling (default: %(default)s)")
    parser.add_argument("--top", type=int, default=12, help="lines of each list (default: %(default)s)")
    parser.add_argument(
        "--engine-port", type=int, default=0, help="of the fake engine; 0 picks one (default: %(default)s)"
    )
    parser.add_argument("--native", action="store_true", help="look into C extensions too (uvloop, httptools); slower")
    asked = parser.parse_args(arguments)
    for kind in ("requests", "events") if asked.load == "both" else (asked.load,):
        try:
            sys.stdout.write(profile(kind, asked) + "\n")
        except (MissingError, NotReadyError) as error:
            raise SystemExit(f"cannot profile: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
