"""A wheel puts one package beside others, and every process of Loragate finds its own, whatever else is called so."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway

ROOT = Path(__file__).parents[2]
STRANGERS = ("adapters", "evaluators", "gateway")


class Installed:
    """An environment with Loragate as a wheel, its dependencies, and other packages of its packages' names."""

    def __init__(self, folder: Path) -> None:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "env")
        self.python = folder / "env" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install"]
        subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
        (self.packages,) = (folder / "env" / "lib").glob("python*/site-packages")
        self.brought = {path.name for path in self.packages.iterdir() if path.suffix != ".dist-info"}
        # A path in such a file is searched, but not for such files: not this checkout's, which is installed there.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        for name in STRANGERS:
            (self.packages / name).mkdir()
            (self.packages / name / "__init__.py").write_text("IS_STRANGE = True\n")
        self.command = str(self.python.with_name("loragate"))
        self.child = str(self.packages / "loragate" / "child.py")

    def run(self, *command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of it in this checkout, whose packages it must not take for its own."""
        environment = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
        return subprocess.run(
            command, cwd=ROOT, env=environment, input=given, capture_output=True, text=True, check=False
        )

    def code(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code in it; without this checkout on its path."""
        return self.run(str(self.python), "-P", "-c", code)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def serving(installed: Installed, engine: FakeEngine) -> Iterator[RunningGateway]:
    environment = {"PYTHONPATH": ""}
    with RunningGateway(engine.url, command=[installed.command], environment=environment) as gateway:
        yield gateway


def test_a_wheel_brings_one_package(installed: Installed) -> None:
    assert installed.brought == {"loragate"}


def test_the_command_and_the_package_say_the_same_version(installed: Installed) -> None:
    commands = ([installed.command], [str(installed.python), "-P", "-m", "loragate"])
    outputs = [installed.run(*command, "--version").stdout for command in commands]
    assert outputs[0].startswith("loragate 0.")
    assert outputs[0] == outputs[1]


def test_an_installed_gateway_serves_from_what_is_installed(installed: Installed, serving: RunningGateway) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    reply = httpx.post(f"{serving.url}/v1/chat/completions", headers=serving.headers, json=body)
    assert reply.status_code == 200, reply.text
    workers = [Path(f"/proc/{pid}/cmdline").read_text().split("\0") for pid in serving.worker_pids()]
    assert workers
    assert {worker[1] for worker in workers} == {installed.child}


@pytest.mark.parametrize(
    ("module", "argument", "answer"),
    [
        ("gateway", "--version", "loragate 0."),
        ("gateway.demo.base_model", "--help", "usage: "),
        ("gateway.evaluate.process", "", "Input data was truncated"),
        ("adapters.fusion", "", "the job cannot be read"),
    ],
)
def test_a_child_runs_the_module_that_is_installed(
    installed: Installed, module: str, argument: str, answer: str
) -> None:
    done = installed.run(str(installed.python), installed.child, module, *filter(None, [argument]))
    assert answer in done.stdout + done.stderr
    assert str(ROOT) + os.sep not in done.stderr


def test_a_redactor_process_redacts_where_loragate_is_installed(installed: Installed) -> None:
    done = installed.code(
        "import loragate; loragate.bind_packages()\n"
        "from gateway.mirror.redactor_process import RedactorRunner\n"
        "redacting = RedactorRunner()\n"
        "print(redacting.text('the secret word', ['regex:s.cret']), redacting._process.args[1])\n"
        "redacting.close()"
    )
    assert done.stdout.startswith("the "), done.stderr
    assert "secret" not in done.stdout
    assert done.stdout.split()[-1] == installed.child


def test_files_that_are_no_modules_are_installed_with_them(installed: Installed) -> None:
    done = installed.code(
        "import loragate; loragate.bind_packages()\n"
        "from gateway.pages.render import TEMPLATES\n"
        "from gateway.demo import adapters as demo\n"
        "print(*sorted(path.name for path in TEMPLATES.iterdir()), demo.find_recipe().name)"
    )
    assert "page.html.j2" in done.stdout.split(), done.stderr
    assert done.stdout.split()[-1] == "train_adapter.py"


def test_a_plugin_imports_what_it_needs_and_the_others_packages_are_left_alone(installed: Installed) -> None:
    done = installed.code(
        "from loragate.plugins import Score\n"
        "import adapters, gateway, sys\n"
        "print(Score.__module__, adapters.IS_STRANGE, gateway.IS_STRANGE, *sys.path)"
    )
    module, *are_strange = done.stdout.split()[:3]
    assert (module, are_strange) == ("evaluators.observation", ["True", "True"]), done.stderr
    assert "loragate" not in done.stdout


def test_who_has_imported_another_package_of_the_name_is_told_so(installed: Installed) -> None:
    done = installed.code("import evaluators, loragate.plugins")
    assert "has imported another from" in done.stderr
    assert str(installed.packages / "loragate" / "packages" / "evaluators") in done.stderr


def test_vllm_finds_the_plugin_and_keeps_its_own_packages(installed: Installed) -> None:
    done = installed.code(
        "import os; os.environ['LORAGATE_CPU_LORA_CURE'] = '0'\n"
        "from importlib.metadata import entry_points\n"
        "(found,) = [each for each in entry_points(group='vllm.general_plugins') if 'loragate' in each.name]\n"
        "found.load()()\n"
        "import adapters, gateway; print(adapters.IS_STRANGE, gateway.__version__[:2])"
    )
    assert done.stdout == "True 0.\n", done.stderr


def test_from_a_checkout_a_child_runs_the_checkout_wherever_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "__init__.py").write_text("raise SystemExit('a stranger')\n")
    command = [sys.executable, str(ROOT / "loragate" / "child.py"), "gateway", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("loragate "), done.stderr
