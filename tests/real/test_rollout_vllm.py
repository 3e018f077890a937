"""A rollout on a real vLLM: ramped by its plan and live, then another one taken back; `explain` tells both stories."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until

pytestmark = pytest.mark.real

ALIAS = "ramped"
MESSAGES: list[Any] = [{"role": "user", "content": "The capital of France is"}]
GATES = [{"error_rate": {"margin": "60%"}}]
CALLERS = 4


@contextmanager
def traffic(gateway: RunningGateway, seen: list[tuple[str, str]]) -> Iterator[None]:
    """The official client of many users; `seen` gets (version, reason) of each reply."""
    stopping = threading.Event()

    def call(first: int) -> None:
        with openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=2 * PATIENCE_SECONDS
        ) as client:
            for number in range(first, 100_000, CALLERS):
                if stopping.is_set():
                    return
                raw = client.chat.completions.with_raw_response.create(
                    model=ALIAS, messages=MESSAGES, max_tokens=4, temperature=0, user=f"user-{number}"
                )
                seen.append((raw.headers["x-loragate-version"], raw.headers["x-loragate-route-reason"]))

    threads = [threading.Thread(target=call, args=(first,)) for first in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def add(gateway: RunningGateway, folder: Path, *, activate: bool) -> str:
    added = gateway.admin("POST", "adapters", {"source": str(folder), "name": ALIAS, "activate": activate})
    assert added.status_code == 201, added.text
    return str(added.json()["version"])


def phase(gateway: RunningGateway, rollout: str, wanted: str) -> dict[str, Any]:
    def found() -> dict[str, Any]:
        answer: dict[str, Any] = gateway.admin("GET", f"rollouts/{rollout}").json()
        return answer

    until(lambda: found()["phase"] == wanted, f"the rollout becomes {wanted}", 4 * PATIENCE_SECONDS)
    return found()


def start(gateway: RunningGateway, candidate: str) -> str:
    plan = {
        "steps": [
            {"weight": "20%", "min_time": "2s", "min_samples": 5, "gates": GATES},
            {"weight": "60%", "min_time": "2s", "min_samples": 5, "gates": GATES},
            {"weight": "100%"},
        ]
    }
    order = {"candidate": candidate, "plan": plan, "reason": "the next release"}
    started = gateway.admin("POST", f"routes/{ALIAS}/rollout", order)
    assert started.status_code == 201, started.text
    return str(started.json()["id"])


def test_a_rollout_goes_live_by_its_plan_and_the_next_is_rolled_back(
    ramping: RunningGateway, tiny_adapters: dict[str, Path]
) -> None:
    gateway = ramping
    one = add(gateway, tiny_adapters["amber"], activate=True)
    two = add(gateway, tiny_adapters["blue"], activate=False)
    three = add(gateway, tiny_adapters["coral"], activate=False)
    seen: list[tuple[str, str]] = []
    with traffic(gateway, seen):
        first = start(gateway, two)
        live = phase(gateway, first, "live")
        until_served(seen, two)
        second = start(gateway, three)
        until_served(seen, three)
        print(gateway.cli("rollback", ALIAS, "--reason", "callers complain about the tone"))
        mark = len(seen) + CALLERS  # those under way may end on what they began with
        until(lambda: len(seen) > mark + 5 * CALLERS)
    assert live["candidate"] == two
    assert {version for version, _ in seen} == {one, two, three}
    assert {version for version, _ in seen[mark:]} == {two}
    assert {reason for _, reason in seen} == {"split"}
    tells(gateway, first, ["the next release", "error rate", "passes", two])
    tells(gateway, second, ["callers complain about the tone", three])
    assert "whole" in gateway.cli("journal", "verify")


def until_served(seen: list[tuple[str, str]], version: str) -> None:
    until(lambda: version in {each for each, _ in seen[-50:]}, f"{version} is served")


def tells(gateway: RunningGateway, rollout: str, words: list[str]) -> None:
    story = gateway.cli("explain", rollout)
    print(story)
    assert [word for word in words if word not in story] == []
