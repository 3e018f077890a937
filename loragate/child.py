"""Run one of Loragate's modules: `python .../loragate/child.py gateway.workers.worker 3 4`; see `child_command`."""

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the module that the first argument names, with the others as its own."""
    if not sys.flags.safe_path:
        del sys.path[0]  # this folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from loragate import bind_packages

    del sys.path[0]
    bind_packages()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
