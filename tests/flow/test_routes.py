"""Routes as declared state, on a real gateway: plan, apply, history, and the way back."""

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.store.sql import open_store
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def versions(gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three versions of `support`, the last of which the alias serves."""
    folder = tmp_path_factory.mktemp("adapters")
    return [add(gateway, write_adapter(folder / str(seed), seed), "support") for seed in (1, 2, 3)]


@pytest.fixture(autouse=True)
def _as_it_was(gateway: RunningGateway, versions: list[str]) -> None:
    """Every test begins with one plain route."""
    assert apply(gateway, route(versions[2]), prune=True).status_code == 200


def add(gateway: RunningGateway, folder: Path, name: str) -> str:
    reply = gateway.admin("POST", "adapters", {"source": str(folder), "name": name})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["version"])


def route(control: str, alias: str = "support", **more: Any) -> dict[str, Any]:
    return {"alias": alias, "control": control, **more}


def ask(
    gateway: RunningGateway, method: str, path: str, body: Any = None, if_match: str | None = None
) -> httpx.Response:
    transport = httpx.HTTPTransport(uds=str(gateway.state / "control.sock"), verify=False)
    headers = {"content-type": "application/json"} | ({"if-match": if_match} if if_match is not None else {})
    with httpx.Client(transport=transport) as client:
        content = json.dumps(body) if body is not None else None  # ASCII: a lone surrogate goes out, too
        return client.request(method, f"http://control/admin/v1/{path}", content=content, headers=headers)


def apply(gateway: RunningGateway, *routes: Any, if_match: str | None = None, **more: Any) -> httpx.Response:
    return ask(gateway, "PUT", "routes", {"routes": list(routes), **more}, if_match)


def served(gateway: RunningGateway, model: str) -> str | int:
    """Return the version that answers, or the status of a refusal."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": 1}
    reply = httpx.post(gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers)
    return reply.headers["x-loragate-version"] if reply.status_code == 200 else reply.status_code


def cli(gateway: RunningGateway, *arguments: str, expect: int = 0) -> Any:
    """Run `loragate ARGUMENTS`, in this process; JSON output is returned parsed, other output as text."""
    done = CliRunner().invoke(main, [*arguments, "--state", str(gateway.state)], catch_exceptions=False)
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.output


def version_of(gateway: RunningGateway) -> int:
    return int(ask(gateway, "GET", "routes").headers["etag"].strip('"'))


def write(folder: Path, *routes: Any, **more: Any) -> str:
    path = folder / "routes.yaml"
    path.write_text(json.dumps({"routes": list(routes), **more}))  # JSON is YAML
    return str(path)


# Apply


def test_what_is_applied_is_served_by_the_next_request(gateway: RunningGateway, versions: list[str]) -> None:
    before = version_of(gateway)
    reply = apply(gateway, route(versions[0][:14]), route(versions[1], "beta", notes="new"), reason="because")
    assert reply.status_code == 200
    assert served(gateway, "support") == versions[0]
    assert served(gateway, "beta") == versions[1]
    told = reply.json()
    assert (told["version"], told["checked"]) == (before + 1, False)
    assert reply.headers["etag"] == f'"{before + 1}"'
    assert [(each["alias"], each["action"]) for each in told["plan"]["changes"]] == [
        ("support", "change"),
        ("beta", "add"),
    ]
    shown = ask(gateway, "GET", "routes/beta").json()
    assert (shown["control"], shown["notes"], shown["candidate"], shown["rollout"]) == (versions[1], "new", None, None)


def test_a_change_is_in_the_journal_with_who_and_why(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0]), reason="a better tone")
    store = open_store(gateway.state, now=lambda: 0.0)
    try:
        last = store.journal()[-1].record
        assert (last["kind"], last["alias"], last["who"], last["why"]) == ("route", "support", "local", "a better tone")
        assert (last["before"]["control"], last["after"]["control"]) == (versions[2], versions[0])
        assert store.verify_journal() is None
    finally:
        store.close()


def test_applying_twice_changes_nothing(gateway: RunningGateway, versions: list[str]) -> None:
    wanted = route(
        versions[0],
        candidate=versions[1],
        weight="5%",
        unit=["user", "key"],
        notes="n",
        plan="1% 10m → 5%",
        mirror={"share": "2%", "capture": "metrics_only"},
        limits={"requests_per_minute": 600},
    )
    first = apply(gateway, wanted).json()
    again = apply(gateway, wanted).json()
    assert again["plan"]["changes"] == []
    assert again["version"] == first["version"] == version_of(gateway)


def test_a_plan_changes_nothing_and_tells_its_version(gateway: RunningGateway, versions: list[str]) -> None:
    before = ask(gateway, "GET", "routes").json()
    reply = ask(gateway, "POST", "routes/plan", {"routes": [route(versions[0])]})
    assert reply.json()["version"] == before["version"]
    assert "all callers change version now" in reply.json()["changes"][0]["meaning"][0]
    assert ask(gateway, "GET", "routes").json() == before


