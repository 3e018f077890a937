"""The command itself: start, stop, mistakes, settings, help."""

import functools
import gc
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import httpx
import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from gateway.cli.run import _announce
from tests.fakes.engine import FakeEngine
from tests.support.forked_command import OWN_COMMAND, run_forked
from tests.support.gateways import RunningGateway, resident_bytes
from tests.support.patience import PATIENCE_SECONDS, until

BODY: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
HEAVY = (
    "torch",
    "vllm",
    "fastapi",
    "starlette",
    "pydantic",
    "pydantic_core",
    "httpx",
    "prometheus_client",
    "numpy",
    "yaml",
)


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `loragate ARGUMENTS` to its end, in a process of its own."""
    return run_forked(arguments, {**os.environ, **(environment or {})}, timeout=PATIENCE_SECONDS)


def run_here(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that starts nothing within this process, a hundred times as fast."""
    done = CliRunner().invoke(main, arguments, env=environment, catch_exceptions=False, prog_name="loragate")
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def refused(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run a command that is a mistake: one line, exit code 2, no traceback. Returns the line."""
    done = (run_here if arguments[0] == "check" else run)(*arguments, environment=environment)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


# Start and stop


def test_it_is_ready_soon_and_small(engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app, control = free_port(), free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "--port",
            str(app),
            "--control-port",
            str(control),
            "--state",
            str(tmp_path),
            "--engine",
            engine.url,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", "LORAGATE_LAME_DUCK_SECONDS": "0"},
    )
    try:
        times = [seconds_until_200(began, app, "/healthz"), seconds_until_200(began, control, "/readyz")]
        assert process.stdout is not None
        line = process.stdout.readline()
        sizes = [resident_bytes(pid) for pid in children(process.pid)]
        with capsys.disabled():
            print(
                f"\n  first 200: app {times[0]:.2f} s, control {times[1]:.2f} s; "
                f"workers {[size // 2**20 for size in sizes]} MiB"
            )
        assert f"http://127.0.0.1:{app}/v1" in line
        assert f"http://127.0.0.1:{control}" in line
        assert len(sizes) == 1
        assert sizes[0] < 100 * 2**20
    finally:
        process.terminate()
        log = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 0
    assert "Traceback" not in log


def test_a_worker_loads_nothing_heavy() -> None:
    code = "import sys, gateway.workers.worker; print([name for name in sys.argv[1:] if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_running_worker_maps_no_heavy_library(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        httpx.post(gateway.url + "/v1/chat/completions", json=BODY, headers=gateway.headers, verify=False)
        (worker,) = gateway.worker_pids()
        mapped = Path(f"/proc/{worker}/maps").read_text()
        assert "uvloop" in mapped
        assert not re.search(r"/(torch|vllm|numpy|pydantic_core|_yaml)\W", mapped)


def test_a_stop_is_clean_and_leaves_no_process(engine: FakeEngine, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    with RunningGateway(engine.url, options=["--workers", "2"], state=state) as gateway:
        pids = [gateway.process.pid, *gateway.worker_pids()]
        assert len(pids) == 3
        assert gateway.stop() == 0
        assert not any(alive(pid) for pid in pids)
        assert not (state / "control.sock").exists()
        assert "Traceback" not in gateway.log_path.read_text()


def test_ctrl_c_is_a_clean_stop_too(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        assert gateway.stop(signal.SIGINT) == 0


def test_a_stop_while_it_starts_is_clean(engine: FakeEngine, tmp_path: Path) -> None:
    serve = [
        sys.executable,
        "-m",
        "gateway",
        "serve",
        "--control-port",
        "0",
        "--state",
        str(tmp_path),
        "--engine",
        engine.url,
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "LORAGATE_LAME_DUCK_SECONDS": "0"}
    port, began = free_port(), time.monotonic()
    with subprocess.Popen([*serve, "--port", str(port)], stdout=subprocess.DEVNULL, env=environment) as first:
        takes = seconds_until_200(began, port, "/healthz")
        first.terminate()
    for share in (0.4, 0.55, 0.7, 0.9):
        process = subprocess.Popen(
            [*serve, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        time.sleep(share * takes)
        started = children(process.pid)
        process.terminate()
        output = process.communicate(timeout=PATIENCE_SECONDS)[0]
        assert process.returncode in (0, -signal.SIGTERM), (
            output
        )  # before the handler is in place the signal just ends it
        assert "Traceback" not in output
        until(functools.partial(are_gone, started))


def test_workers_end_when_their_parent_is_killed(engine: FakeEngine) -> None:
    with RunningGateway(engine.url, options=["--workers", "2"]) as gateway:
        workers = gateway.worker_pids()
        gateway.process.kill()
        gateway.process.wait()
        until(lambda: not any(alive(pid) for pid in workers))


def test_a_gateway_that_was_killed_starts_again_on_its_folder(engine: FakeEngine, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    with RunningGateway(engine.url, state=state) as gateway:
        gateway.process.kill()
        gateway.process.wait()
        gateway.start()
        reply = httpx.post(gateway.url + "/v1/chat/completions", json=BODY, headers=gateway.headers, verify=False)
        assert reply.status_code == 200


def test_a_running_reply_is_finished_before_the_stop(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        body = {**BODY, "stream": True, "fake": {"events": 40, "cadence_ms": 25}}
        with httpx.stream(
            "POST",
            gateway.url + "/v1/chat/completions",
            json=body,
            headers=gateway.headers,
            verify=False,
            timeout=PATIENCE_SECONDS,
        ) as reply:
            lines = reply.iter_lines()
            next(lines)
            gateway.process.terminate()
            rest = list(lines)
        assert "data: [DONE]" in rest
        assert gateway.process.wait(PATIENCE_SECONDS) == 0


def test_a_worker_that_dies_is_replaced(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        os.kill(gateway.worker_pids()[0], signal.SIGKILL)
        until(lambda: gateway.status()["workers"] == {"running": 1, "wanted": 1, "restarts": 1, "unresponsive": 0})
        reply = httpx.post(gateway.url + "/v1/chat/completions", json=BODY, headers=gateway.headers, verify=False)
        assert reply.status_code == 200


# Mistakes


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option, other in (("--port", "--control-port"), ("--control-port", "--port")):
            told = refused(
                "serve", "--engine", "http://127.0.0.1:9", "--state", str(tmp_path), option, port, other, "0"
            )
            assert f"127.0.0.1:{port}" in told
            assert "in use" in told


def test_a_second_gateway_on_the_same_folder_is_refused(engine: FakeEngine, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    with RunningGateway(engine.url, state=state) as gateway:
        told = refused("serve", "--engine", engine.url, "--state", str(state), "--port", "0", "--control-port", "0")
        assert "another gateway runs" in told
        assert str(state) in told
        assert gateway.status()["ready"]


def test_a_damaged_store_is_one_line_and_left_alone(tmp_path: Path) -> None:
    content = b"no database" * 1000
    (tmp_path / "state.db").write_bytes(content)
    told = refused(
        "serve", "--engine", "http://127.0.0.1:9", "--state", str(tmp_path), "--port", "0", "--control-port", "0"
    )
    assert "state.db" in told
    assert (tmp_path / "state.db").read_bytes() == content
    assert "state.db" in refused("keys", "ls", "--state", str(tmp_path))


def test_workers_that_were_started_for_a_gateway_that_cannot_start_end_with_it(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    port = free_port()
    refused(
        "serve", "--engine", "http://127.0.0.1:9", "--port", str(port), "--control-port", "0", "--state", str(tmp_path)
    )
    until(lambda: is_refused(port), "nobody holds the socket any more")


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_collector_of_garbage_is_on_again_once_all_is_imported() -> None:
    class Ready:
        app_url = control_url = "http://127.0.0.1:1"
        settings = SimpleNamespace(auth=False)

    gc.disable()
    try:
        _announce(Ready())
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()


def test_damaged_copies_do_not_matter_while_the_store_is_whole(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").mkdir()
    (tmp_path / "desired.json").write_bytes(b'{"version":3,"keys":"\xff"}')
    with RunningGateway(engine.url, state=tmp_path) as gateway:
        assert gateway.status()["ready"]
        log = gateway.log_path.read_text()
    assert "Traceback" not in log
    assert log.count("was put aside") == 2
    assert json.loads((tmp_path / "desired.json").read_bytes())["sha256"]


def test_a_damaged_copy_is_not_served_from_while_the_store_is_away(tmp_path: Path) -> None:
    (tmp_path / "desired.json").write_bytes(b'{"version":3,"keys":"\xff"}')
    settings = tmp_path / "loragate.yaml"
    settings.write_text(f"store: postgresql://loragate@127.0.0.1:9/nowhere\nadapters:\n  registry: {tmp_path / 'r'}\n")
    done = run(
        "serve",
        "--engine",
        "http://127.0.0.1:9",
        "--state",
        str(tmp_path),
        "--port",
        "0",
        "--control-port",
        "0",
        "--config",
        str(settings),
    )
    assert done.returncode == 2
    noted, told = done.stderr.splitlines()
    assert "desired.json is damaged" in noted
    assert told.startswith("error: ")
    assert "see whether the server is up" in told


def test_a_state_path_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    told = refused(
        "serve", "--engine", "http://127.0.0.1:9", "--state", str(long), "--port", "0", "--control-port", "0"
    )
    assert "shorter" in told


def test_no_engine_given_is_one_line(tmp_path: Path) -> None:
    assert "--engine" in refused("serve", "--state", str(tmp_path))
    assert "is no engine" in refused("serve", "--engine", "ftp://x", "--state", str(tmp_path))


def test_commands_without_a_gateway_say_how_to_start_one(tmp_path: Path) -> None:
    for command in (["status"], ["adapters", "ls"], ["adapters", "rm", "x"], ["routes", "ls"]):
        told = refused(*command, "--state", str(tmp_path))
        assert "loragate up" in told
        assert "control.sock" in told
    for url in ("http://127.0.0.1:9", "nonsense", "ftp://x", "http://[::"):
        assert refused("status", "--control", url).startswith("error:")


def test_tls_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nothing")
    serve = ["serve", "--engine", "http://127.0.0.1:9", "--state", str(tmp_path)]
    assert "give both" in refused(*serve, "--tls-certificate", str(tmp_path / "c.pem"))
    both = ["--tls-certificate", str(tmp_path / "c.pem"), "--tls-key", str(tmp_path / "c.pem")]
    assert "no certificate" in refused(*serve, *both)


# Settings


def check(tmp_path: Path, content: object, **environment: str) -> list[str]:
    """Return what `loragate check` has to say about a settings file."""
    path = tmp_path / "settings.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    done = run_here("check", "-c", str(path), environment=environment)
    assert done.returncode == (2 if done.stderr else 0)
    return done.stderr.splitlines()


def test_check_tells_every_problem_at_once(tmp_path: Path) -> None:
    problems = check(
        tmp_path,
        {
            "port": 70_000,
            "wrokers": 2,
            "limits": {"idle_secs": 1},
            "engines": ["ftp://x"],
            "engine": {"dtyp": "x"},
            "log_level": "loud",
        },
        LORAGATE_WORKERS="many",
        LORAGATE_PROT="9",
    )
    assert len(problems) == 8
    for name in (
        "port",
        "wrokers",
        "limits.idle_secs",
        "engines.0",
        "engine.dtyp",
        "log_level",
        "workers",
        "LORAGATE_PROT",
    ):
        assert any(problem.startswith(f"error: {name}") for problem in problems), (name, problems)


@pytest.mark.parametrize("content", ["{", "[]", "just text", "\x00", "a: b: c"])
def test_check_tells_of_a_file_that_holds_no_settings(tmp_path: Path, content: str) -> None:
    (problem,) = check(tmp_path, content)
    assert "settings.yaml" in problem


def test_check_tells_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in refused("check", "-c", str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("content", [{1: 2}, {"limits": 5}, {"engine": None}, {"limits": {"idle_seconds": -1}}])
def test_check_survives_odd_values(tmp_path: Path, content: object) -> None:
    assert len(check(tmp_path, content, LORAGATE_LIMITS__BODY_SECONDS="3")) <= 1
    assert check(tmp_path, content)


@pytest.mark.parametrize(
    "name", ["LORAGATE_LIMITS", "LORAGATE_PORT__X", "LORAGATE_LIMITS__IDLE_SECONDS__X", "LORAGATE_"]
)
def test_a_variable_that_means_nothing_is_told(name: str) -> None:
    assert name in refused("check", environment={name: "1", "LORAGATE_LIMITS__IDLE_SECONDS": "1"})


def test_what_kubernetes_puts_into_a_pod_is_not_a_mistake() -> None:
    injected = {
        "LORAGATE_PORT": "tcp://10.0.0.1:8080",
        "LORAGATE_SERVICE_HOST": "10.0.0.1",
        "LORAGATE_SERVICE_PORT": "8080",
        "LORAGATE_SERVICE_PORT_APP": "8080",
        "LORAGATE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "LORAGATE_CONTROL_PORT": "tcp://10.0.0.2:8081",
        "LORAGATE_CONTROL_SERVICE_HOST": "10.0.0.2",
    }
    assert run_here("check", environment=injected).returncode == 0


def test_the_file_the_environment_and_the_command_line_count_in_that_order(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("port: 1\nworkers: 2\nlimits: {idle_seconds: 3, body_seconds: 4}\nengines: [http://one:1]\n")
    environment = {
        "LORAGATE_WORKERS": "5",
        "LORAGATE_LIMITS__IDLE_SECONDS": "6",
        "LORAGATE_AUTH": "false",
        "LORAGATE_ENGINES": "http://two:2,unix:///three",
    }
    done = run_here("check", "-c", str(path), "--json", environment=environment)
    settings = json.loads(done.stdout)
    assert (settings["port"], settings["workers"], settings["auth"]) == (1, 5, False)
    assert (settings["limits"]["idle_seconds"], settings["limits"]["body_seconds"]) == (6, 4)
    assert settings["engines"] == ["http://two:2", "unix:///three"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = refused("serve", "-c", str(path), "--port", port, "--state", str(tmp_path), environment=environment)
    assert f":{port}" in told


# Help


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(main)])
def test_every_command_and_every_option_has_help(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help
    text = command.get_help(click.Context(command, info_name=" ".join(("loragate", *path))))
    assert text.startswith("Usage: loragate")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["serve", "--help"], ["keys", "create", "-h"]])
def test_help_works_from_the_shell(arguments: list[str]) -> None:
    done = subprocess.run([*OWN_COMMAND, *arguments], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout


def test_check_lists_every_setting() -> None:
    text = run_here("check", "--help").stdout
    for name in ("control_host", "limits.idle_seconds", "engine.max_loras", "tls_key", "drain_seconds"):
        assert name in text


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"loragate \d+\.\d+\.\d+\S*\n", run_here("--version").stdout)


def test_an_unknown_command_is_refused() -> None:
    done = run_here("serv")
    assert done.returncode == 2
    assert "No such command" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_completion(shell: str) -> None:
    script = run_here("completion", shell).stdout
    assert "_LORAGATE_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        asked = {"_LORAGATE_COMPLETE": "bash_complete", "COMP_WORDS": "loragate ad", "COMP_CWORD": "1"}
        code = "import sys; sys.argv[0] = 'loragate'; from gateway.cli import main; main(prog_name='loragate')"
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True)
        assert "adapters" in done.stdout


def test_status_tells_people_and_programs_whether_requests_are_served(engine: FakeEngine) -> None:
    with RunningGateway(engine.url) as gateway:
        status = gateway.cli("status", "--json")
        assert status["ready"]
        assert status["base"] == "base"
        assert "ready" in gateway.cli("status")
        assert httpx.get(gateway.control_url + "/readyz", verify=False).status_code == 200
    with RunningGateway("http://127.0.0.1:9") as gateway:
        told = gateway.cli("status", expect=1)
        assert "NOT READY" in told
        assert "DOWN" in told
        assert json.loads(gateway.cli("status", "--json", expect=1))["ready"] is False
        assert httpx.get(gateway.control_url + "/readyz", verify=False).status_code == 503
        assert httpx.get(gateway.url + "/healthz", verify=False).status_code == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seconds_until_200(began: float, port: int, path: str) -> float:
    while time.monotonic() - began < PATIENCE_SECONDS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return time.monotonic() - began
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    raise AssertionError(f"no 200 from {path}")


def children(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listing.stdout.split()]


def are_gone(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
