"""Deny by default, roles, revocation; and what of a key lies on disk."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.decide.authenticate import Principal, Role, caller_of, digest_of
from gateway.errors import Unauthenticated
from tests.fakes.engine import FakeEngine
from tests.support.forked_command import OWN_COMMAND, run_forked
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

# One for all: each new client would read all certificates of the machine first.
HTTP = httpx.Client(verify=False)
BODY: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("path", ["/", "/admin", "/nothing", "/metrics/", "/healthz/../admin/v1/keys", "//healthz"])
def test_an_unknown_admin_path_asks_for_a_key_too(gateway: RunningGateway, path: str) -> None:
    assert raw_status(gateway.control_url, path) in (401, 404)


@pytest.mark.parametrize("host", ["x/healthz?", "x/metrics#", "x/healthz", "/healthz?"])
def test_a_host_header_does_not_open_the_admin_api(gateway: RunningGateway, host: str) -> None:
    assert raw_status(gateway.control_url, "/admin/v1/keys", host) in (400, 401)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/embeddings"),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/base"),
        ("GET", "/tokenizer_info"),
        ("POST", "/m/base/v1/chat/completions"),
    ],
)
def test_every_app_path_asks_for_a_key(gateway: RunningGateway, engine: FakeEngine, method: str, path: str) -> None:
    before = len(engine.generations)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"authorization": gateway.key[:-1]}):
        reply = HTTP.request(method, gateway.url + path, json=BODY if method == "POST" else None, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
    assert len(engine.generations) == before


def test_the_engines_own_paths_are_not_served(gateway: RunningGateway) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/invocations", "/fake/knobs", "/metrics"):
        assert HTTP.post(gateway.url + path, json=BODY, headers=gateway.headers).status_code == 404


def test_only_health_needs_no_key_on_the_app_port(gateway: RunningGateway) -> None:
    assert HTTP.get(gateway.url + "/healthz").status_code == 200
    assert HTTP.get(gateway.url + "/readyz").status_code == 404


@pytest.mark.parametrize(("role", "status"), [("app", 403), ("app:pin", 403), ("viewer", 200), ("operator", 200)])
def test_a_key_for_applications_does_not_open_the_admin_api(gateway: RunningGateway, role: str, status: int) -> None:
    headers = {"authorization": f"Bearer {gateway.create_key(role)}"}
    reply = HTTP.get(gateway.control_url + "/admin/v1/status", headers=headers)
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["error"]["code"] == "role_not_allowed"
    assert chat(gateway, headers).status_code == 200


def test_an_operator_works_from_elsewhere_with_the_cli(gateway: RunningGateway) -> None:
    key = gateway.create_key("operator", "--name", "ops")
    elsewhere = ["--control", gateway.control_url, "--key", key]
    assert any(each["name"] == "ops" for each in gateway.cli("keys", "ls", "--json", *elsewhere))
    assert "needs a key of role `viewer` or above" in gateway.cli(
        "keys", "ls", "--control", gateway.control_url, "--key", gateway.key, expect=2
    )


def test_a_revoked_key_is_refused_from_the_next_request_on(engine: FakeEngine) -> None:
    with RunningGateway(engine.url, options=["--workers", "2"]) as gateway:
        for _ in range(5):
            made = gateway.admin("POST", "keys", {}).json()
            headers = {"authorization": f"Bearer {made['key']}"}
            with httpx.Client(base_url=gateway.url, headers=headers) as kept_alive:
                assert kept_alive.post("/v1/chat/completions", json=BODY).status_code == 200
                gateway.admin("DELETE", f"keys/{made['id']}")
                assert kept_alive.post("/v1/chat/completions", json=BODY).status_code == 401
                assert all(chat(gateway, headers).status_code == 401 for _ in range(8)), "whichever worker answers"
        last = gateway.cli("keys", "create", "--json")
        assert gateway.cli("keys", "revoke", last["id"], "--json") == {"revoked": last["id"]}
        assert chat(gateway, {"authorization": f"Bearer {last['key']}"}).status_code == 401
        assert "no key" in gateway.cli("keys", "revoke", last["id"], expect=2)


def test_a_key_sees_only_its_models(gateway: RunningGateway) -> None:
    headers = {"authorization": f"Bearer {gateway.create_key('app', '--model', 'other')}"}
    assert chat(gateway, headers).status_code == 404
    assert HTTP.get(gateway.url + "/v1/models", headers=headers).json()["data"] == []
    assert HTTP.get(gateway.url + "/v1/models/base", headers=headers).status_code == 404
    allowed = {"authorization": f"Bearer {gateway.create_key('app', '--model', 'base')}"}
    assert chat(gateway, allowed).status_code == 200


def test_a_key_with_an_empty_list_of_models_may_use_none(gateway: RunningGateway) -> None:
    admin = {"authorization": f"Bearer {gateway.create_key('admin')}"}
    made = HTTP.post(gateway.control_url + "/admin/v1/keys", headers=admin, json={"models": []}).json()
    assert made["models"] == []
    assert chat(gateway, {"authorization": f"Bearer {made['key']}"}).status_code == 404


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/m/{}/v1/chat/completions", "/v1/models/{}"])
def test_no_key_finds_out_which_names_exist(gateway: RunningGateway, target: str) -> None:
    headers = {"authorization": f"Bearer {gateway.create_key('app', '--model', 'other')}"}

    def told(model: str) -> tuple[int, Any, dict[str, str]]:
        url = gateway.url + target.format(model)
        reply = (
            HTTP.get(url, headers=headers)
            if "models" in target
            else HTTP.post(url, json={**BODY, "model": model}, headers=headers)
        )
        shown = {name: value for name, value in reply.headers.items() if name != "x-request-id"}
        return reply.status_code, reply.text.replace(model, "MODEL"), shown

    assert told("base") == told("bass")
    assert told("base")[0] == 404


GOOD = "GOOD"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": GOOD}, 200),
        ({"x-api-key": GOOD}, 200),
        ({"authorization": f"bearer {GOOD}"}, 200),
        ({"authorization": "Basic dXNlcjpwYXNz", "x-api-key": GOOD}, 200),
        ({"authorization": "Bearer ey.of.another", "api-key": GOOD}, 200),
        ({"authorization": f"Bearer {GOOD}", "x-api-key": "wrong", "api-key": "wrong"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "wrong", "api-key": "wrong"}, 401),
        ({"api-key": ""}, 401),
        ({"authorization": "Basic dXNlcjpwYXNz"}, 401),
    ],
)
def test_the_header_that_holds_a_good_key_counts_whatever_stands_beside_it(
    gateway: RunningGateway, headers: dict[str, str], status: int
) -> None:
    viewer = gateway.create_key("viewer")
    sent = {name: value.replace(GOOD, viewer) for name, value in headers.items()}
    assert chat(gateway, sent).status_code == status
    assert HTTP.get(gateway.control_url + "/admin/v1/status", headers=sent).status_code == status


def test_of_several_bad_keys_the_one_that_has_expired_is_told() -> None:
    expired = Principal(id="old", role=Role.APP, expires=5)
    for headers in (
        {b"authorization": b"Basic x", b"x-api-key": b"old"},
        {b"authorization": b"Bearer old", b"api-key": b"x"},
    ):
        with pytest.raises(Unauthenticated) as caught:
            caller_of(headers, {digest_of(b"old"): expired}, lambda: 10.0)
        assert caught.value.code == "expired_api_key"
    with pytest.raises(Unauthenticated, match="didn't provide"):
        caller_of({}, {}, lambda: 10.0)
    with pytest.raises(Unauthenticated, match="Incorrect"):
        caller_of({b"api-key": b"x"}, {}, lambda: 10.0)


@pytest.mark.parametrize("body", [{"role": "root"}, {"rol": "app"}, {"name": "x" * 200}, {"models": "base"}, []])
def test_a_malformed_key_request_is_explained(gateway: RunningGateway, body: Any) -> None:
    admin = {"authorization": f"Bearer {gateway.create_key('admin')}"}
    reply = HTTP.post(gateway.control_url + "/admin/v1/keys", headers=admin, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_request"


def test_only_digests_are_on_disk_and_for_their_owner_alone(engine: FakeEngine, tmp_path: Path) -> None:
    state = tmp_path / "s"
    state.mkdir()
    with RunningGateway(engine.url, state=state, command=OWN_COMMAND) as gateway:
        keys = [gateway.key, gateway.create_key("operator")]
        assert chat(gateway, gateway.headers).status_code == 200
        for path in (path for path in state.rglob("*") if path != gateway.log_path):
            if path.is_file():
                content = path.read_bytes()
                assert not any(key.encode() in content or key.encode()[-20:] in content for key in keys), path
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert not any(key in gateway.log_path.read_text() for key in keys)
        arguments = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert not any(key in arguments for key in keys)


def test_keys_are_managed_without_a_gateway_and_kept(engine: FakeEngine, tmp_path: Path) -> None:
    gateway = RunningGateway(engine.url, state=tmp_path)
    made = gateway.cli("keys", "create", "--name", "early", "--model", "base", "--json")
    gone = gateway.cli("keys", "create", "--json")
    gateway.cli("keys", "revoke", gone["id"])
    listed = gateway.cli("keys", "ls", "--json")
    assert [(each["id"], each["role"], each["name"], each["models"]) for each in listed] == [
        (made["id"], "app", "early", ["base"])
    ]
    assert "early" in gateway.cli("keys", "ls")
    assert "no key" in gateway.cli("keys", "revoke", gone["id"], expect=2)
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600
    with gateway:
        assert chat(gateway, {"authorization": f"Bearer {made['key']}"}).status_code == 200
        assert chat(gateway, {"authorization": f"Bearer {gone['key']}"}).status_code == 401
        assert gateway.cli("keys", "ls", "--json")[0]["id"] == made["id"]


def test_a_state_folder_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = RunningGateway(state=tmp_path / "file" / "s").cli("keys", "create", expect=2)
    assert told.startswith("error:")
    assert len(told.splitlines()) == 1


@pytest.fixture(scope="module")
def open_gateway(engine: FakeEngine) -> Iterator[RunningGateway]:
    with RunningGateway(engine.url, options=["--no-auth"]) as gateway:
        yield gateway


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    HTTP.close()


def test_without_auth_everybody_is_served_and_told_so_loudly(open_gateway: RunningGateway) -> None:
    assert chat(open_gateway, {}).status_code == 200
    assert chat(open_gateway, {"authorization": "Bearer whatever"}).status_code == 200
    assert HTTP.get(open_gateway.control_url + "/admin/v1/keys").status_code == 200
    log = open_gateway.log_path.read_text()
    assert "WARNING" in log
    assert "no keys are asked for" in log


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8081", "10.0.0.1", ""])
def test_without_auth_a_web_page_that_names_us_otherwise_is_refused(open_gateway: RunningGateway, name: str) -> None:
    reply = HTTP.get(open_gateway.control_url + "/admin/v1/keys", headers={"host": name})
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "host_not_allowed"
    assert HTTP.get(open_gateway.control_url + "/admin/v1/keys", headers={"host": "localhost"}).status_code == 200


@pytest.mark.parametrize("path", ["/admin/v1/status", "/metrics", "/readyz", "/healthz", "/nowhere"])
def test_without_auth_the_whole_control_port_has_this_machines_names_only(
    open_gateway: RunningGateway, path: str
) -> None:
    assert HTTP.get(open_gateway.control_url + path, headers={"host": "evil.example"}).status_code == 403
    for name in ("127.0.0.1", "127.9.9.9:8081", "localhost:1", "LOCALHOST", "[::1]:8081", "[::1]"):
        reply = HTTP.get(open_gateway.control_url + path, headers={"host": name})
        assert reply.status_code == (404 if path == "/nowhere" else 200), (name, reply.text)


HOSTILE_HOSTS = (
    "[",
    "[::1",
    "]",
    "::1",
    "[::1]x",
    "a b",
    "127.0.0.1@evil.example",
    "evil.example@127.0.0.1",
    "127.0.0.1/",
    "127.0.0.1#",
    "127.0.0.1:http",
    "127.0.0.1:",
    "127.0.0.1:8081:8081",
    "[::1%25lo]",
    "\\127.0.0.1",
    "x" * 5_000,
    "%",
)


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_a_host_that_is_no_name_is_a_400_with_keys_and_without(
    gateway: RunningGateway, open_gateway: RunningGateway, host: str
) -> None:
    for each in (gateway, open_gateway):
        for path in ("/admin/v1/status", "/healthz"):
            reply = HTTP.get(each.control_url + path, headers={"host": host, **admin(each)})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_host"), reply.text
        assert "Traceback" not in each.log_path.read_text()


def admin(gateway: RunningGateway) -> dict[str, str]:
    return gateway.headers


CHANGES = [
    ("POST", "/admin/v1/keys", b'{"role":"app"}'),
    ("POST", "/admin/v1/keys/key-1/rotate", b""),
    ("DELETE", "/admin/v1/keys/key-1", b""),
    ("PUT", "/admin/v1/routes", b"{}"),
    ("POST", "/admin/v1/routes/a/rollback", b"{}"),
    ("POST", "/admin/v1/rollouts/a/abort", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_without_auth_no_change_can_be_sent_by_a_web_page(
    open_gateway: RunningGateway, method: str, path: str, body: bytes
) -> None:
    url = open_gateway.control_url
    before = HTTP.get(url + "/admin/v1/keys").json()
    for kind in (None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"):
        reply = HTTP.request(method, url + path, content=body, headers={"content-type": kind} if kind else {})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "content_type_needed"), (kind, reply.text)
    json_kind = {"content-type": "application/json"}
    for pages in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        reply = HTTP.request(method, url + path, content=body, headers=json_kind | pages)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin_not_allowed"), (pages, reply.text)
    assert HTTP.get(url + "/admin/v1/keys").json() == before
    for own in ({}, {"origin": url, "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        reply = HTTP.request(method, url + path, content=body, headers=json_kind | own)
        assert reply.status_code != 403, reply.text


def test_without_auth_a_key_is_rotated_by_whoever_is_no_web_page(open_gateway: RunningGateway) -> None:
    url = open_gateway.control_url + "/admin/v1/keys"
    made = HTTP.post(url, json={"role": "app"}).json()["id"]
    assert HTTP.post(f"{url}/{made}/rotate").status_code == 403
    assert HTTP.post(f"{url}/{made}/rotate", headers={"x-requested-with": "curl"}).status_code == 201
    assert open_gateway.cli("keys", "create", "--json")["id"]


DEEP = 20_000


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize(
    ("method", "path", "before"),
    [
        ("POST", "/admin/v1/keys", '{"role":'),
        ("PUT", "/admin/v1/routes", '{"routes":'),
        ("PUT", "/admin/v1/routes", ""),
        ("POST", "/admin/v1/adapters", '{"source":'),
        ("POST", "/admin/v1/routes/plan", '{"routes":[{"alias":"a","plan":'),
        ("POST", "/admin/v1/gates/simulate", '{"gates":'),
        ("POST", "/admin/v1/routes/a/rollout", '{"plan":'),
    ],
)
@pytest.mark.parametrize("depth", [200, 900, DEEP])
def test_a_body_nested_deeply_is_a_400_without_a_traceback(
    open_gateway: RunningGateway, method: str, path: str, before: str, opening: str, depth: int
) -> None:
    closing = "]" if opening == "[" else "}"
    for body in (
        before + opening * depth,
        before + opening * depth + "1" + closing * depth + "}]}"[: before.count("{")],
    ):
        reply = HTTP.request(
            method, open_gateway.control_url + path, content=body, headers={"content-type": "application/json"}
        )
        assert reply.status_code in (400, 422, 404), reply.text[:300]
    assert "Traceback" not in open_gateway.log_path.read_text()


@pytest.mark.parametrize("where", ["--host", "--control-host"])
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_auth_is_refused_where_others_can_reach_it(tmp_path: Path, where: str, address: str) -> None:
    arguments = ["serve", "--engine", "http://127.0.0.1:9", "--state", str(tmp_path), "--no-auth", where, address]
    done = run_forked(arguments, os.environ, timeout=PATIENCE_SECONDS)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "loopback" in done.stderr
    assert address in done.stderr


def chat(gateway: RunningGateway, headers: dict[str, str]) -> httpx.Response:
    return HTTP.post(gateway.url + "/v1/chat/completions", json=BODY, headers=headers)


def raw_status(url: str, path: str, host: str = "x") -> int:
    """Return the status of a GET written by hand, which no client library tidies up."""
    address, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((address, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])
