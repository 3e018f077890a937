"""Callers of a real vLLM and their times to first token, by turns with requests copied and not, in one run."""

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from gateway.store.pairs import Pairs
from gateway.store.sql import open_store
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS

ALIAS = "support"
# Mirrored all the time and asked by nobody later: so the evaluator runs, warm, whether or not the first is mirrored.
OTHER = "other"


@dataclass(slots=True)
class Waits:
    """What callers waited, in seconds, with copies off and on, and how many pairs were compared."""

    off: list[float] = field(default_factory=list)
    on: list[float] = field(default_factory=list)
    pairs: int = 0

    def told(self) -> list[str]:
        """Return a line for each percentile, and one for how many."""
        lines = [f"requests: off {len(self.off)}, on {len(self.on)}; pairs compared: {self.pairs}"]
        for at in (50, 75, 90, 95, 99):
            off, on = (percentile(each, at) * 1000 for each in (self.off, self.on))
            lines.append(f"p{at} time to first token: off {off:.0f} ms, on {on:.0f} ms, on/off {on / off:.2f}")
        return lines


@contextmanager
def serving(base: Path, adapter: Path, other: Path) -> Iterator[tuple[RunningGateway, str]]:
    """A gateway with both adapters and a warm evaluator; yields it and the version behind `ALIAS`."""
    with RunningGateway(base=base, environment={"LORAGATE_ENGINE__MAX_MODEL_LEN": "2048"}) as gateway:
        control, mirrored = _add(gateway, adapter, ALIAS), _add(gateway, other, OTHER)
        _mirror(gateway, OTHER, mirrored, "100%")
        with httpx.Client(timeout=2 * PATIENCE_SECONDS, headers=gateway.headers) as client:
            for number in range(4):
                first_token(client, gateway.url, number, model=OTHER)
            first_token(client, gateway.url, 0)
        _wait_for_pairs(gateway, OTHER, 4)
        yield gateway, control


def measure(
    gateway: RunningGateway, control: str, *, blocks: int, seconds: float, rate: float, max_tokens: int = 16
) -> Waits:
    """Send requests at random moments; in every second block a tenth of them is copied.

    Args:
        gateway: As `serving` yields it.
        control: The version behind `ALIAS`.
        blocks: How many, an even number.
        seconds: That each takes.
        rate: Requests a second, exponentially spaced (seeded).
        max_tokens: Of each reply.
    """
    waits = Waits()
    chance = random.Random(1)
    with (
        ThreadPoolExecutor(64) as pool,
        httpx.Client(
            timeout=2 * PATIENCE_SECONDS, headers=gateway.headers, limits=httpx.Limits(max_connections=64)
        ) as client,
    ):
        for block in range(blocks):
            is_on = block % 2 == 1
            _mirror(gateway, ALIAS, control, "10%" if is_on else 0)
            begun = []
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                number = chance.randrange(10**9)
                begun.append(pool.submit(first_token, client, gateway.url, number, max_tokens=max_tokens))
                time.sleep(chance.expovariate(rate))
            (waits.on if is_on else waits.off).extend(each.result() for each in begun)
    _wait_for_pairs(gateway, ALIAS, 1)
    waits.pairs = _pairs(gateway, ALIAS)
    return waits


def first_token(client: httpx.Client, url: str, number: int, *, model: str = ALIAS, max_tokens: int = 16) -> float:
    """Return the seconds until a stream's first event."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me about {number}"}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    began = time.monotonic()
    took = 0.0
    with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        for _ in reply.iter_lines():
            took = took or time.monotonic() - began
    return took


def percentile(seconds: list[float], at: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[at - 1]


def _add(gateway: RunningGateway, folder: Path, name: str) -> str:
    added = gateway.admin("POST", "adapters", {"source": str(folder), "name": name, "activate": True})
    assert added.status_code == 201, added.text
    return str(added.json()["version"])


def _mirror(gateway: RunningGateway, alias: str, control: str, share: object) -> None:
    body = {"routes": [{"alias": alias, "control": control, "mirror": {"share": share}}], "reason": "test"}
    reply = gateway.admin("PUT", "routes", body)
    assert reply.status_code == 200, reply.text


def _pairs(gateway: RunningGateway, alias: str) -> int:
    store = open_store(gateway.state, now=time.time)
    try:
        return len(Pairs(store).since(0, alias=alias))
    finally:
        store.close()


def _wait_for_pairs(gateway: RunningGateway, alias: str, least: int) -> None:
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while _pairs(gateway, alias) < least:
        assert time.monotonic() < deadline, gateway.log_path.read_text()[-3000:]
        time.sleep(0.2)
