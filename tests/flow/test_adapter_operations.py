"""Operations on adapters that meet: on one content, on a slow engine, with a store that hangs, and cut short."""

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from adapters.catalog import Entry
from gateway.admin.adapters.intake import Intake, IntakeRules
from gateway.admin.adapters.operations import AdapterOperations
from gateway.admin.adapters.registration import Registration
from gateway.admin.state import LiveState
from gateway.decide.authenticate import Role
from gateway.decide.route import Base, EngineState
from gateway.records.state import Desired, KeyRecord
from gateway.store.fingerprints import FingerprintStore
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.live_state import Workers
from tests.support.patience import PATIENCE_SECONDS, until

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test leaves on the module's gateway is removed."""
    yield
    if "gateway" in request.fixturenames:
        engine, gateway = request.getfixturevalue("engine"), request.getfixturevalue("gateway")
        engine.set(held_loads=False)
        engine.release()
        for name in {each["name"] for each in gateway.admin("GET", "adapters").json()["adapters"]}:
            assert gateway.admin("DELETE", f"adapters/{name}").status_code == 200


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


def add(gateway: RunningGateway, folder: Path, name: str) -> dict[str, Any]:
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": name})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def ask(gateway: RunningGateway, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 2, **more}
    return httpx.post(
        gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers, timeout=PATIENCE_SECONDS
    )


def is_there_as_a_rule(gateway: RunningGateway) -> None:
    """Give what was just asked for the time to be there; the test holds as well if it is not."""
    for _ in range(10):
        gateway.status()


def loads_under_way(engine: FakeEngine) -> int:
    return sum(one.target == "/v1/load_lora_adapter" for one in engine.requests) - engine.loads


# One content, several names


