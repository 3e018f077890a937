"""`python -m simulations`: run every simulation, print its table, write results, figures and the page's tables.

`--runs` and `--looks` make it smaller, for a try; then nothing is written.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from simulations import page, plots, promises
from simulations.promises import Size

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "statistics.md"
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
    "noise_power": promises.noise_power,
    "alarms": promises.alarms,
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m simulations", description=__doc__)
    parser.add_argument("--runs", type=int, default=Size().runs, help="of each simulation (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=Size().looks, help="pairs in a run (default: %(default)s)")
    asked = parser.parse_args()
    size = Size(runs=asked.runs, looks=asked.looks)
    results: dict[str, Any] = {"size": asdict(size)}
    begun = time.monotonic()
    for at, (name, simulate) in enumerate(SIMULATIONS.items(), 1):
        results[name] = simulate(size)
        seconds = time.monotonic() - begun
        print(f"\n{name} ({at} of {len(SIMULATIONS)}, {seconds:.0f} s)\n\n{page.tables_of(name, results)}", flush=True)
    if size != Size():
        print("Not the full size: nothing was written.")
        return
    FOLDER.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page.rewritten(PAGE.read_text(), results))
    written = plots.draw(results, FOLDER)
    print(f"Written: {', '.join(str(path.relative_to(ROOT)) for path in (RESULTS, PAGE, *written))}")


if __name__ == "__main__":
    main()