def test_one_bad_route_and_nothing_is_applied(gateway: RunningGateway, versions: list[str]) -> None:
    before = ask(gateway, "GET", "routes").json()
    for bad in (route("support@123456", "x"), route(versions[0], "base"), route(versions[0], "x", weight="5%")):
        reply = apply(gateway, route(versions[0]), bad)
        assert reply.status_code == 422
        assert reply.json()["error"]["code"] == "invalid_routes"
        assert len(reply.json()["error"]["problems"]) == 1
    assert apply(gateway, route(versions[0]), {"alias": "x"}).status_code == 400
    assert apply(gateway, route(versions[0]), color="red").status_code == 400
    assert ask(gateway, "GET", "routes").json() == before


def test_a_change_for_another_version_of_the_state_is_refused(gateway: RunningGateway, versions: list[str]) -> None:
    at = version_of(gateway)
    assert apply(gateway, route(versions[0]), if_match=f'"{at}"').json()["checked"] is True
    for tag in (f'"{at}"', f'"{at + 2}"', str(at)):
        reply = apply(gateway, route(versions[1]), if_match=tag)
        assert (reply.status_code, reply.json()["error"]["code"]) == (412, "state_moved")
        revert = ask(gateway, "POST", "routes/support/revert", {"number": 1}, if_match=tag)
        assert revert.status_code == 412
        assert ask(gateway, "PUT", "routes/support/split", {}, if_match=tag).status_code == 412
    assert served(gateway, "support") == versions[0]
    for tag in ('W/"1"', "x", f'"{"9" * 30}"', '"1", "2"'):
        assert apply(gateway, route(versions[1]), if_match=tag).status_code == 400
    assert apply(gateway, route(versions[1]), if_match="*").status_code == 200


def test_of_many_who_planned_on_one_state_one_wins(gateway: RunningGateway, versions: list[str]) -> None:
    at = version_of(gateway)
    statuses: list[int] = []

    def one(number: int) -> None:
        reply = apply(gateway, route(versions[number % 2], notes=str(number)), if_match=f'"{at}"')
        statuses.append(reply.status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, *[412] * 5]
    assert version_of(gateway) == at + 1


def test_pruned_aliases_are_gone_and_others_stay_without_it(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0], "beta"))
    assert apply(gateway, route(versions[2])).json()["plan"]["left_alone"] == ["beta"]
    assert served(gateway, "beta") == versions[0]
    assert apply(gateway, route(versions[2]), prune=True).status_code == 200
    assert served(gateway, "beta") == 404
    assert ask(gateway, "GET", "routes/beta").status_code == 404
    listed = ask(gateway, "GET", "adapters").json()["adapters"]
    assert {each["version"] for each in listed} == set(versions)


def test_a_version_that_any_alias_needs_is_not_removed(
    gateway: RunningGateway, versions: list[str], tmp_path: Path
) -> None:
    legal = add(gateway, write_adapter(tmp_path / "8", 8), "legal")
    assert apply(gateway, route(legal, candidate=versions[0], weight=0), prune=True).status_code == 200
    for name in ("support", versions[0], "legal", legal):
        assert gateway.admin("DELETE", f"adapters/{name}").status_code == 409
    apply(gateway, route(versions[2]))
    assert gateway.admin("DELETE", "adapters/legal").status_code == 200


# History


def test_history_tells_what_changed_when_by_whom_and_why(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0]), reason="one")
    apply(gateway, route(versions[0], candidate=versions[1], weight=500), reason="two")
    page = ask(gateway, "GET", "routes/support/history?limit=2").json()
    newest, older = page["versions"]
    assert (newest["reason"], older["reason"], newest["by"]) == ("two", "one", "local")
    assert [(each["field"], each["after"]) for each in newest["changes"]] == [
        ("candidate", versions[1]),
        ("weight", 500),
    ]
    assert [each["field"] for each in older["changes"]] == ["control"]
    assert page["next"] == older["number"]
    rest = ask(gateway, "GET", f"routes/support/history?before={older['number']}&limit=1000").json()
    assert [each["number"] for each in rest["versions"]] == list(range(older["number"] - 1, 0, -1))
    assert rest["next"] is None
    assert ask(gateway, "GET", "routes/support/history?before=1").json()["versions"] == []
    one = ask(gateway, "GET", f"routes/support/history/{older['number']}").json()
    assert one["route"]["control"] == versions[0]
    difference = ask(gateway, "GET", f"routes/support/diff?from={older['number'] - 1}").json()
    assert (difference["from"], difference["to"]) == (older["number"] - 1, newest["number"])
    assert [each["field"] for each in difference["changes"]] == ["control", "candidate", "weight"]
    assert ask(gateway, "GET", "routes/support/diff?from=0&to=1").json()["changes"][0]["before"] is None