def test_removing_a_name_leaves_the_copy_to_another_that_is_just_being_registered(
    gateway: RunningGateway, engine: FakeEngine, pool: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    add(gateway, folder, "old")
    engine.set(held_loads=True)
    adding = pool.submit(add, gateway, folder, "new")
    until(lambda: loads_under_way(engine) == 1)
    removing = pool.submit(gateway.admin, "DELETE", "adapters/old")
    is_there_as_a_rule(gateway)
    engine.release()
    assert removing.result().status_code == 200
    copy = Path(adding.result()["folder"])
    assert sorted(path.name for path in copy.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert list(engine.adapters) == [adding.result()["version"]]
    assert ask(gateway, "new").status_code == 200


def test_a_version_that_is_added_again_while_it_is_removed_is_whole(
    gateway: RunningGateway, engine: FakeEngine, pool: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    version = add(gateway, folder, "support")["version"]
    replying = pool.submit(ask, gateway, "support", fake={"held": True})  # so the removal waits
    until(lambda: engine.running == 1)
    removing = pool.submit(gateway.admin, "DELETE", "adapters/support")
    until(lambda: gateway.admin("GET", "adapters").json()["adapters"] == [])
    adding = pool.submit(add, gateway, folder, "support")
    is_there_as_a_rule(gateway)
    engine.release()
    again = adding.result()
    assert (replying.result().status_code, removing.result().status_code) == (200, 200)
    assert Path(again["folder"]).is_dir()
    assert list(engine.adapters) == [version]
    assert ask(gateway, "support").status_code == 200


# What is slow holds up nothing else


def test_a_removal_that_waits_for_a_slow_engine_holds_up_no_other_change(
    gateway: RunningGateway, engine: FakeEngine, pool: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    version = add(gateway, write_adapter(tmp_path / "a"), "support")["version"]
    engine.set(held_loads=True)
    engine.core.adapters.clear()
    asking = pool.submit(ask, gateway, "support")
    until(lambda: loads_under_way(engine) == 1)
    removing = pool.submit(gateway.admin, "DELETE", "adapters/support")
    until(lambda: gateway.admin("GET", "adapters").json()["adapters"] == [])
    assert gateway.admin("POST", "keys", {"role": "app"}).status_code == 201
    assert not removing.done()
    engine.release()
    assert removing.result().json() == {"removed": [version]}
    assert asking.result().status_code in (404, 503)
    assert engine.adapters == {}


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[int, list[socket.socket]]]:
    """A port on which connections are taken, and nothing is said."""
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        connections: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(stack.enter_context(listener.accept()[0]))

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1], connections
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_stores_that_do_not_answer_hold_up_neither_the_control_plane_nor_its_end(
    pool: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with silent_server() as (port, connections):
        prefix = f"http://127.0.0.1:{port}"
        environment = {"LORAGATE_ADAPTERS__SOURCES": prefix}
        with FakeEngine() as engine, RunningGateway(engine.url, environment=environment) as gateway:
            bodies = [{"source": f"{prefix}/{number}", "name": f"a{number}"} for number in range(12)]
            adding = [pool.submit(gateway.admin, "POST", "adapters", body) for body in bodies]
            until(lambda: len(connections) >= 4)
            assert gateway.admin("POST", "keys", {"role": "app"}).status_code == 201
            assert not any(each.done() for each in adding), "the stores still say nothing"
            assert gateway.stop() == 0
            assert not any(each.exception() is None and each.result().status_code == 201 for each in adding)


def fusions(gateway: RunningGateway) -> list[int]:
    """The processes of a gateway that fuse."""
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(gateway.process.pid)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listing.stdout.splitlines() if "adapters.fusion" in line]


def test_a_parent_stays_until_the_fusion_that_reads_it_is_done(
    gateway: RunningGateway, pool: concurrent.futures.ThreadPoolExecutor, tmp_path: Path
) -> None:
    for seed in (1, 2):
        add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}")
    parents = [{"version": "a1"}, {"version": "a2"}]
    fusing = pool.submit(gateway.admin, "POST", "adapters/fuse", {"name": "both", "parents": parents, "method": "cat"})
    until(lambda: fusions(gateway) or fusing.done())
    (process,) = fusions(gateway)
    os.kill(process, signal.SIGSTOP)  # so that it is at work until we have asked
    try:
        refused = gateway.admin("DELETE", "adapters/a1")
    finally:
        os.kill(process, signal.SIGCONT)
    assert refused.status_code == 409
    assert "fusion" in refused.json()["error"]["message"]
    assert fusing.result().status_code == 201
    assert gateway.admin("DELETE", "adapters/a1").status_code == 200


# Engines that behave oddly


def test_an_engine_that_loads_and_does_not_keep_costs_a_few_loads_and_an_error(tmp_path: Path) -> None:
    environment = {"LORAGATE_ADAPTERS__FINGERPRINTS": "false"}
    with FakeEngine() as engine, RunningGateway(engine.url, environment=environment) as gateway:
        add(gateway, write_adapter(tmp_path / "a"), "support")
        engine.core.adapters.clear()
        engine.core._add = lambda *_: None  # type: ignore[method-assign]
        before = len(engine.requests)
        reply = ask(gateway, "support")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "version_not_ready")
        counts = Counter(one.target for one in engine.requests[before:])
        assert counts["/v1/load_lora_adapter"] < 30


def test_an_application_is_not_told_what_the_engine_says_of_this_machine(tmp_path: Path) -> None:
    environment = {"LORAGATE_ENGINE__MAX_CPU_LORAS": "1"}
    with FakeEngine() as engine, RunningGateway(engine.url, environment=environment) as gateway:
        first = add(gateway, write_adapter(tmp_path / "1", 1), "first")
        add(gateway, write_adapter(tmp_path / "2", 2), "second")
        copy = Path(first["folder"])
        for file in copy.iterdir():
            file.unlink()
        copy.rmdir()
        reply = ask(gateway, "first")
        assert reply.status_code == 503
        assert first["version"] in reply.json()["error"]["message"]
        assert str(gateway.state) not in reply.text
        [standing] = gateway.admin("GET", "adapters/first").json()["engines"]
        assert str(copy) in standing["reason"], "the operator is told"


# Cut short


