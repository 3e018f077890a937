"""Rollouts on a real gateway: ramped and promoted, failed and taken back, contested, explained, and verified."""

import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapters import adapter_folder
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS
from tests.support.support_rollout import Support

# Short, and wide enough to be decided by some dozen requests.
GATES = [{"error_rate": {"margin": "35%"}}, {"latency": {"margin": "60%"}}]
STEP = {"min_time": "1s", "min_samples": 40, "gates": GATES}
RAMP = {"steps": [{"weight": "30%", **STEP}, {"weight": "60%", **STEP, "min_time": "0s"}, {"weight": "100%"}]}
BY_HAND = {"gates": ["manual"], "steps": [{"weight": "20%", "min_time": "0s", "min_samples": 0}]}


@pytest.fixture
def support(gateway: RunningGateway, engine: FakeEngine, tmp_path: Path) -> Iterator[Support]:
    alias = f"support-{len(gateway.admin('GET', 'routes').json()['routes'])}"
    versions = []
    for seed in (1, 2):
        source = str(adapter_folder(tmp_path / str(seed), seed))
        reply = gateway.admin("POST", "adapters", {"source": source, "name": alias, "activate": seed == 1})
        versions.append(reply.json()["version"])
    yield Support(gateway, engine, alias, versions)
    engine.set(failing="")
    # One that is left open may move on later, in the middle of another test's journal.
    gateway.admin("POST", f"rollouts/{alias}/abort", {"reason": "the test is over"})


def test_a_good_candidate_is_promoted_by_plan_and_a_failing_one_taken_back_by_itself(support: Support) -> None:
    gateway, alias, first, second = support.gateway, support.alias, support.first, support.second
    with support.traffic() as statuses:
        ramp = support.start(RAMP)["id"]
        done = support.wait_for(ramp, lambda found: not found["is_open"])
        assert (done["phase"], done["sequence"]) == ("live", 4)
        assert support.route() == (second, None, 0)
        assert set(statuses) == {200}

        support.engine.set(failing=first)
        bad = support.start(RAMP, candidate=first)["id"]
        done = support.wait_for(bad, lambda found: not found["is_open"])
        assert (done["phase"], done["last"]["event"], done["last"]["by"]) == ("rolled_back", "StepFailed", "automation")
        assert support.route() == (second, None, 0)

    metrics = gateway.metrics()
    assert metrics[f'loragate_rollbacks_total{{alias="{alias}",reason="error_rate"}}'] == 1
    assert metrics[f'loragate_rollout_pages_total{{alias="{alias}",reason="error_rate"}}'] == 1
    assert metrics[f'loragate_traffic_share{{alias="{alias}",arm="control",version="{second}"}}'] == 1
    assert metrics["loragate_leader"] == 1

    story = support.story(ramp)
    for part in ("drafted the rollout", "a better tone", "stage 1 passes", "gets 60 %", f"the control is `{second}`"):
        assert part in story
    assert "The journal, replayed, leads to the state as stored." in story
    story = support.story(bad)
    for part in ("stage 1 fails", "gate `error_rate`: fail: error rate 100.00% > control 0.00% + margin 35.00%"):
        assert part in story
    assert "leads to the state as stored" in story
    failed = support.get(f"decisions/{bad}")["entries"][-1]["record"]
    assert failed["digests"].keys() == {first, second}
    assert {"who", "why", "n", "before", "after", "config_hash"} <= failed.keys()
    assert "whole" in gateway.cli("journal", "verify")


