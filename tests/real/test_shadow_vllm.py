"""Shadow evaluation on a real vLLM: a twin goes live, another model is taken back, what callers wait is told."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.first_tokens import measure, serving
from tests.support.gateways import RunningGateway

pytestmark = pytest.mark.real

ALIAS = "shadowed"
# What callers pause between two requests: the engine's time is for the copies, too.
PAUSE_SECONDS = 1.0
TOPICS = ("rivers", "bread", "a lighthouse", "the moon", "chess", "rain", "an old clock", "bees", "maps", "salt")


def twin_of(adapter: Path, folder: Path) -> Path:
    """Another version of the same weights: what differs is a setting that serving does not read."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_dropout": 0.05}))
    return folder


@contextmanager
def traffic(gateway: RunningGateway, callers: int) -> Iterator[list[str]]:
    """Callers of the official client at temperature 0.7, each request a session of its own; yields versions served."""
    stopping = threading.Event()
    seen: list[str] = []
    failed: list[Exception] = []

    def call(first: int) -> None:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=120) as client:
            for number in range(first, 1_000_000, callers):
                if stopping.is_set():
                    return
                text = f"Tell me something about {TOPICS[number % len(TOPICS)]}, number {number}."
                try:
                    raw = client.chat.completions.with_raw_response.create(
                        model=ALIAS,
                        messages=[{"role": "user", "content": text}],
                        max_tokens=12,
                        temperature=0.7,
                        user=f"user-{number}",
                    )
                except openai.OpenAIError as error:
                    failed.append(error)
                    return
                seen.append(raw.headers["x-loragate-version"])
                stopping.wait(PAUSE_SECONDS)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert failed == []


def add(gateway: RunningGateway, folder: Path, *, activate: bool) -> str:
    added = gateway.admin("POST", "adapters", {"source": str(folder), "name": ALIAS, "activate": activate})
    assert added.status_code == 201, added.text
    return str(added.json()["version"])


def start(gateway: RunningGateway, candidate: str, pairs: int) -> str:
    """Begin a rollout; with few pairs its margins are wide enough for them.

    A random model's next token is nearly anybody's guess: its five likeliest tell little, so `kl`, which is bounded
    by them, tells nothing here; which one comes first tells versions apart.
    """
    margin = "5%" if pairs >= 300 else "30%"
    gates: list[Any] = [
        *({name: {"margin": margin, "min_samples": 20}} for name in ("failed", "refusal", "repetition", "truncated")),
        {"token_flip": {"limit": 0.2, "min_samples": 20}},
        {"chrf": {"muted": True}},
    ]
    plan = {
        "shadow": {"pairs": pairs, "share": "100%", "idle": "2s", "gates": gates},
        "steps": [
            {"weight": "50%", "min_time": "2s", "min_samples": 20, "gates": [{"error_rate": {"margin": "50%"}}]},
            {"weight": "100%"},
        ],
    }
    order = {"candidate": candidate, "plan": plan, "reason": "the next release"}
    started = gateway.admin("POST", f"routes/{ALIAS}/rollout", order)
    assert started.status_code == 201, started.text
    return str(started.json()["id"])


def over(gateway: RunningGateway, rollout: str, seconds: float) -> dict[str, Any]:
    """Wait until a rollout has come to an end by itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: dict[str, Any] = gateway.admin("GET", f"rollouts/{rollout}").json()
        if found["phase"] in ("live", "rolled_back", "aborted", "paused"):
            return found
        time.sleep(0.5)
    raise AssertionError(
        f"the rollout does not end: {json.dumps(found)[:3000]}\n{gateway.log_path.read_text()[-3000:]}"
    )


@pytest.mark.parametrize("pairs", [50, pytest.param(300, marks=pytest.mark.story)])
def test_a_twin_goes_live_and_another_model_is_taken_back(
    ramping: RunningGateway, tiny_adapters: dict[str, Path], tmp_path: Path, pairs: int
) -> None:
    gateway = ramping
    first = add(gateway, tiny_adapters["amber"], activate=True)
    twin = add(gateway, twin_of(tiny_adapters["amber"], tmp_path / "twin"), activate=False)
    other = add(gateway, tiny_adapters["coral"], activate=False)
    assert len({first, twin, other}) == 3
    with traffic(gateway, 4) as seen:
        began = time.monotonic()
        same = start(gateway, twin, pairs)
        ended = over(gateway, same, 900)
        print(f"\ntwin: {ended['phase']} after {time.monotonic() - began:.0f} s")
        story = gateway.cli("explain", same)
        print(story)
        assert ended["phase"] == "live", story
        mark, began = len(seen), time.monotonic()
        worse = start(gateway, other, pairs)
        ended = over(gateway, worse, 400)
        print(f"another model: {ended['phase']} after {time.monotonic() - began:.0f} s, {len(seen) - mark} requests")
        story = gateway.cli("explain", worse)
        print(story)
        assert ended["phase"] == "rolled_back", story
    assert other not in seen  # it was in the shadow from its first request to its last
    assert twin in seen[-20:]
    assert "token_flip" in story
    print(gateway.cli("shadow", "report", ALIAS))


def test_what_callers_wait_for_their_first_token_with_copies_and_without_is_told(
    tiny_base_path: Path, tiny_adapters: dict[str, Path]
) -> None:
    """Speed is told, not asserted (`python -m bench.callers` asserts it); that copies were compared meanwhile is."""
    with serving(tiny_base_path, tiny_adapters["amber"], tiny_adapters["blue"]) as (gateway, control):
        waits = measure(gateway, control, blocks=4, seconds=8, rate=5.0)
    print("\n" + "\n".join(waits.told()))
    assert waits.pairs > 0
    assert min(len(waits.off), len(waits.on)) > 50
