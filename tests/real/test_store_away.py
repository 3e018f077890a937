"""The store is gone, hangs, or is full, for a while under load: no request fails, and changes come back."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.load import Load, percentile
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.replicas import ALIAS, Fleet, failures, fleet

pytestmark = pytest.mark.real

# Longer than anything waits for it, and than what the leader last saw is shown.
AWAY_SECONDS = 35.0
# Of a load with the store, and without: enough to compare.
TIMED = 500
RATE = 150.0


@pytest.mark.parametrize("how", ["gone", "hanging"])
def test_a_store_that_is_away_for_a_while_delays_and_fails_nothing(how: str) -> None:
    with fleet(3, 1) as made, made.load(RATE, only=made.gateways[:2]) as load:
        until(lambda: timed(load, 0.0) > TIMED)
        left = time.monotonic()
        (made.postgres.stop if how == "gone" else made.postgres.hang)()
        check_serves_without(made)
        time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - left)))
        until(lambda: timed(load, left) > TIMED)
        came = time.monotonic()
        (made.postgres.start if how == "gone" else made.postgres.go_on)()
        check_catches_up(made)
        load.wait_for_more(TIMED)
        load.__exit__()
        compare(f"PostgreSQL {how}", load, left, came)


def timed(load: Load, since: float) -> int:
    """How many requests of those that are timed were sent since then, and are over."""
    return sum(not each.is_stream for each in load.since(since))


def check_serves_without(made: Fleet) -> None:
    """Changes are refused soon and clearly, readiness and metrics tell, and a restart serves the snapshot."""
    one, _, third = made.gateways
    until(lambda: one.metrics()["loragate_store_up"] == 0)
    refuses(one, made.new)
    ready = httpx.get(f"{one.control_url}/readyz", timeout=PATIENCE_SECONDS)
    assert ready.status_code == 200
    assert "away" in ready.json()["store"]
    until(lambda: one.metrics()["loragate_route_table_age_seconds"] > 1)
    third.stop()
    third.start()  # has nothing but what it last wrote to its disk
    assert version_of(third) == made.old
    refuses(third, made.new)


def refuses(gateway: RunningGateway, version: str) -> None:
    order = {"to": version, "reason": "without a store"}
    refused = gateway.admin("POST", f"routes/{ALIAS}/rollback", order)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable"), refused.text


def check_catches_up(made: Fleet) -> None:
    for gateway in made.gateways:
        until(lambda gateway=gateway: gateway.metrics()["loragate_store_up"] == 1)  # type: ignore[misc]
    order = {"to": made.new, "reason": "the store is back"}
    changed = made.gateways[0].admin("POST", f"routes/{ALIAS}/rollback", order)
    assert changed.status_code == 200, changed.text
    for gateway in made.gateways:
        until(lambda gateway=gateway: version_of(gateway) == made.new)  # type: ignore[misc]


def version_of(gateway: RunningGateway) -> str:
    body = {"model": ALIAS, "prompt": "a", "max_tokens": 1}
    reply = httpx.post(f"{gateway.url}/v1/completions", json=body, headers=gateway.headers, timeout=PATIENCE_SECONDS)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-loragate-version"]


def compare(what: str, load: Load, left: float, came: float) -> None:
    """Print the latencies with and without the store as ratios of one run, and check that no request failed."""
    waits = [(each.sent_at, each.first_at - each.sent_at) for each in load.done if not each.is_stream]
    before = [wait for sent_at, wait in waits if sent_at < left]
    away = [wait for sent_at, wait in waits if left <= sent_at < came]
    ratios = [percentile(away, share) / percentile(before, share) for share in (0.5, 0.9, 0.99)]
    print(f"\n{what} for {came - left:.0f} s: {len(load.done):,} requests at {RATE:.0f}/s, {len(away):,} timed")
    print(
        "latency without the store / with it: "
        + ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(("p50", "p90", "p99"), ratios, strict=True))
    )
    assert failures(load.done) == []
    assert len(away) > TIMED


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder on a file system of its own that is soon full."""
    with tempfile.TemporaryDirectory(prefix="lg-full-") as folder:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("only root may mount a file system")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_under_sqlite_stops_changes_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(8) as disk, FakeEngine() as one, FakeEngine() as two:
        settings = {"LORAGATE_ADAPTERS__REGISTRY": str(tmp_path / "registry")}
        with RunningGateway(one.url, two.url, environment=settings, state=disk) as gateway:
            source = str(write_adapter(tmp_path / "a"))
            assert gateway.admin("POST", "adapters", {"source": source, "name": ALIAS}).status_code == 201

            def body(_: int) -> dict[str, object]:
                return {"model": ALIAS, "prompt": "a", "max_tokens": 4, "fake": {"ttft_ms": 20}}

            with Load(targets=[gateway.url], rate=RATE, body=body, headers=gateway.headers) as load:
                until(lambda: timed(load, 0.0) > TIMED)
                left = time.monotonic()
                filler = disk / "filler"
                fill(filler)
                check_refuses_while_full(gateway)
                time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - left)))
                until(lambda: timed(load, left) > TIMED)
                came = time.monotonic()
                filler.unlink()
                made = gateway.admin("POST", "keys", {"role": "app"})
                assert made.status_code == 201, made.text
                load.__exit__()
                compare("SQLite's disk full", load, left, came)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return


def check_refuses_while_full(gateway: RunningGateway) -> None:
    """SQLite reuses pages and the log's room for a while: changes are made until one is refused."""
    kept = len(gateway.admin("GET", "keys").json()["keys"])
    while (made := gateway.admin("POST", "keys", {"role": "app", "name": "x" * 90})).status_code == 201:
        kept += 1
        assert kept < 5_000, "the disk does not become full"
    assert (made.status_code, made.json()["error"]["code"]) == (503, "store_unavailable"), made.text
    assert "space" in made.json()["error"]["message"]
    assert len(gateway.admin("GET", "keys?limit=1000").json()["keys"]) == min(kept, 1_000), (
        "what was refused is not there"
    )
