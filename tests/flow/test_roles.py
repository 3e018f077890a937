"""A walk over every operation of the control port: nobody without a key, nobody below the role."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from gateway.admin.api import OPEN_PATHS
from gateway.admin.guard import MAX_BODY_BYTES, ROLES
from gateway.decide.authenticate import Role
from tests.support.control_plane import control_plane, operations
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

# No JSON, so that nothing is changed by whoever is let in; and whoever is not, must not hear of it.
MALFORMED = b"{"


OPERATIONS = operations()
GUARDED = [each for each in OPERATIONS if each.split(" ")[1] not in OPEN_PATHS]


@pytest.fixture(scope="module")
def clients(gateway: RunningGateway) -> Iterator[dict[str, httpx.Client]]:
    """A client of each role, one without a key, one with a key that nobody made."""
    keys = {role.value: gateway.create_key(role.value) for role in Role} | {"wrong": "sk-loragate-wrong"}
    clients = {
        who: httpx.Client(base_url=gateway.control_url, headers={"authorization": f"Bearer {key}"}, verify=False)
        for who, key in keys.items()
    }
    clients["nobody"] = httpx.Client(base_url=gateway.control_url, verify=False)
    yield clients
    for client in clients.values():
        client.close()


def test_every_operation_has_a_role_and_every_role_an_operation() -> None:
    own_evaluator = {"POST /admin/v1/shadow/straight"}  # not described, and tested in test_evaluator_child.py
    assert {*GUARDED, *own_evaluator} == set(ROLES)
    assert {each.split(" ")[1] for each in OPERATIONS} >= {*OPEN_PATHS, "/admin/docs", "/admin/openapi.json"}
    assert set(ROLES.values()) == {Role.VIEWER, Role.OPERATOR, Role.ADMIN}


def test_reading_takes_a_viewer_and_no_viewer_changes_anything() -> None:
    reading = {each for each in GUARDED if each.startswith(("GET ", "HEAD "))}
    assert {ROLES[each] for each in reading} == {Role.VIEWER}
    asking = {"POST /admin/v1/routes/plan", "POST /admin/v1/gates/simulate"}
    assert {each for each in set(GUARDED) - reading if ROLES[each] is Role.VIEWER} == asking


def asked(client: httpx.Client, operation: str) -> httpx.Response:
    method, path = operation.split(" ")
    body = None if method in ("GET", "HEAD", "DELETE") else MALFORMED
    headers = {"content-type": "application/json"} if body else {}
    return client.request(method, re.sub(r"\{\w+\}", "0", path), content=body, headers=headers)


@pytest.mark.parametrize("operation", GUARDED)
def test_an_operation_is_refused_without_a_key_and_below_its_role(
    clients: dict[str, httpx.Client], operation: str
) -> None:
    for who in ("nobody", "wrong"):
        reply = asked(clients[who], operation)
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert operation.startswith("HEAD ") or reply.json()["error"]["code"] == "invalid_api_key"
    roles = list(Role)
    least = roles.index(ROLES[operation])
    for role in roles[:least]:
        reply = asked(clients[role], operation)
        assert reply.status_code == 403, role
        assert operation.startswith("HEAD ") or reply.json()["error"]["code"] == "role_not_allowed"
    for role in roles[least:]:
        assert asked(clients[role], operation).status_code in (200, 400, 404), role


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_probes_need_no_key(clients: dict[str, httpx.Client], path: str) -> None:
    assert clients["nobody"].get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/admin/v1", "/admin/v1/keys/", "/admin/v1/nothing", "/healthz/x"])
def test_what_does_not_exist_is_told_to_who_may_read(clients: dict[str, httpx.Client], path: str) -> None:
    statuses = {who: client.get(path).status_code for who, client in clients.items()}
    assert statuses == {
        "nobody": 401,
        "wrong": 401,
        "app": 403,
        "app:pin": 403,
        "viewer": 404,
        "operator": 404,
        "admin": 404,
    }


def test_another_method_is_told_with_those_that_are(clients: dict[str, httpx.Client]) -> None:
    assert clients["app"].patch("/admin/v1/status").status_code == 403
    reply = clients["viewer"].patch("/admin/v1/status")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("where", ["/admin/v1/new", "/new"])
def test_an_operation_without_a_role_is_refused_even_to_the_machines_own_user(where: str) -> None:
    app = control_plane(socket_path="testserver")  # as the client below calls itself

    @app.get(where)
    async def new() -> dict[str, str]:
        return {"secret": "seen"}

    with TestClient(app) as client:
        assert client.get("/admin/openapi.json").status_code == 200
        reply = client.get(where)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "role_not_allowed"


@pytest.mark.parametrize(("who", "status"), [("nobody", b"401"), ("app", b"403"), ("admin", b"413")])
def test_a_body_is_not_waited_for_that_will_not_be_taken(
    gateway: RunningGateway, clients: dict[str, httpx.Client], who: str, status: bytes
) -> None:
    host, _, port = gateway.control_url.removeprefix("http://").rpartition(":")
    key = clients[who].headers.get("authorization", "")
    head = f"POST /admin/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY_BYTES + 1}\r\n"
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall((head + (f"authorization: {key}\r\n" if key else "") + "\r\n").encode())
        assert connection.recv(64).split()[1] == status


@pytest.mark.parametrize("more", [{}, {"idempotency-key": "large"}])
def test_a_body_that_does_not_say_how_large_it_is_ends_at_the_limit(
    clients: dict[str, httpx.Client], more: dict[str, str]
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (1 << 20)

    headers = {"content-type": "application/json", **more}
    try:
        reply = clients["admin"].post("/admin/v1/keys", content=chunks(), headers=headers)
    except httpx.WriteError:  # answered and closed before all was sent
        return
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "request_too_large"
