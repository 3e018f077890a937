"""The demo's two rollouts on a real engine: a better version goes live, an overfitted one is taken back by itself.

The base is the demo's and the adapters really trained, all kept in the demo's cache.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.demo.adapters import BETTER, OVERFITTED, demo_adapters
from gateway.demo.base_model import demo_base
from gateway.demo.guide import Guide
from gateway.demo.traffic import ALIAS, FACTS_TASK, TAUGHT
from gateway.demo.trials import run_trials
from gateway.settings import load
from tests.support.gateways import RunningGateway

pytestmark = [pytest.mark.real, pytest.mark.story]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, dict[str, Any]]]:
    """A gateway that has been through both rollouts, and the report on the second."""
    cache = load().cache_folder()
    base = demo_base(cache, progress=print)
    folders = demo_adapters(base, cache, (ALIAS, BETTER, OVERFITTED), progress=print)
    page = tmp_path_factory.mktemp("report") / "report.html"
    with ExitStack() as stack:
        environment = {"LORAGATE_ENGINE__MAX_MODEL_LEN": "2048"}
        gateway = stack.enter_context(RunningGateway(base=base, environment=environment))
        gateway.cli("adapters", "add", str(folders[ALIAS]), "--name", ALIAS)
        guide = Guide(gateway.state, gateway.url, gateway.control_url, gateway.key)
        began = time.monotonic()
        run_trials(guide, folders[BETTER], folders[OVERFITTED], page)
        print(f"both rollouts took {time.monotonic() - began:.0f} s")
        assert page.read_text().count("<svg") >= 3
        yield gateway, gateway.cli("shadow", "report", ALIAS, "--since", "1h", "--json")


def rollouts(gateway: RunningGateway) -> list[dict[str, Any]]:
    """All rollouts, the first that was begun first."""
    found: list[dict[str, Any]] = gateway.cli("rollout", "ls", "--alias", ALIAS, "--json")
    return found[::-1]


def test_the_better_version_is_live_and_the_overfitted_one_was_taken_back_by_automation(
    told: tuple[RunningGateway, dict[str, Any]],
) -> None:
    gateway, _ = told
    better, overfitted = rollouts(gateway)
    assert (better["phase"], overfitted["phase"]) == ("live", "rolled_back")
    assert overfitted["last"]["by"] == "automation"
    route = gateway.admin("GET", f"routes/{ALIAS}").json()
    assert (route["control"], route["candidate"]) == (better["candidate"], None)


def test_the_report_tells_the_task_that_suffered_from_the_one_that_did_not(
    told: tuple[RunningGateway, dict[str, Any]],
) -> None:
    gateway, report = told
    better, overfitted = rollouts(gateway)
    by_version = {each["version"]: each for each in report["comparisons"] if each["kind"] == "candidate"}
    tasks = {each["task"]: each for each in by_version[overfitted["candidate"]]["tasks"]}
    assert set(tasks) == {FACTS_TASK, TAUGHT}
    marked = next(each for each in tasks[FACTS_TASK]["figures"] if each["comparator"] == "expected")
    print(json.dumps(marked))
    assert marked["control"] - marked["candidate"] > 0.3
    divergence = {version: each["drift"]["kl"] for version, each in by_version.items()}
    print(
        f"KL of the better {divergence[better['candidate']]:.3f}, "
        f"of the overfitted {divergence[overfitted['candidate']]:.3f} nats a token"
    )
    assert divergence[overfitted["candidate"]] > 3 * divergence[better["candidate"]]


def test_explain_names_the_gate_that_failed(told: tuple[RunningGateway, dict[str, Any]]) -> None:
    gateway, _ = told
    story = gateway.cli("explain", rollouts(gateway)[1]["id"])
    assert ": fail:" in story
    assert "rolled back" in story


def test_every_copy_could_be_compared_and_none_was_spent_on_noise_that_no_gate_reads(
    told: tuple[RunningGateway, dict[str, Any]],
) -> None:
    _, report = told
    assert set(report["failed"]) <= {"rollout_over"}  # what waited when the overfitted one was taken back
    assert {each["kind"] for each in report["comparisons"]} == {"candidate"}
