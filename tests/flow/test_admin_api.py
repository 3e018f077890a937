"""The admin API as clients meet it: pages, repeats, and a description that holds."""

import concurrent.futures
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from gateway.admin.idempotent import SHOW_A_KEY
from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.control_plane import control_plane
from tests.support.gateways import RunningGateway

KEYS = "/admin/v1/keys"
# Each with the parameter that takes `next`, and where the entries stand.
LISTS = {
    "adapters": ("after", "adapters"),
    "keys": ("after", "keys"),
    "routes": ("after", "routes"),
    "rollouts": ("before", "rollouts"),
    "rollouts?alias=a0": ("before", "rollouts"),
    "journal": ("after", "entries"),
    "journal?alias=a0": ("after", "entries"),
    "routes/a0/history": ("before", "versions"),
}


@pytest.fixture(scope="module")
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {gateway.create_key('admin')}"}
    with httpx.Client(base_url=gateway.control_url, headers=headers, verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def versions(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two versions of `support`; and aliases `a0` to `a4` for the first, each with rollouts that are over."""
    folder = tmp_path_factory.mktemp("adapters")
    found = []
    for seed in (1, 2):
        body = {"source": str(adapter_folder(folder / str(seed), seed)), "name": "support"}
        reply = gateway.admin("POST", "adapters", body)
        assert reply.status_code == 201, reply.text
        found.append(str(reply.json()["version"]))
    for count in (3, 5):
        routes = [{"alias": f"a{number}", "control": found[0], "notes": str(count)} for number in range(count)]
        assert gateway.admin("PUT", "routes", {"routes": routes}).status_code == 200
    for _ in range(4):
        new = {"candidate": found[1], "reason": "try", "plan": {"gates": ["manual"], "steps": [{"weight": "1%"}]}}
        assert gateway.admin("POST", "routes/a0/rollout", new).status_code == 201
        assert gateway.admin("POST", "rollouts/a0/abort", {"reason": "enough"}).status_code == 200
    return found


def pages(client: httpx.Client, path: str, limit: int) -> list[list[Any]]:
    """All pages of a list, as `next` leads through them."""
    cursor, member = LISTS[path]
    found: list[list[Any]] = []
    parameters: dict[str, Any] = {"limit": limit}
    while True:
        reply = client.get(httpx.URL(f"/admin/v1/{path}").copy_merge_params(parameters))
        assert reply.status_code == 200, reply.text
        found.append(reply.json()[member])
        if reply.json()["next"] is None:
            return found
        parameters[cursor] = reply.json()["next"]


@pytest.mark.parametrize("path", LISTS)
def test_pages_together_are_the_list(admin: httpx.Client, versions: list[str], path: str) -> None:
    (whole,) = pages(admin, path, 1000)
    assert len(whole) > 1
    for limit in (1, 2, len(whole)):
        found = pages(admin, path, limit)
        assert [each for page in found for each in page] == whole
        assert all(len(page) == limit for page in found[:-1])
        assert found[-1], "the last page is not empty"


def test_a_page_holds_what_was_there_once_whatever_comes_and_goes_meanwhile(admin: httpx.Client) -> None:
    made = [admin.post(KEYS, json={"name": f"k{number}"}).json()["id"] for number in range(6)]
    first = admin.get(KEYS, params={"limit": 1000}).json()["keys"]
    at = next(number for number, each in enumerate(first) if each["id"] in made)
    page = admin.get(KEYS, params={"limit": at + 2}).json()
    seen = [each["id"] for each in page["keys"]]
    gone = seen[-1]  # the very key that the cursor stands for
    assert admin.delete(f"{KEYS}/{gone}").status_code == 200
    new = admin.post(KEYS, json={"name": "new"}).json()["id"]
    rest = [each["id"] for each in pages_after(admin, page["next"])]
    assert sorted([*seen, *(each for each in rest if each != new)]) == sorted(each["id"] for each in first)
    for each in {*made, new} - {gone}:
        admin.delete(f"{KEYS}/{each}")


def pages_after(client: httpx.Client, cursor: str | None) -> Iterator[dict[str, Any]]:
    while cursor is not None:
        page = client.get(KEYS, params={"limit": 2, "after": cursor}).json()
        yield from page["keys"]
        cursor = page["next"]


@pytest.mark.parametrize("about", ["", "&alias=a0"])
def test_the_newest_entries_of_the_journal_are_its_last(admin: httpx.Client, versions: list[str], about: str) -> None:
    whole = admin.get(f"/admin/v1/journal?limit=1000{about}").json()["entries"]
    newest = admin.get(f"/admin/v1/journal?limit=3&newest=true{about}").json()
    assert (newest["entries"], newest["next"]) == (whole[-3:], None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "after=x", "after=", "after=1.%20", "after=-1.k"]
)
def test_a_page_that_cannot_be_is_explained(admin: httpx.Client, query: str) -> None:
    reply = admin.get(f"{KEYS}?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in ("invalid_request", "invalid_cursor")


def test_the_command_line_lists_all_pages(gateway: RunningGateway, versions: list[str]) -> None:
    aliases = [f"m{number:04}" for number in range(1010)]
    routes = [{"alias": alias, "control": versions[0]} for alias in aliases]
    assert gateway.admin("PUT", "routes", {"routes": routes}).status_code == 200
    listed = [each["alias"] for each in gateway.cli("routes", "ls", "--json")]
    assert [each for each in listed if each.startswith("m")] == aliases
    kept = [{"alias": f"a{number}", "control": versions[0]} for number in range(5)]
    kept.append({"alias": "support", "control": versions[1]})
    assert gateway.admin("PUT", "routes", {"routes": kept, "prune": True}).status_code == 200


# Repeats


def names(client: httpx.Client, name: str) -> list[str]:
    keys = client.get(KEYS, params={"limit": 1000}).json()["keys"]
    return [each["id"] for each in keys if each["name"] == name]


def split(client: httpx.Client, version: str | None, weight: int, key: str, **headers: str) -> httpx.Response:
    body = {"candidate": version, "weight": weight}
    return client.put("/admin/v1/routes/a1/split", json=body, headers={"idempotency-key": key, **headers})


def test_a_repeat_is_answered_as_the_first_was_and_not_carried_out(admin: httpx.Client, versions: list[str]) -> None:
    first = split(admin, versions[1], 100, "first")
    assert first.status_code == 200
    assert "idempotency-replayed" not in first.headers
    assert split(admin, None, 0, "second").status_code == 200
    again = split(admin, versions[1], 100, "first")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["idempotency-replayed"] == "true"
    assert admin.get("/admin/v1/routes/a1").json()["weight"] == 0


def test_a_key_with_another_request_is_refused(admin: httpx.Client, versions: list[str]) -> None:
    assert split(admin, versions[1], 100, "reused").status_code == 200
    others = (split(admin, versions[1], 200, "reused"), split(admin, versions[1], 100, "reused", **{"if-match": "*"}))
    for other in (*others, admin.delete("/admin/v1/adapters/nothing", headers={"idempotency-key": "reused"})):
        assert other.status_code == 422
        assert other.json()["error"]["code"] == "idempotency_key_reused"


def test_keys_of_different_callers_are_different(
    gateway: RunningGateway, admin: httpx.Client, versions: list[str]
) -> None:
    assert split(admin, versions[1], 300, "shared").status_code == 200
    headers = {"authorization": f"Bearer {gateway.create_key('operator')}"}
    with httpx.Client(base_url=gateway.control_url, headers=headers, verify=False) as other:
        reply = split(other, versions[1], 400, "shared")
    assert (reply.status_code, reply.json()["weight"]) == (200, 400)


def test_a_refusal_is_repeated_too(admin: httpx.Client, versions: list[str]) -> None:
    first = split(admin, versions[1], 5, "refused", **{"if-match": '"1"'})
    assert first.status_code == 412
    again = split(admin, versions[1], 5, "refused", **{"if-match": '"1"'})
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (412, first.json(), "true")


def test_of_a_key_that_was_made_a_repeat_tells_the_id_alone(gateway: RunningGateway, admin: httpx.Client) -> None:
    headers = {"idempotency-key": "make"}
    made = admin.post(KEYS, json={"name": "once"}, headers=headers).json()
    again = admin.post(KEYS, json={"name": "once"}, headers=headers)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "key_was_made"
    assert made["id"] in again.text
    assert names(admin, "once") == [made["id"]]
    rotate = f"{KEYS}/{made['id']}/rotate"
    rotated = admin.post(rotate, json={}, headers=headers | {"idempotency-key": "turn"}).json()
    assert rotated["id"] in admin.post(rotate, json={}, headers={"idempotency-key": "turn"}).json()["error"]["message"]
    stored = b"".join(path.read_bytes() for path in gateway.state.glob("state.db*"))
    assert made["id"].encode() in stored
    assert made["key"].encode() not in stored
    assert rotated["key"].encode() not in stored


def test_every_reply_that_holds_a_key_is_known_to_hold_one() -> None:
    schema = control_plane().openapi()
    holds = {
        f"{method.upper()} {path}"
        for path, item in schema["paths"].items()
        for method, operation in item.items()
        if any("MadeKey" in json.dumps(each) for each in operation["responses"].values())
    }
    assert holds == SHOW_A_KEY
    secrets = {name for name, each in schema["components"]["schemas"].items() if "key" in each.get("properties", {})}
    assert secrets == {"MadeKey"}


def test_many_at_once_with_one_key_make_one(admin: httpx.Client) -> None:
    together = threading.Barrier(8)

    def make(_: int) -> httpx.Response:
        together.wait()
        return admin.post(KEYS, json={"name": "crowd"}, headers={"idempotency-key": "crowd"})

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(make, range(8)))
    assert sorted(each.status_code for each in replies) == [201, *[409] * 7]
    refused = {each.json()["error"]["code"] for each in replies if each.status_code == 409}
    assert refused <= {"idempotency_key_in_use", "key_was_made"}
    assert len(names(admin, "crowd")) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "é"])
def test_what_is_no_idempotency_key_is_refused(admin: httpx.Client, key: str) -> None:
    reply = admin.post(KEYS, json={"name": "odd"}, headers={b"idempotency-key": key.encode()})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_idempotency_key"
    assert names(admin, "odd") == []


def test_a_reply_told_bit_by_bit_takes_no_idempotency_key(admin: httpx.Client, versions: list[str]) -> None:
    headers = {"idempotency-key": "stream", "accept": "application/x-ndjson"}
    body = {"version": versions[0], "factor": 0.5, "name": "soft"}
    reply = admin.post("/admin/v1/adapters/scale", json=body, headers=headers)
    assert reply.status_code == 400
    assert "leave out" in reply.json()["error"]["message"]


def test_reading_takes_no_notice_of_an_idempotency_key(admin: httpx.Client) -> None:
    for _ in range(2):
        reply = admin.get(KEYS, headers={"idempotency-key": "crowd"})
        assert reply.status_code == 200
        assert "idempotency-replayed" not in reply.headers


# The description


def test_the_description_is_complete_enough_for_a_client() -> None:
    schema = control_plane().openapi()
    operations = {f"{method} {path}": each for path, item in schema["paths"].items() for method, each in item.items()}
    ids = [each["operationId"] for each in operations.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)+", each) for each in ids)
    known = {tag["name"] for tag in schema["tags"]}
    for name, each in operations.items():
        assert each["summary"], name
        assert each["description"], name
        assert set(each["tags"]) <= known, name
        for status, response in each["responses"].items():
            for media, content in response["content"].items():
                is_model = "$ref" in content["schema"]
                assert is_model or media in ("text/plain", "application/x-ndjson"), (name, status)
        if "security" not in each:
            assert {"401", "403", "500", "503"} <= set(each["responses"]), name
            assert each["x-role"] in ("viewer", "operator", "admin")
    referred = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)))
    assert referred == set(schema["components"]["schemas"])


def test_the_description_is_openapi() -> None:
    from schemathesis.specs.openapi import definitions  # its copy of the specification's own schema

    schema = control_plane().openapi()
    assert [error.message for error in definitions.OPENAPI_31_VALIDATOR.iter_errors(schema)] == []
    assert list(definitions.OPENAPI_31_VALIDATOR.iter_errors(schema | {"paths": []})) != []
    for name, each in schema["components"]["schemas"].items():
        jsonschema_rs.meta.validate(each)
        assert each.get("description") or "enum" in each, name


# What clients cannot know before: whether a version is registered, or the state at that version.
CONFIG = """\
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 412, 422]
"""
# Run apart from what lists keys: else they would sooner or later revoke the key that the run itself uses.
ENDS_KEYS = ("revoke_key", "rotate_key")


def schemathesis(gateway: RunningGateway, folder: Path, *options: str) -> tuple[int, str]:
    """Let schemathesis try the admin API; returns its exit code and what it says."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    key = gateway.create_key("admin")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "--config-file",
            str(config),
            "run",
            f"{gateway.control_url}/admin/openapi.json",
            "-H",
            f"Authorization: Bearer {key}",
            "--checks",
            "all",
            "--no-color",
            "--continue-on-failure",
            "--seed",
            "5",
            *options,
        ],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        cwd=folder,
    )
    headers = {"authorization": f"Bearer {key}"}
    still = httpx.get(gateway.control_url + KEYS, headers=headers, verify=False).status_code
    assert still == 200, "the run has lost its own key, so it has tried little"
    return done.returncode, done.stdout + done.stderr


def test_examples_of_the_description_are_answered_as_described(
    gateway: RunningGateway, versions: list[str], tmp_path: Path
) -> None:
    code, told = schemathesis(gateway, tmp_path, "--phases", "examples")
    assert code == 0, told
    tested = re.search(r"Tested: (\d+)", told)
    assert tested is not None, told
    assert int(tested[1]) > 20, told


@pytest.mark.simulation
@pytest.mark.parametrize("examples", [15, pytest.param(40, marks=pytest.mark.story)])
@pytest.mark.parametrize("side", ["--exclude-operation-id", "--include-operation-id"])
def test_whatever_is_sent_is_answered_as_described(
    engine: FakeEngine, versions: list[str], gateway: RunningGateway, tmp_path: Path, side: str, examples: int
) -> None:
    which = [text for name in ENDS_KEYS for text in (side, name)]
    began = time.monotonic()
    code, told = schemathesis(
        gateway, tmp_path, "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), *which
    )
    print(told[-2000:], f"{time.monotonic() - began:.0f} s")
    assert code == 0, told
    log = gateway.log_path.read_text()
    assert "Traceback" not in log, log[-3000:]