def test_a_removed_alias_keeps_its_history_and_comes_back(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0], "gamma", candidate=versions[1], weight=5000))
    apply(gateway, route(versions[2]), prune=True)
    history = ask(gateway, "GET", "routes/gamma/history").json()["versions"]
    assert history[0]["route"] is None
    refused = ask(gateway, "POST", "routes/gamma/revert", {"number": history[0]["number"]})
    assert (refused.status_code, "is its removal" in refused.text) == (409, True)
    back = ask(gateway, "POST", "routes/gamma/revert", {"number": history[1]["number"], "reason": "missed"})
    assert back.json()["plan"]["changes"][0]["action"] == "add"
    newest = ask(gateway, "GET", "routes/gamma/history").json()["versions"][0]["route"]
    assert (newest["salt"], newest["weight"]) == (history[1]["route"]["salt"], 5000), "every unit is on its old arm"


def test_a_route_goes_back_as_a_new_version(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0], candidate=versions[1], weight=500, notes="then"))
    number = ask(gateway, "GET", "routes/support/history?limit=1").json()["versions"][0]["number"]
    apply(gateway, route(versions[1]))
    reply = ask(gateway, "POST", "routes/support/revert", {"number": number, "reason": "as it was"})
    assert reply.status_code == 200
    shown = ask(gateway, "GET", "routes/support").json()
    assert (shown["control"], shown["candidate"], shown["weight"], shown["notes"]) == (*versions[:2], 500, "then")
    assert shown["previous"][0]["version"] == versions[1]
    newest = ask(gateway, "GET", "routes/support/history?limit=1").json()["versions"][0]
    assert (newest["number"], newest["reason"]) == (number + 2, "as it was")
    again = ask(gateway, "POST", "routes/support/revert", {"number": number}).json()
    assert again["plan"]["changes"] == []


def test_a_version_that_is_gone_cannot_come_back(gateway: RunningGateway, tmp_path: Path, versions: list[str]) -> None:
    gone = add(gateway, write_adapter(tmp_path / "9", 9), "support")
    apply(gateway, route(versions[2]))
    assert gateway.admin("DELETE", f"adapters/{gone}").status_code == 200
    history = ask(gateway, "GET", "routes/support/history?limit=2").json()["versions"]
    reply = ask(gateway, "POST", "routes/support/revert", {"number": history[1]["number"]})
    assert reply.status_code == 409
    assert f"`{gone}` is not registered" in reply.json()["error"]["message"]
    assert served(gateway, "support") == versions[2]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "routes/nobody", None, 404),
        ("GET", "routes/nobody/history", None, 404),
        ("GET", "routes/nobody/diff", None, 404),
        ("GET", "routes/support/history/9999", None, 404),
        ("GET", f"routes/support/history/{2**63}", None, 400),
        ("GET", "routes/support/diff?from=9999", None, 404),
        ("GET", "routes/support/history?before=0", None, 400),
        ("POST", "routes/nobody/revert", {"number": 1}, 404),
        ("POST", "routes/support/revert", {"number": 9999}, 404),
        ("POST", "routes/support/revert", {}, 400),
        ("GET", "routes/%00/history", None, 404),
        ("PUT", "routes", [], 400),
        ("POST", "routes/plan", {"routes": [route("a@123456", plan={"\ud800": 1})]}, 422),
    ],
)
def test_what_is_not_there_is_said(
    gateway: RunningGateway, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    reply = ask(gateway, method, path, body)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


# Two gateways on one store


@pytest.fixture
def twin(gateway: RunningGateway, engine: FakeEngine) -> Iterator[RunningGateway]:
    """Another gateway on the same store."""
    environment = {"LORAGATE_STORE": f"sqlite:///{gateway.state / 'state.db'}"}
    with RunningGateway(engine.url, environment=environment) as twin:
        yield twin


def test_what_another_gateway_changed_meanwhile_is_a_conflict_and_is_served(
    gateway: RunningGateway, twin: RunningGateway, versions: list[str]
) -> None:
    gateway.wait_until(lambda _: version_of(twin) == version_of(gateway))  # the twin has just made a key
    at = f'"{version_of(gateway)}"'
    assert apply(twin, route(versions[0]), if_match=at).status_code == 200
    assert apply(gateway, route(versions[1], notes="late"), if_match=at).status_code == 412
    assert served(gateway, "support") == versions[0]
    assert apply(twin, route(versions[1])).status_code == 200
    assert apply(gateway, route(versions[2])).status_code == 200, "without If-Match it applies to the state as it is"
    twin.wait_until(lambda _: version_of(twin) == version_of(gateway))
    assert served(twin, "support") == versions[2]


# The command line


def test_apply_shows_the_plan_and_does_just_that(gateway: RunningGateway, versions: list[str], tmp_path: Path) -> None:
    file = write(tmp_path, route(versions[2], candidate=versions[0], weight="5%"))
    shown = cli(gateway, "apply", "-f", file, "--dry-run")
    assert shown.splitlines() == [
        "~ support",
        f"    candidate  none → {versions[0]}",
        "    weight     0 % → 5 %",
        f"      about 5 % of units move from control {versions[2]} to candidate {versions[0]}; the others stay",
        (
            f"warning: `support`: candidate `{versions[0]}` has 5 % without a rollout: no gate watches it, "
            "and nothing but a person takes it back; `loragate rollout start` would"
        ),
        "Plan: 0 to add, 1 to change, 0 to remove.",
    ]
    asked = cli(gateway, "apply", "-f", file, expect=2)
    assert "there is no terminal to ask on; add --yes" in asked
    at = version_of(gateway)
    assert "the state is at version" in cli(gateway, "apply", "-f", file, "--if-version", "0", "--yes", expect=2)
    done = cli(gateway, "apply", "-f", file, "--yes", "--reason", "trial", "--if-version", str(at), "--json")
    assert (done["applied"], done["version"]) == (True, at + 1)
    assert "No changes" in cli(gateway, "apply", "-f", file)
    assert "trial" in cli(gateway, "routes", "history", "support", "--limit", "1")
    assert versions[0] in cli(gateway, "routes", "show", "support")


@pytest.mark.parametrize("answer", ["n", "y"])
def test_on_a_terminal_it_asks(gateway: RunningGateway, versions: list[str], tmp_path: Path, answer: str) -> None:
    file = write(tmp_path, route(versions[0]))
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "gateway", "apply", "-f", file, "--state", str(gateway.state)]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        os.write(ours, f"{answer}\n".encode())
        said = b""
        while b"Applied" not in said and b"Nothing was changed" not in said:
            said += os.read(ours, 4096)
        assert process.wait(timeout=PATIENCE_SECONDS) == (0 if answer == "y" else 1)
    os.close(ours)
    assert b"Apply? [y/N]" in said
    assert b"\x1b[33m" in said, "in colours"
    assert served(gateway, "support") == (versions[0] if answer == "y" else versions[2])


