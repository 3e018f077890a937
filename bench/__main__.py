"""`python -m bench`: Loragate and its peers before the same fake engine, in one run, one table."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measure import (
    CADENCE_MS,
    CONNECTIONS,
    QUIET,
    RATE,
    STREAMS,
    Engine,
    Options,
    Reading,
    measure,
    measure_direct,
)
from bench.peers import ALL, REFERENCES, MissingError, Peer
from bench.processes import NotReadyError
from bench.table import Row, render, row

TARGETS = "targets: Loragate at most 0.50 x vllm-router per request and 0.90 per event; aim 0.35 and 0.70"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short run with 200 idle streams; numbers are rough")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="measure these alone (part of a name; repeatable)"
    )
    parser.add_argument("--runs", type=int, default=3, help="the table shows their median (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="each measured window (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=1000, help="idle streams (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every reading there")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="wait so long for other programs to be quiet (default: %(default)s)",
    )
    parser.add_argument("--no-pin", action="store_true", help="let the kernel place the processes")
    parser.add_argument(
        "--engine-port", type=int, default=0, help="of the fake engine; 0 picks one (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.runs, options.seconds, options.idle, options.patience = 1, 1.5, 200, 0.0
    return options


def chosen(names: Sequence[str] | None) -> list[Peer]:
    """Return the peers whose names hold one of `names`; all of them when there are none."""
    if not names:
        return list(ALL)
    found = [peer for peer in ALL if any(name.lower() in peer.name.lower() for name in names)]
    if not found:
        raise SystemExit(f"no peer is called `{names[0]}`; there are: {', '.join(peer.name for peer in ALL)}")
    return found


def say(text: str) -> None:
    """Show progress, on the terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def install(peers: Sequence[Peer], missing: dict[str, str]) -> list[Peer]:
    """Return the peers that are installed; the others go to `missing` with the reason."""
    there = []
    for peer in peers:
        say(f"installing {peer.name}")
        try:
            peer.install()
            there.append(peer)
        except MissingError as error:
            missing[peer.name] = str(error)
    return there


def run_all(peers: Sequence[Peer], runs: int, options: Options, missing: dict[str, str]) -> list[list[Reading]]:
    """Measure every peer once in each run, in another order each time."""
    results = []
    with tempfile.TemporaryDirectory(prefix="loragate-bench-") as folder:
        engine = Engine(options, Path(folder))
        try:
            for number in range(runs):
                say(f"run {number + 1} of {runs}: direct")
                readings = [measure_direct(engine, options)]
                shift = number * 2 % max(1, len(peers))
                for peer in [*peers[shift:], *peers[:shift]]:
                    say(f"run {number + 1} of {runs}: {peer.name}")
                    try:
                        readings.append(measure(peer, engine, options))
                    except (MissingError, NotReadyError, RuntimeError) as error:
                        missing[peer.name] = str(error)
                results.append(readings)
        finally:
            engine.running.stop()
    say("")
    return results


def rows(peers: Sequence[Peer], results: Sequence[Sequence[Reading]], flags: dict[str, Any]) -> list[Row]:
    """Return the table's rows in the order of the peers, then Loragate's worker by itself."""
    runs = [{reading.name: reading.values for reading in readings} for readings in results]
    measured = {reading.name for readings in results for reading in readings}
    names = [name for name in ("direct", *(peer.name for peer in peers)) if name in measured]
    found = [
        row(name, runs, REFERENCES, flagged=any("ERRORS" in flag for flag in flags.get(name, ()))) for name in names
    ]
    if "Loragate" in measured:
        found.append(row("Loragate", runs, REFERENCES, worker=True))
    return found


def busy_machine(results: Sequence[Sequence[Reading]]) -> list[str]:
    """Return a warning when something else used the CPUs while we measured; latencies suffer most."""
    shares = [reading.values.get("strangers_share", 0.0) for readings in results for reading in readings]
    if max(shares) < QUIET:
        return []
    number = sum(share >= QUIET for share in shares)
    found = f"up to {max(shares):.2f} CPUs; over {QUIET} in {number} of {len(shares)} readings"
    return [f"NOT QUIET: other programs used {found}. Latency and requests/s of this run say little."]


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table, and write the readings if asked."""
    asked = parse(arguments)
    options = Options(
        seconds=asked.seconds,
        idle=asked.idle,
        pin=not asked.no_pin,
        engine_port=asked.engine_port,
        patience=asked.patience,
    )
    missing: dict[str, str] = {}
    peers = install(chosen(asked.only), missing)
    results = run_all(peers, asked.runs, options, missing)
    flags: dict[str, dict[str, None]] = defaultdict(dict)
    for reading in (reading for readings in results for reading in readings):
        flags[reading.name] |= dict.fromkeys(reading.flags)
    lines = [
        f"{asked.runs} run(s), medians; ratios within a run, (lowest..highest); windows of {asked.seconds:g} s; "
        f"{CONNECTIONS} connections; {STREAMS} streams at {CADENCE_MS} ms; latency at {RATE:g} requests/s; "
        f"RSS with {asked.idle:,} idle streams",
        "",
        render(rows(peers, results, flags)),
        "",
        TARGETS,
        *busy_machine(results),
        *(f"missing: {name}: {reason}" for name, reason in missing.items()),
        *(f"{name}: {'; '.join(notes)}" for name, notes in flags.items() if notes and name != "direct"),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        readings = [[asdict(reading) for reading in run] for run in results]
        data = {"options": {k: str(v) for k, v in vars(asked).items()}, "missing": missing, "runs": readings}
        asked.json.write_text(json.dumps(data, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
