"""What is installed: one package, which carries `gateway`, `adapters` and `evaluators` inside.

On package indexes these three names are other people's, so a wheel puts `loragate` alone beside other packages, with
the three in `packages/`. Each of Loragate's programs begins by binding the three names to them, in its own process;
every import in the three stays as it is. In a checkout they stand beside this folder, and the same holds.
"""

import importlib
import sys
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent
# The folder that holds the three.
HOME: Final = _HERE / "packages" if (_HERE / "packages").is_dir() else _HERE.parent
PACKAGES: Final = ("gateway", "adapters", "evaluators")


def bind_packages(*names: str) -> None:
    """Make imports of these packages, by default of all three, find Loragate's in this process.

    `sys.path` is as before afterwards: what else is installed is found where it was.

    Raises:
        ImportError: Another package of one of these names has been imported before.
    """
    sys.path.insert(0, str(HOME))
    try:
        found = {name: importlib.import_module(name) for name in names or PACKAGES}
    finally:
        sys.path.remove(str(HOME))
    for name, module in found.items():
        where = Path(module.__file__ or "").resolve().parent
        if where != HOME / name:
            raise ImportError(
                f"loragate needs its own package `{name}` from {HOME / name}, but this process has imported another "
                f"from {where}: import loragate's first, or run the two in processes of their own",
                name=name,
            )


def child_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs one of Loragate's modules as a process of its own.

    It names a file, not a module: the process runs the code of the one that starts it, whatever the current folder and
    the environment hold.
    """
    return [sys.executable, str(_HERE / "child.py"), module, *arguments]


def main() -> None:
    """Run the command `loragate`."""
    bind_packages()
    from gateway.cli import main as command

    command()