def test_what_export_prints_applies_without_a_change(
    gateway: RunningGateway, versions: list[str], tmp_path: Path
) -> None:
    wanted = route(
        versions[0],
        candidate=versions[1],
        weight="0.05%",
        unit=["user", "key"],
        notes="two\nlines: ü",
        plan={"steps": [{"weight": "5%", "gates": ["manual"]}]},
        limits={"max_in_flight": 3},
        mirror={"share": 3, "capture": "off"},
    )
    assert apply(gateway, wanted, route(versions[1], "beta", plan="1% 10m → 5% → 100%")).status_code == 200
    path = tmp_path / "exported.yaml"
    path.write_text(cli(gateway, "routes", "export"))
    assert cli(gateway, "apply", "-f", str(path), "--prune", "--json")["plan"]["changes"] == []
    assert [each["alias"] for each in cli(gateway, "routes", "export", "beta", "--json")["routes"]] == ["beta"]


def test_mistakes_on_the_command_line_are_told_line_by_line(
    gateway: RunningGateway, versions: list[str], tmp_path: Path
) -> None:
    file = write(tmp_path, route("x", weight="200%"), {"alias": "a"})
    told = cli(gateway, "apply", "-f", file, expect=2).splitlines()
    assert [line.split(":")[1] for line in told] == [
        " routes[0] (support).weight",
        " routes[0] (support).control",
        " routes[1] (a).control",
    ]
    assert "is not registered" in cli(gateway, "apply", "-f", write(tmp_path, route("x@123456")), expect=2)
    assert "has no version `9999`" in cli(gateway, "routes", "revert", "support", "9999", "--reason", "x", expect=2)
    cli(gateway, "routes", "revert", "support", "1", expect=2)


def test_diff_and_revert_on_the_command_line(gateway: RunningGateway, versions: list[str]) -> None:
    apply(gateway, route(versions[0], notes="then"))
    history = cli(gateway, "routes", "history", "support", "--limit", "2", "--json")["versions"]
    now, before = (each["number"] for each in history)
    assert cli(gateway, "routes", "diff", "support").splitlines() == [
        f"support: version {before} → {now}",
        f"    control    {versions[2]} → {versions[0]}",
        "    notes      none → 'then'",
    ]
    assert "no difference" in cli(gateway, "routes", "diff", "support", str(now), str(now))
    told = cli(gateway, "routes", "revert", "support", str(before), "--reason", "worse")
    assert f"`support` is as in version {before}" in told
    assert served(gateway, "support") == versions[2]
