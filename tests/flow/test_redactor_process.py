"""Patterns of operators and code of packages may take any time: copies are lost, the gateway goes on."""

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.mirror import redactors
from gateway.mirror.redactor_process import DISABLED_SECONDS, MAX_HERE, MAX_LOST, RedactorRunner
from gateway.mirror.redactors import NotRedacted
from gateway.records.sample import Sample

PLUGINS = {
    "hangs": "import time\ndef run(text):\n    time.sleep(1000)\n",
    # Python's engine holds the interpreter: no thread of that process runs again.
    "backtracks": "import re\ndef run(text):\n    return re.sub(r'(\\w+\\s?)+@', '', text)\n",
    "dies": "import os\ndef run(text):\n    os._exit(3)\n",
    "raises": "def run(text):\n    raise ValueError('words of somebody')\n",
    "names": "def run(text):\n    return text.replace('Ann', '[name]')\n",
}


@pytest.fixture(autouse=True, scope="module")
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Distributions as a package manager would have installed them, for the processes that we start."""
    folder = tmp_path_factory.mktemp("site")
    points = "[loragate.redactors]\n"
    for name, code in PLUGINS.items():
        (folder / f"plugin_{name}.py").write_text(code)
        points += f"{name} = plugin_{name}:run\n"
    info = folder / "plugins-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1\n")
    (info / "entry_points.txt").write_text(points)
    with pytest.MonkeyPatch.context() as patch:
        path = [str(folder), str(Path(__file__).parents[2])]
        patch.setenv("PYTHONPATH", ":".join(path))
        patch.syspath_prepend(str(folder))  # here only their names are looked for
        redactors._entry_points.cache_clear()
        yield
    redactors._entry_points.cache_clear()


@pytest.fixture
def redacting() -> Iterator[RedactorRunner]:
    with_process = RedactorRunner(seconds=60.0)
    yield with_process
    with_process.close()


def sample(text: str) -> Sample:
    return Sample(
        id="0" * 32,
        request_id="r",
        alias="a",
        kind="base",
        control="base",
        other="a@1",
        served="candidate",
        capture="full",
        endpoint="/v1/completions",
        body=b'{"prompt":"%b"}' % text.encode(),
        reply=b"{}",
    )


@pytest.mark.parametrize("name", ["hangs", "backtracks", "dies"])
def test_a_redactor_that_never_returns_costs_its_copies_and_is_not_asked_again_for_a_while(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    redacting = RedactorRunner(seconds=0.5, clock=lambda: now[0])
    reasons = []
    with caplog.at_level(logging.ERROR, "loragate.mirror"):
        for _ in range(MAX_LOST + 1):
            with pytest.raises(NotRedacted) as caught:
                redacting.sample(sample("please write to the whole team about it " * 2), [name])
            reasons.append(caught.value.reason)
            assert name in str(caught.value)
    assert reasons == ["redactor_failed"] * MAX_LOST + ["redactor_disabled"]
    assert len(caplog.records) == 1
    assert "repair it, or take it out" in caplog.text
    assert redacting.text("ann@mail.example, CASE-7", ["email", "regex:CASE-[0-9]"]) == "[email], [redacted]"
    now[0] = DISABLED_SECONDS + 1  # once more is tried, and is enough
    for reason in ("redactor_failed", "redactor_disabled"):
        with pytest.raises(NotRedacted) as caught:
            redacting.text("please write to the whole team about it " * 2, [name])
        assert caught.value.reason == reason
    redacting.close()


def test_it_is_told_which_of_several_redactors_did_not_end() -> None:
    redacting = RedactorRunner(seconds=2.0)
    with pytest.raises(NotRedacted) as caught:
        redacting.sample(sample("ann@mail.example"), ["email", "hangs", "names"])
    assert str(caught.value) == "the redactor `hangs` did not end within 2 s"
    redacting.close()


def test_a_packages_redactor_is_used_and_one_that_fails_quotes_nothing(redacting: RedactorRunner) -> None:
    clean = redacting.sample(sample("I am Ann"), ["names"])
    assert (clean.body, clean.redacted) == (b'{"prompt":"I am [name]"}', True)
    given = sample("nobody")
    assert redacting.sample(given, ["names"]) is given
    with pytest.raises(NotRedacted) as caught:
        redacting.text("x", ["raises"])
    assert "words" not in str(caught.value)
    assert redacting.text("Ann", ["names"]) == "[name]"


def test_a_large_copy_is_redacted_where_it_holds_up_nobody(redacting: RedactorRunner) -> None:
    clean = redacting.sample(sample("ann@mail.example " + "x" * MAX_HERE), ["email"])
    assert clean.body.startswith(b'{"prompt":"[email] xxx')
    assert redacting._process is not None
    other = RedactorRunner()
    assert other.sample(sample("ann@mail.example"), ["email"]).body == b'{"prompt":"[email]"}'
    assert other._process is None  # nothing is started for what is small and ours


def test_what_ends_takes_whoever_waits_with_it() -> None:
    redacting = RedactorRunner(seconds=60.0)
    reasons: list[str] = []

    def wait() -> None:
        try:
            redacting.text("x", ["hangs"])
        except NotRedacted as error:
            reasons.append(error.reason)

    thread = threading.Thread(target=wait)
    thread.start()
    while redacting._process is None:
        thread.join(0.01)
    redacting.close()
    thread.join(30.0)
    assert reasons == ["redactor_failed"]
    with pytest.raises(NotRedacted):
        redacting.text("x", ["names"])


def test_the_process_ends_with_whoever_started_it(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import os\nfrom gateway.mirror.redactor_process import RedactorRunner\n"
        "r = RedactorRunner()\nr.text('x', ['names'])\nprint(r._process.pid, flush=True)\nos._exit(0)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    gone = threading.Event()
    for _ in range(1000):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            gone.set()
            break
        gone.wait(0.02)
    assert gone.is_set()