def test_ctrl_c_without_a_terminal_undoes_what_was_begun(
    engine: FakeEngine, gateway: RunningGateway, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a")
    engine.set(held_loads=True)
    command = [sys.executable, "-m", "gateway", "adapters", "add", str(folder), "--name", "a", "--state"]
    # Who runs the tests in the background of a shell has them ignore Ctrl-C, which children inherit.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        adding = subprocess.Popen([*command, str(gateway.state)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, handler)
    until(lambda: loads_under_way(engine) == 1)
    adding.send_signal(signal.SIGINT)
    adding.communicate(timeout=PATIENCE_SECONDS)
    assert adding.returncode == 1
    engine.release()
    until(lambda: loads_under_way(engine) == 0)
    until(lambda: engine.adapters == {} and not any((gateway.state / "adapters").iterdir()))
    assert gateway.admin("GET", "adapters").json()["adapters"] == []


class Engines:
    """Have everything at once."""

    def views(self) -> tuple[EngineState, ...]:
        return ()

    def base(self) -> Base | None:
        return None

    async def bring(self, entry: Entry) -> None: ...

    async def remove(self, version: str) -> None: ...

    def standing(self, version: str) -> list[dict[str, Any]]:
        return []


def live(folder: Path) -> LiveState:
    folder.mkdir(exist_ok=True)
    store = open_store(folder, now=lambda: 1e9)
    return LiveState(
        folder, store, store.read_state(), Workers(), Engines(), with_keys=True, now=lambda: 1e9, rollback_seconds=1
    )


def test_a_change_that_is_cut_short_is_on_the_disk_and_in_memory_or_in_neither(tmp_path: Path) -> None:
    key = KeyRecord(id="k", digest="0" * 64, role=Role.APP)

    async def run() -> tuple[Desired, Desired]:
        state = live(tmp_path)
        changing = asyncio.create_task(state.change(msgspec.structs.replace(state.desired, keys=(key,))))
        await asyncio.sleep(0)  # the thread that writes has begun
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        await asyncio.get_running_loop().shutdown_default_executor()  # what nobody waits for any more, too, is over
        return state.desired, state.store.read_state()

    for _ in range(5):
        in_memory, on_disk = asyncio.run(run())
        assert in_memory == on_disk


def test_a_registration_that_is_cut_short_while_it_copies_leaves_no_folder(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")

    async def run() -> None:
        state = live(tmp_path / "state")
        intake = Intake(state.folder, IntakeRules(), lambda: None)
        adapters = AdapterOperations(
            state, intake, FingerprintStore(state.store), tmp_path / "state" / "adapters", most_rank=8
        )

        def stop_at_copy(stage: str, done: int = 0, total: int | None = None) -> None:
            if stage == "copy":
                adding.cancel()

        order = Registration(name="a", by="test")
        adding = asyncio.create_task(adapters.add(str(folder), order, any_local=True, progress=stop_at_copy))
        with pytest.raises(asyncio.CancelledError):
            await adding
        await asyncio.get_running_loop().shutdown_default_executor()  # what nobody waits for any more, too, is over

    asyncio.run(run())
    assert list((tmp_path / "state" / "adapters").iterdir()) == []


# What the command line cannot say in JSON or in a path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("scale", "a", "nan", "--name", "b"), "give a finite number"),
        (("fuse", "a=1e999", "--name", "b"), "give a finite number"),
        (("scale", "a", "2", "--notes", "\udcff"), "notes"),
        (("rm", "a?x"), "`a?x`"),
        (("rm", ""), "is no name"),
        (("rm", "../keys/x"), "Not Found"),
    ],
)
def test_what_the_command_line_cannot_pass_on_is_refused_in_words(
    gateway: RunningGateway, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    add(gateway, write_adapter(tmp_path / "a"), "a")
    said = gateway.cli("adapters", *arguments, expect=2)
    assert said.startswith("error: ")
    assert told in said
    assert [each["name"] for each in gateway.admin("GET", "adapters").json()["adapters"]] == ["a"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("scale", b'{"version":"a","factor":1,"name":"\\ud800"}'),
        ("scale", b'{"version":"\\ud800","factor":1,"name":"b"}'),
        ("scale", b'{"version":"a","factor":2,"notes":"\\ud800"}'),
        ("scale", b'{"version":"a","factor":2,"notes":"%s"}' % (b"x" * 20_000)),
    ],
)
@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson"])
def test_half_a_character_and_a_book_are_refused_in_words(
    gateway: RunningGateway, tmp_path: Path, path: str, body: bytes, accept: str
) -> None:
    add(gateway, write_adapter(tmp_path / "a"), "a")
    transport = httpx.HTTPTransport(uds=str(gateway.state / "control.sock"), verify=False)
    with httpx.Client(transport=transport) as client:
        headers = {"content-type": "application/json", "accept": accept}
        reply = client.post(f"http://control/admin/v1/adapters/{path}", content=body, headers=headers)
    error = reply.json()
    assert error.get("status", reply.status_code) in (400, 404)
    assert error["error"]["message"]