def test_one_key_alone_cannot_end_a_rollout_where_another_one_calls(support: Support) -> None:
    gateway, alias = support.gateway, support.alias
    loud = gateway.create_key("app")
    rollout = support.start(
        {"steps": [{"weight": "50%", "min_time": "1h", "gates": ["error_rate"]}, {"weight": "100%"}]}
    )["id"]

    def send(key: str, unit: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}", "x-loragate-unit": unit}
        body = {"model": alias, "prompt": "a", "max_tokens": 1, **more}
        return client.post("/v1/completions", json=body, headers=headers)

    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_SECONDS) as client:
        for number in range(60):
            assert send(gateway.key, f"mine-{number}").status_code == 200
            # Units of its own choosing; the reply tells the arm, and errors come on the candidate's alone.
            if send(loud, f"theirs-{number}").headers["x-loragate-arm"] == "candidate":
                assert [send(loud, f"theirs-{number}", fake={"status": 500}).status_code for _ in range(3)] == [500] * 3

    def names_the_account(found: dict[str, Any]) -> bool:
        assert found["phase"] == "canary", found["last"]
        (gate,) = found["gates"]
        is_named = "fails only because of account `key-" in gate["reason"] and gate["verdict"] == "inconclusive"
        return is_named and sum(share["units"] for share in gate["accounts"]) == 120

    (gate,) = support.wait_for(rollout, names_the_account)["gates"]
    assert len(gate["accounts"]) == 2
    assert {share["bad"] > 0 for share in gate["accounts"]} == {True, False}
    story = support.story(rollout)
    assert "As it stands now:" in story
    assert all(f"of `{share['account']}`: " in story for share in gate["accounts"])
    assert "60 units" in gateway.cli("rollout", "status", alias)
    support.post(f"rollouts/{rollout}/abort", {"reason": "done"})


def test_commands_by_hand_approve_pause_resume_promote_and_roll_back(support: Support) -> None:
    gateway, alias, first, second = support.gateway, support.alias, support.first, support.second
    unknown = support.start({"shadow": {"pairs": 10, "gates": ["style"]}}, expect=422)
    assert "`style` is not one of error_rate" in unknown["error"]["message"]
    started = gateway.cli("rollout", "start", alias, second, "--plan", "5% -> 100%", "--reason", "x", "--json")
    assert (started["phase"], started["weight"]) == ("canary", 500)
    assert [gate["verdict"] for gate in started["gates"]] == ["inconclusive", "inconclusive"]
    assert "rollouts are not advanced" not in gateway.log_path.read_text()
    again = support.start("5 %", expect=409)
    assert f"is in rollout `{started['id']}`" in again["error"]["message"]
    assert "by `local`" in again["error"]["message"]

    for path, body in (
        (f"PUT routes/{alias}/split", {"weight": 0}),
        ("POST adapters", {"source": "/nowhere", "name": alias}),
        (f"DELETE adapters/{second}", None),
        (f"DELETE adapters/{alias}", None),
    ):
        method, _, where = path.partition(" ")
        reply = gateway.admin(method, where, body)
        assert (reply.status_code, "rollout" in reply.text) == (409, True), reply.text
    aborted = gateway.cli("rollout", "abort", alias, "--reason", "wrong plan", "--json")
    assert (aborted["phase"], support.route()) == ("aborted", (first, None, 0))

    rollout = support.start(BY_HAND)["id"]
    assert support.post(f"rollouts/{rollout}/pause", {"reason": "lunch"})["phase"] == "paused"
    status = gateway.cli("rollout", "status", alias)
    assert "waits for  a person: resume, promote, abort or roll back" in status
    assert support.post(f"rollouts/{rollout}/resume", {"reason": "back"})["stage"] == 2
    early = support.post(f"rollouts/{rollout}/promote", {"reason": "now"}, expect=409)
    assert "not complete" in early["error"]["message"]
    support.post(f"rollouts/{rollout}/approve", {"reason": "looks good"})
    support.wait_for(rollout, lambda found: bool(found["is_complete"]))
    assert support.route() == (first, second, 2000)
    assert support.post(f"rollouts/{rollout}/promote", {"reason": "looks good"})["phase"] == "live"
    over = support.post(f"rollouts/{rollout}/pause", {"reason": "late"}, expect=409)
    assert "is over (`live`)" in over["error"]["message"]

    text = gateway.cli("rollback", alias, "--reason", "tone is off")
    assert f"all to {first} (before: {second})" in text
    assert f"takes back rollout {rollout}" in text
    assert support.route() == (first, None, 0)
    assert "tone is off" in support.story(rollout)
    assert f"`local` rolled back `{alias}`: tone is off." in support.story(support.last_entry())
    there = gateway.cli("rollback", alias, "--to", first, "--reason", "again", expect=2)
    assert f"serves `{first}` alone already" in there
    assert support.route() == (first, None, 0)


