"""`python -m simulations`: run every simulation, print its table, write results, figures and the page's tables.

`--only` runs some of them, and leaves the results of the others as they are; `--runs` and `--looks` make it smaller,
for a try: then nothing is written.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulations import (
    live_tables,
    needed,
    over_time,
    page,
    plots,
    promises,
    reports,
    sample_ratio,
    session_order,
    two_streams,
)
from simulations.promises import Size

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "statistics"
RESULTS = FOLDER / "results.json"

SIMULATIONS: dict[str, Callable[[Size], Any]] = {
    "false_rollbacks": promises.false_rollbacks,
    "false_passes": promises.false_passes,
    "against_noise": promises.against_noise,
    "ten_criteria": promises.ten_criteria,
    "peeking": promises.peeking,
    "coverage": promises.coverage,
    "sessions": promises.sessions,
    "weights": promises.weights,
    "power": lambda size: promises.power(size, promises.POWER, failing=True),
    "passing": lambda size: promises.power(size, promises.PASSING, failing=False),
    "default_margins": needed.default_margins,
    "noise_power": promises.noise_power,
    "noise_share": two_streams.noise_share,
    "pairs_needed": needed.pairs_needed,
    "session_order": session_order.session_order,
    "sliding": reports.sliding,
    "marks": reports.marks,
    "alarms": promises.alarms,
    "correlated_alarms": over_time.correlated_alarms,
    "psi_bias": over_time.psi_bias,
    "sample_ratio": sample_ratio.sample_ratio,
    "live_false_rollbacks": live_tables.false_rollbacks,
    "live_hidden": live_tables.hidden,
    "live_power": live_tables.power,
    "live_time": live_tables.time_to_rollback,
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m simulations", description=__doc__)
    parser.add_argument("--runs", type=int, default=Size().runs, help="of each simulation (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=Size().looks, help="pairs in a run (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=SIMULATIONS, default=list(SIMULATIONS), help="default: all")
    asked = parser.parse_args()
    size = Size(runs=asked.runs, looks=asked.looks)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results: dict[str, Any] = {"size": asdict(size)}
    results |= {name: known[name] for name in SIMULATIONS if name in known and name not in asked.only}
    begun = time.monotonic()
    for at, name in enumerate(asked.only, 1):
        results[name] = SIMULATIONS[name](size)
        seconds = time.monotonic() - begun
        print(f"\n{name} ({at} of {len(asked.only)}, {seconds:.0f} s)\n\n{page.tables_of(name, results)}", flush=True)
    if size != Size():
        print("Not the full size: nothing was written.")
        return
    results = {name: results[name] for name in ("size", *SIMULATIONS) if name in results}
    FOLDER.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    pages = [ROOT / "docs" / name for name in page.PAGES]
    for path in pages:
        path.write_text(page.rewritten(path.read_text(), results, page.PAGES[path.name]))
    written = plots.draw(results, FOLDER)
    print(f"Written: {', '.join(str(path.relative_to(ROOT)) for path in (RESULTS, *pages, *written))}")


if __name__ == "__main__":
    main()
