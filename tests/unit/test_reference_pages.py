"""The reference pages say what the code says."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts" / "make_reference.py")
assert _spec is not None
assert _spec.loader is not None
make_reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_reference)
PAGES: dict[str, str] = make_reference.pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_made_page_is_current(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text()
    assert written == PAGES[name], "run: python scripts/make_reference.py"


def test_every_link_between_our_pages_leads_somewhere() -> None:
    import re

    dead = []
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")):
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        dead += [
            (page.name, target) for target in targets if "://" not in target and not (page.parent / target).exists()
        ]
    assert dead == []


def test_no_machine_path_and_no_registry_host_is_committed() -> None:
    import subprocess

    words = (
        "/" + "opt/wheels",
        "/" + "opt/pypi",
        "files.python" + "hosted.org",
        "pypi" + ".org/simple",
        "registry.npm" + "js.org",
        "/" + "work/main",
    )
    pattern = [part for word in words for part in ("-e", word)]
    found = subprocess.run(["git", "grep", "-lF", *pattern], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout == ""
