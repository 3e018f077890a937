"""Adapters come, go, split and come back, while the gateway serves."""

import json
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.artifact import InvalidArtifact, read_manifest
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import CONFIG, safetensors, tensors_of, write_adapter
from tests.support.gateways import RunningGateway

MESSAGES = [{"role": "user", "content": "hi"}]
CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _nothing_is_left(gateway: RunningGateway, engine: FakeEngine) -> Iterator[None]:
    """Every test begins without adapters, and none leaves a folder or a loaded version behind."""
    yield
    for route in gateway.admin("GET", "routes").json()["routes"]:
        gateway.admin("PUT", f"routes/{route['alias']}/split", {})
    for name in {each["name"] for each in gateway.admin("GET", "adapters").json()["adapters"]}:
        assert gateway.admin("DELETE", f"adapters/{name}").status_code == 200
    assert engine.adapters == {}
    assert copies(gateway) == []


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=20, verify=False) as client:
        yield client


def add(gateway: RunningGateway, folder: Path, name: str = "support") -> str:
    reply = gateway.admin("POST", "adapters", {"path": str(folder), "name": name})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["version"])


def ask(client: httpx.Client, model: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", None)
    return client.post("/v1/chat/completions", json={"model": model, "messages": MESSAGES, **more}, headers=headers)


def served(client: httpx.Client, model: str, **more: Any) -> str:
    reply = ask(client, model, **more)
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == reply.headers["x-loragate-version"]
    return reply.headers["x-loragate-version"]


def copies(gateway: RunningGateway) -> list[str]:
    folder = gateway.state / "adapters"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# Life through the command line


def test_the_command_line_adds_lists_shows_and_removes(
    gateway: RunningGateway, engine: FakeEngine, client: httpx.Client, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "support")
    digest = read_manifest(folder).digest
    version = f"support@{digest[:12]}"
    added = gateway.cli("adapters", "add", str(folder), "--name", "support", "--notes", "first", "--json")
    assert (added["version"], added["digest"], added["state"]) == (version, digest, "ready")
    assert (added["rank"], added["alpha"], added["target_modules"]) == (4, 8.0, ["q_proj", "v_proj"])
    assert (added["notes"], added["serves"], added["created_by"]) == ("first", ["support"], "local")
    assert list(engine.adapters) == [version], "the engine knows it by its full name"
    assert engine.adapters[version] == str(gateway.state / "adapters" / digest), "and reads the registry's own copy"
    assert gateway.cli("adapters", "ls", "--json") == [added]
    assert version in gateway.cli("adapters", "ls")
    shown = gateway.cli("adapters", "show", "support", "--json")
    (on,) = shown.pop("engines")
    assert shown == added
    assert (on["url"], on["ready"], on["reason"]) == (engine.url, True, None)
    assert on["fingerprint"]["verdict"] == "ok"
    assert gateway.cli("adapters", "show", version[:14], "--json")["digest"] == digest
    assert digest in gateway.cli("adapters", "show", "support")
    assert version in gateway.cli("routes", "ls")
    assert served(client, "support") == version
    assert gateway.cli("adapters", "rm", "support", "--json") == {"removed": [version]}
    assert ask(client, "support").status_code == 404
    assert "No adapters yet" in gateway.cli("adapters", "ls")
    assert "no adapter is registered as `support`" in gateway.cli("adapters", "rm", "support", expect=2)
    assert "no adapter is registered as `support`" in gateway.cli("adapters", "show", "support", expect=2)


def test_an_alias_flips_to_the_newest_and_the_old_stays_within_reach(
    gateway: RunningGateway, client: httpx.Client, tmp_path: Path
) -> None:
    first = add(gateway, write_adapter(tmp_path / "1", 1))
    second = add(gateway, write_adapter(tmp_path / "2", 2))
    assert first != second
    assert served(client, "support") == second
    assert served(client, first) == first
    digits = first.partition("@")[2]
    for length in (6, 9, 12):
        reply = ask(client, f"support@{digits[:length]}")
        assert reply.headers["x-loragate-version"] == first
        assert reply.headers["x-loragate-route-reason"] == "pin"
    assert ask(client, f"support@{digits[:5]}").status_code == 404
    assert ask(client, "support@").status_code == 404
    assert ask(client, f"other@{digits}").status_code == 404
    third = add(gateway, tmp_path / "1")
    assert third == first, "going back is adding the old content again"
    assert served(client, "support") == first


def test_a_pin_that_may_mean_two_versions_is_refused(
    gateway: RunningGateway, client: httpx.Client, tmp_path: Path
) -> None:
    digits = "476344"  # found by trying: the digests of these two begin alike
    module = "base_model.model.layers.0.q_proj"
    folders = [
        write_adapter(
            tmp_path / str(number),
            tensors={
                f"{module}.lora_A.weight": ("F32", [4, 1], struct.pack("<4f", number, 1, 1, 1)),
                f"{module}.lora_B.weight": ("F32", [1, 4], struct.pack("<4f", 1, 1, 1, 1)),
            },
        )
        for number in (1704, 1798)
    ]
    assert [read_manifest(folder).digest[:6] for folder in folders] == [digits] * 2
    versions = {add(gateway, folder) for folder in folders}
    reply = ask(client, f"support@{digits}")
    assert reply.status_code == 404
    assert all(version in reply.json()["error"]["message"] for version in versions)
    assert "not unique" in gateway.admin("GET", f"adapters/support@{digits}").json()["error"]["message"]
    assert {served(client, version) for version in versions} == versions


def test_a_version_in_use_is_not_removed(gateway: RunningGateway, client: httpx.Client, tmp_path: Path) -> None:
    first = add(gateway, write_adapter(tmp_path / "1", 1))
    second = add(gateway, write_adapter(tmp_path / "2", 2))
    refused = gateway.admin("DELETE", f"adapters/{second}")
    assert refused.status_code == 409
    assert "serves" in refused.json()["error"]["message"]
    gateway.admin("PUT", "routes/support/split", {"candidate": first, "weight": 0})
    assert gateway.admin("DELETE", f"adapters/{first}").status_code == 409, "a candidate is in use too"
    gateway.admin("PUT", "routes/support/split", {})
    assert gateway.admin("DELETE", f"adapters/{first}").json() == {"removed": [first]}
    assert ask(client, first).status_code == 404
    assert served(client, "support") == second


@pytest.mark.parametrize("name", ["support@", "support@ab", "support@zzzzzz", "@abcdef", "no one", "%20"])
def test_a_version_that_is_not_written_as_one_removes_nothing(
    gateway: RunningGateway, tmp_path: Path, name: str
) -> None:
    version = add(gateway, write_adapter(tmp_path / "1"))
    assert gateway.admin("DELETE", f"adapters/{name}").status_code in (400, 404)
    assert [each["version"] for each in gateway.admin("GET", "adapters").json()["adapters"]] == [version]


def test_an_alias_whose_version_another_alias_tries_is_not_removed(
    gateway: RunningGateway, client: httpx.Client, tmp_path: Path
) -> None:
    add(gateway, write_adapter(tmp_path / "1", 1), "legal")
    other = add(gateway, write_adapter(tmp_path / "2", 2), "support")
    gateway.admin("PUT", "routes/legal/split", {"candidate": other, "weight": 10_000})
    assert served(client, "legal") == other
    refused = gateway.admin("DELETE", "adapters/support")
    assert refused.status_code == 409
    assert "candidate of `legal`" in refused.json()["error"]["message"]


def test_the_same_content_under_two_names_is_stored_once_and_kept_while_one_needs_it(
    gateway: RunningGateway, client: httpx.Client, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "1")
    add(gateway, folder, "support")
    legal = add(gateway, folder, "legal")
    assert len(copies(gateway)) == 1
    gateway.admin("DELETE", "adapters/support")
    assert len(copies(gateway)) == 1
    assert served(client, "legal") == legal


def test_adding_the_same_content_again_changes_nothing(
    gateway: RunningGateway, engine: FakeEngine, client: httpx.Client, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "1")
    version = add(gateway, folder)
    assert add(gateway, folder) == version
    assert add(gateway, write_adapter(tmp_path / "elsewhere")) == version
    assert len(gateway.admin("GET", "adapters").json()["adapters"]) == 1
    assert list(engine.adapters) == [version]
    assert served(client, "support") == version


def test_what_happens_to_the_source_folder_does_not_matter(
    gateway: RunningGateway, client: httpx.Client, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "1")
    version = add(gateway, folder)
    (folder / TENSORS_FILE).write_bytes(b"gone")
    assert read_manifest(gateway.state / "adapters" / copies(gateway)[0]).digest.startswith(version[8:])
    assert served(client, "support") == version


# Refusals


@pytest.mark.parametrize("name", ["base", "auto", "", "a b", "a/b", "../a", "-a", "x" * 65, "a@b", "ä"])
def test_a_name_that_cannot_be_one_is_refused(gateway: RunningGateway, tmp_path: Path, name: str) -> None:
    reply = gateway.admin("POST", "adapters", {"path": str(write_adapter(tmp_path / "1")), "name": name})
    assert reply.status_code == (409 if name == "base" else 400)
    assert f"`{name}`" in reply.json()["error"]["message"]


def with_config(**config: Any) -> Callable[[Path], object]:
    return lambda folder: write_adapter(folder, **config)


def with_tensors(content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / TENSORS_FILE).write_bytes(content((folder / TENSORS_FILE).read_bytes()))


def header(table: object) -> bytes:
    packed = json.dumps(table).encode()
    return len(packed).to_bytes(8, "little") + packed


def pickled(folder: Path) -> None:
    (folder / TENSORS_FILE).rename(folder / "adapter_model.bin")


# Every rule has its own test in tests/unit/test_verify.py; here, that refusals reach the operator and leave nothing.
BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no config": (lambda folder: (folder / CONFIG_FILE).unlink(), "invalid_source", "adapter_config.json"),
    "no tensors": (lambda folder: (folder / TENSORS_FILE).unlink(), "invalid_source", "adapter_model.safetensors"),
    "a pickle": (pickled, "invalid_source", "pickle"),
    "config that is not JSON": (lambda folder: (folder / CONFIG_FILE).write_text("{"), "invalid_adapter", "JSON"),
    "config nested too deeply": (
        lambda folder: (folder / CONFIG_FILE).write_text("[" * 100_000),
        "invalid_adapter",
        "deep",
    ),
    "another kind": (with_config(peft_type="IA3"), "invalid_adapter", "IA3"),
    "a rank of zero": (with_config(r=0), "invalid_adapter", "r: "),
    "a rank beyond the engine's": (with_config(r=64), "invalid_adapter", "16"),
    "half a character": (with_config(base_model_name_or_path="\ud800"), "invalid_adapter", "Unicode"),
    "tensors cut short": (with_tensors(lambda content: content[:-1]), "invalid_adapter", "cut short"),
    "a pickle in disguise": (with_tensors(lambda _: b"\x80\x04 renamed, no more"), "invalid_adapter", "pickle"),
    "bytes after the last tensor": (with_tensors(lambda content: content + b"x"), "invalid_adapter", "last tensor"),
    "no tensor at all": (with_tensors(lambda _: header({})), "invalid_adapter", "no tensors"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_folder_that_holds_no_adapter_is_refused(gateway: RunningGateway, tmp_path: Path, what: str) -> None:
    spoil, code, expected = BAD[what]
    folder = write_adapter(tmp_path / "1")
    spoil(folder)
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": "support"})
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["code"] == code
    assert expected in reply.json()["error"]["message"]
    assert copies(gateway) == []
    assert gateway.admin("GET", "adapters").json()["adapters"] == []
    assert gateway.admin("GET", "routes").json()["routes"] == []


def test_every_problem_is_told_at_once(gateway: RunningGateway, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "1", r=64, use_dora=True, bias="all", lora_alpha=-1)
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": "support"})
    problems = [each for each in reply.json()["error"]["problems"] if each["severity"] == "error"]
    assert len({each["code"] for each in problems}) >= 4
    assert all(each["message"] and each["remedy"] for each in problems)
    told = gateway.cli("adapters", "add", str(folder), "--name", "support", expect=2)
    assert all(each["code"] in told for each in problems)


def test_a_path_that_is_no_folder_is_refused(gateway: RunningGateway, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", "/dev/null", "", "x\0y"):
        reply = gateway.admin("POST", "adapters", {"path": str(path), "name": "support"})
        assert reply.status_code in (400, 403, 422), (path, reply.text)
    assert "neither a folder" in gateway.cli("adapters", "add", str(tmp_path / "nowhere"), "--name", "a", expect=2)


def test_the_command_line_tells_a_refusal_in_one_line(gateway: RunningGateway, tmp_path: Path) -> None:
    told = gateway.cli("adapters", "add", str(tmp_path), "--name", "support", expect=2)
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1


def test_an_engine_that_refuses_leaves_the_alias_as_it_was(
    gateway: RunningGateway, engine: FakeEngine, client: httpx.Client, tmp_path: Path
) -> None:
    engine.fail_next_loads(1)
    refused = gateway.admin("POST", "adapters", {"path": str(write_adapter(tmp_path / "1", 1)), "name": "support"})
    assert refused.status_code == 422
    assert refused.json()["error"]["code"] == "load_refused"
    assert "told to fail to load" in refused.json()["error"]["message"]
    assert copies(gateway) == []
    assert ask(client, "support").status_code == 404
    first = add(gateway, tmp_path / "1")
    engine.fail_next_loads(1)
    assert (
        gateway.admin(
            "POST", "adapters", {"path": str(write_adapter(tmp_path / "2", 2)), "name": "support"}
        ).status_code
        == 422
    )
    assert len(copies(gateway)) == 1
    assert served(client, "support") == first
    assert list(engine.adapters) == [first]


def test_one_of_two_engines_refusing_leaves_nothing_on_the_other(tmp_path: Path) -> None:
    with FakeEngine() as one, FakeEngine() as other, RunningGateway(one.url, other.url) as gateway:
        other.fail_next_loads(1)
        body = {"path": str(write_adapter(tmp_path / "1")), "name": "support"}
        assert gateway.admin("POST", "adapters", body).status_code == 422
        assert one.adapters == other.adapters == {}
        version = add(gateway, tmp_path / "1")
        assert list(one.adapters) == list(other.adapters) == [version]


def test_no_engine_means_no_adapter(tmp_path: Path) -> None:
    with RunningGateway("http://127.0.0.1:9") as gateway:
        body = {"path": str(write_adapter(tmp_path / "1")), "name": "support"}
        reply = gateway.admin("POST", "adapters", body)
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "engine_unavailable"
        assert copies(gateway) == []


# Restarts


def test_an_engine_that_restarts_empty_gets_its_adapters_back(tmp_path: Path) -> None:
    with FakeEngine() as engine, RunningGateway(engine.url) as gateway:
        versions = {add(gateway, write_adapter(tmp_path / str(seed), seed), f"a{seed}") for seed in range(3)}
        engine.kill()
        gateway.wait_for_engine(up=False)
        engine.core.adapters.clear()
        engine.start()
        gateway.wait_until(lambda status: set(status["engines"][0]["versions"]) == versions)
        assert set(engine.adapters) == versions
        with httpx.Client(base_url=gateway.url, headers=gateway.headers, verify=False) as client:
            assert served(client, "a1").startswith("a1@")


def test_an_engine_that_forgets_without_going_away_gets_them_back(
    gateway: RunningGateway, engine: FakeEngine, client: httpx.Client, tmp_path: Path
) -> None:
    version = add(gateway, write_adapter(tmp_path / "1"))
    engine.core.adapters.clear()
    assert engine.wait_for(lambda engine: list(engine.adapters) == [version])
    gateway.wait_until(lambda status: status["engines"][0]["versions"] == [version])
    assert served(client, "support") == version


def test_a_restarted_gateway_keeps_everything(tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    with FakeEngine() as engine, RunningGateway(engine.url, state=state) as gateway:
        first = add(gateway, write_adapter(tmp_path / "1", 1))
        second = add(gateway, write_adapter(tmp_path / "2", 2))
        gateway.admin("PUT", "routes/support/split", {"candidate": first, "weight": 2500})
        before = [gateway.admin("GET", path).json() for path in ("adapters", "routes", "keys")]
        with httpx.Client(base_url=gateway.url, headers=gateway.headers, verify=False) as client:
            arms = [served(client, "support", user=f"user-{number}") for number in range(30)]
        assert set(arms) == {first, second}
        assert gateway.stop() == 0
        engine.core.adapters.clear()
        gateway.start()
        gateway.wait_until(lambda status: len(status["engines"][0]["versions"]) == 2)
        assert [gateway.admin("GET", path).json() for path in ("adapters", "routes", "keys")] == before
        with httpx.Client(base_url=gateway.url, headers=gateway.headers, verify=False) as client:
            assert [served(client, "support", user=f"user-{number}") for number in range(30)] == arms


def test_adapters_come_and_go_under_load_without_a_failed_request(gateway: RunningGateway, tmp_path: Path) -> None:
    add(gateway, write_adapter(tmp_path / "0", 0), "steady")
    add(gateway, tmp_path / "0", "moving")
    outcomes: Counter[tuple[int, str]] = Counter()
    versions: set[str] = set()
    is_over = threading.Event()

    def send(model: str, stream: bool) -> None:
        with httpx.Client(base_url=gateway.url, headers=gateway.headers, timeout=20, verify=False) as client:
            while not is_over.is_set():
                reply = ask(client, model, stream=stream, fake={"events": 4, "cadence_ms": 2})
                is_whole = not stream or reply.text.endswith("data: [DONE]\n\n")
                outcomes[reply.status_code, "whole" if is_whole and "error" not in reply.text else reply.text] += 1
                if model == "moving":
                    versions.add(reply.headers["x-loragate-version"])

    threads = [
        threading.Thread(target=send, args=(model, stream))
        for model in ("steady", "moving", "base")
        for stream in (False, True)
    ]
    for thread in threads:
        thread.start()
    try:
        old = ""
        for seed in range(1, 21):
            version = add(gateway, write_adapter(tmp_path / str(seed), seed), "moving")
            if old:
                assert gateway.admin("DELETE", f"adapters/{old}").status_code == 200
            old = version
            passing = add(gateway, tmp_path / str(seed), "passing")
            assert passing.startswith("passing@")
            assert gateway.admin("DELETE", "adapters/passing").status_code == 200
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(outcomes) == {(200, "whole")}, outcomes
    assert outcomes[200, "whole"] > 100
    assert len(versions) > 10


# What the digest covers


def digest_of(folder: Path) -> str:
    return read_manifest(folder).digest


def test_the_digest_is_of_content_not_of_form(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "1", 1)
    plain = digest_of(folder)
    backwards = dict(reversed(tensors_of(1).items()))
    (folder / TENSORS_FILE).write_bytes(safetensors(backwards, metadata={"format": "pt", "by": "someone"}))
    assert digest_of(folder) == plain, "another order of tensors, other metadata"
    shuffled = {
        **dict(reversed(CONFIG.items())),
        "lora_alpha": 8.0,
        "target_modules": ["v_proj", "q_proj"],
        "inference_mode": False,
        "peft_version": "9",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(shuffled, indent=7, ensure_ascii=False))
    assert digest_of(folder) == plain, "another formatting, and fields that say how it was saved"


def test_the_digest_is_the_safetensors_librarys_too(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy", reason="the dev extra has it")
    from safetensors.numpy import save_file

    folder = write_adapter(tmp_path / "1", 1)
    plain = digest_of(folder)
    arrays = {
        name: numpy.frombuffer(content, dtype="float16").reshape(shape)
        for name, (_, shape, content) in tensors_of(1).items()
    }
    save_file(arrays, folder / TENSORS_FILE, metadata={"format": "pt"})
    assert digest_of(folder) == plain


@pytest.mark.parametrize("bit", [0, 64 * 8, 4 * 64 * 8 - 1])
def test_one_flipped_bit_changes_the_digest(tmp_path: Path, bit: int) -> None:
    folder = write_adapter(tmp_path / "1")
    plain = digest_of(folder)
    content = bytearray((folder / TENSORS_FILE).read_bytes())
    content[len(content) - 4 * 64 + bit // 8] ^= 1 << bit % 8
    (folder / TENSORS_FILE).write_bytes(content)
    assert digest_of(folder) != plain


@pytest.mark.parametrize("change", [{"r": 8}, {"lora_alpha": 9}, {"target_modules": ["q_proj"]}, {"use_rslora": True}])
def test_a_config_that_computes_otherwise_changes_the_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest_of(write_adapter(tmp_path / "1")) != digest_of(write_adapter(tmp_path / "2", **change))


def test_names_and_shapes_are_content(tmp_path: Path) -> None:
    tensors = tensors_of(1)
    plain = digest_of(write_adapter(tmp_path / "1", tensors=tensors))
    renamed = {name.replace("q_proj", "k_proj"): value for name, value in tensors.items()}
    assert digest_of(write_adapter(tmp_path / "2", tensors=renamed)) != plain
    turned = {name: (dtype, shape[::-1], content) for name, (dtype, shape, content) in tensors.items()}
    assert digest_of(write_adapter(tmp_path / "3", tensors=turned)) != plain
    retyped = {name: ("BF16", shape, content) for name, (_, shape, content) in tensors.items()}
    assert digest_of(write_adapter(tmp_path / "4", tensors=retyped)) != plain


def test_a_folder_that_does_not_exist_is_an_invalid_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="not a folder"):
        read_manifest(tmp_path / "nowhere")


# Splits


@pytest.fixture
def split(gateway: RunningGateway, tmp_path: Path) -> Callable[[int], tuple[str, str]]:
    candidate = add(gateway, write_adapter(tmp_path / "1", 1))
    control = add(gateway, write_adapter(tmp_path / "2", 2))

    def set_weight(weight: int) -> tuple[str, str]:
        reply = gateway.admin("PUT", "routes/support/split", {"candidate": candidate, "weight": weight})
        assert reply.status_code == 200, reply.text
        return control, candidate

    return set_weight


def test_the_candidates_share_is_near_its_weight(client: httpx.Client, split: Callable[[int], Any]) -> None:
    for weight in (0, 1_000, 10_000):
        control, candidate = split(weight)
        counts = Counter(served(client, "support", user=f"user-{number}") for number in range(500))
        expected = weight / 10_000 * 500
        assert counts[control] + counts[candidate] == 500
        assert abs(counts[candidate] - expected) <= (28 if 0 < weight < 10_000 else 0)  # 4 standard deviations


@pytest.mark.parametrize(
    "sent",
    [
        lambda unit: {"headers": {"x-loragate-unit": unit}},
        lambda unit: {"safety_identifier": unit},
        lambda unit: {"user": unit},
        lambda unit: {"prompt_cache_key": unit},
        lambda unit: {"headers": {"x-loragate-unit": unit}, "user": "another"},
    ],
)
def test_a_unit_keeps_its_arm_however_it_is_named(
    client: httpx.Client, split: Callable[[int], Any], sent: Callable[[str], dict[str, Any]]
) -> None:
    split(5_000)
    units = [f"unit-{number}" for number in range(12)]
    arms = [[served(client, "support", **sent(unit)) for _ in range(3)] for unit in units]
    assert all(len(set(each)) == 1 for each in arms)
    assert len({each[0] for each in arms}) == 2
    assert [each[0] for each in arms] == [served(client, "support", user=unit) for unit in units]


def test_without_a_name_the_key_is_the_unit(gateway: RunningGateway, split: Callable[[int], Any]) -> None:
    split(5_000)
    seen: set[str] = set()
    for _ in range(14):
        headers = {"authorization": f"Bearer {gateway.create_key()}"}
        with httpx.Client(base_url=gateway.url, headers=headers, verify=False) as client:
            arms = {served(client, "support") for _ in range(3)}
            assert len(arms) == 1
            seen |= arms
    assert len(seen) == 2


def test_raising_the_weight_only_moves_units_to_the_candidate(
    client: httpx.Client, split: Callable[[int], Any]
) -> None:
    before: set[int] = set()
    for weight in (500, 2_000, 6_000):
        _, candidate = split(weight)
        now = {number for number in range(150) if served(client, "support", user=f"user-{number}") == candidate}
        assert before <= now
        before = now


def test_a_split_is_set_listed_and_ended_on_the_command_line(
    gateway: RunningGateway, client: httpx.Client, split: Callable[[int], Any]
) -> None:
    control, candidate = split(0)
    told = gateway.cli("routes", "split", "support", "--candidate", candidate[:14], "--weight", "10000", "--json")
    assert (told["control"], told["candidate"], told["weight"]) == (control, candidate, 10_000)
    reply = ask(client, "support")
    assert reply.headers["x-loragate-arm"] == "candidate"
    assert reply.headers["x-loragate-version"] == candidate
    assert "100 %" in gateway.cli("routes", "ls")
    assert "all to" in gateway.cli("routes", "split", "support")
    assert served(client, "support") == control
    gateway.cli("routes", "split", "support", "--candidate", candidate, "--weight", "10001", expect=2)


@pytest.mark.parametrize(
    ("alias", "body", "status"),
    [
        ("nobody", {}, 404),
        ("support", {"candidate": "support@ffffffffffff"}, 404),
        ("support", {"candidate": "x"}, 400),
        ("support", {"weight": -1}, 400),
        ("support", {"wait": 1}, 400),
    ],
)
def test_a_split_that_cannot_be_is_refused(
    gateway: RunningGateway, split: Callable[[int], Any], alias: str, body: dict[str, Any], status: int
) -> None:
    assert gateway.admin("PUT", f"routes/{alias}/split", body).status_code == status


def test_a_candidate_that_no_engine_has_gives_way_to_control(
    client: httpx.Client, gateway: RunningGateway, engine: FakeEngine, split: Callable[[int], Any]
) -> None:
    control, candidate = split(10_000)
    engine.core.load_failures.extend([500] * 50)  # longer than the test looks
    try:
        del engine.core.adapters[candidate]
        gateway.wait_until(lambda status: candidate not in status["engines"][0]["versions"])
        reply = ask(client, "support")
        assert reply.headers["x-loragate-version"] == control
        assert reply.headers["x-loragate-route-reason"] == "fallback:version_not_ready"
        status = gateway.status()["engines"][0]
        assert candidate in status["failed"]
        assert "told to fail" in status["failed"][candidate]
        assert candidate in gateway.cli("status")
    finally:
        engine.core.load_failures.clear()