def test_of_commands_at_once_one_wins_and_the_others_are_told_who_did_what(support: Support) -> None:
    alias = support.alias
    with ThreadPoolExecutor(6) as threads:
        body = {"candidate": support.second, "plan": BY_HAND, "reason": "mine"}
        replies = list(threads.map(lambda _: support.gateway.admin("POST", f"routes/{alias}/rollout", body), range(6)))
        assert sorted(reply.status_code for reply in replies) == [201, 409, 409, 409, 409, 409]
        rollout = next(reply.json() for reply in replies if reply.status_code == 201)
        words = {"reason": "mine", "sequence": rollout["sequence"]}
        commands = ("pause", "abort", "approve", "pause", "abort", "approve")
        replies = list(
            threads.map(lambda name: support.gateway.admin("POST", f"rollouts/{alias}/{name}", words), commands)
        )
    assert sorted(reply.status_code for reply in replies) in ([200, 409, 409, 409, 409, 409], [200, 404, *[409] * 4])
    refused = [reply.json()["error"]["message"] for reply in replies if reply.status_code != 200]
    assert all("number 3, by `local`: mine" in message for message in refused), refused
    story = support.get(f"decisions/{rollout['id']}")
    assert (story["replay"], len(story["entries"])) == ("as stored", 3)


def test_verify_finds_every_way_to_tamper_with_the_journal(support: Support, tmp_path: Path) -> None:
    gateway = support.gateway
    rollout = support.start(BY_HAND)["id"]
    support.post(f"routes/{support.alias}/rollback", {"reason": "no"})
    export = tmp_path / "journal.jsonl"
    head = gateway.cli("journal", "export", "--output", str(export)).split()[1]
    assert gateway.cli("journal", "verify", "--head", head).startswith("whole")
    last = int(head.partition(":")[0])
    numbers = [each["number"] for each in support.get(f"decisions/{rollout}")["entries"]]
    assert numbers == [last - 2, last - 1, last]
    away = f"UPDATE journal SET number = CASE number WHEN {last} THEN {last - 1} ELSE {last} END + 1000"
    for statements, where in (
        (
            ["UPDATE journal SET record = replace(record, 'a better tone', 'no reason') WHERE number = {last} - 2"],
            last - 2,
        ),
        (["DELETE FROM journal WHERE number = {last} - 1"], last - 1),
        (["DELETE FROM journal WHERE number = {last}"], last),
        (
            [
                away + " WHERE number IN ({last} - 1, {last})",
                "UPDATE journal SET number = number - 1000 WHERE number > 1000",
            ],
            last - 1,
        ),
    ):
        with tampered(gateway.state / "state.db", [each.format(last=last) for each in statements]):
            broken = support.get("journal/verify")
            assert (broken["status"], broken["number"]) == ("broken", where)
    assert support.get("journal/verify")["status"] == "whole"
    lines = export.read_text().splitlines()
    export.write_text("\n".join([*lines[:-1], lines[-1].replace('"no"', '"yes"')]))
    assert f"BROKEN at entry {last}" in gateway.cli("journal", "verify", str(export), expect=1)
    twice = lines[-1].replace('"record": {', '"record": {"who": "nobody", ')
    export.write_text("\n".join([*lines[:-1], twice]))
    assert f"line {last} is no journal entry" in gateway.cli("journal", "verify", str(export), expect=2)
    export.write_text("\n".join(lines[:-1]))
    assert f"entry {last} is missing" in gateway.cli("journal", "verify", str(export), "--head", head, expect=1)


@contextlib.contextmanager
def tampered(database: Path, statements: list[str]) -> Iterator[None]:
    """Change the journal behind the gateway's back, and put it as it was in the end."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        kept = connection.execute("SELECT * FROM journal").fetchall()
        with connection:
            for statement in statements:
                assert connection.execute(statement).rowcount >= 1
        try:
            yield
        finally:
            with connection:
                connection.execute("DELETE FROM journal")
                connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?)", kept)
