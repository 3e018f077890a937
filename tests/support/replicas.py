"""Gateways on one real PostgreSQL, in front of two fake engines: what the tests of replicas stand on."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.gateways import RunningGateway
from tests.support.load import Done, Load, percentile
from tests.support.patience import until
from tests.support.postgres import RunningPostgres

ALIAS = "support"


@dataclass(slots=True)
class Fleet:
    """Replicas, their engines and database, and an alias with two versions, `old` in service."""

    postgres: RunningPostgres
    database: str
    engines: list[FakeEngine]
    gateways: list[RunningGateway] = field(default_factory=list)
    old: str = ""
    new: str = ""

    def load(self, rate: float, only: Sequence[RunningGateway] = ()) -> Load:
        """A steady load on some gateways, or all; every other request is a stream of 0.2 s."""

        def body(number: int) -> dict[str, Any]:
            if number % 2 == 0:
                knobs = {"events": 20, "cadence_ms": 10}
                return {"model": ALIAS, "prompt": "a", "max_tokens": 20, "stream": True, "fake": knobs}
            return {"model": ALIAS, "prompt": "a", "max_tokens": 4, "fake": {"ttft_ms": 20}}

        urls = [gateway.url for gateway in only or self.gateways]
        return Load(targets=urls, rate=rate, body=body, headers=self.gateways[0].headers)


@contextmanager
def fleet(
    replicas: int,
    workers: int,
    *,
    address: Callable[[str, int], str] = lambda database, _: database,
    **environment: str,
) -> Iterator[Fleet]:
    """Start all of it, and stop it; `address` may give each gateway another way to the database."""
    with ExitStack() as stack:
        postgres = stack.enter_context(RunningPostgres())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-r-")))
        engines = [stack.enter_context(FakeEngine()) for _ in range(2)]
        made = Fleet(postgres=postgres, database=postgres.database(), engines=engines)
        settings = {
            "LORAGATE_ADAPTERS__REGISTRY": str(folder / "registry"),
            "LORAGATE_WORKERS": str(workers),
            **environment,
        }
        for number in range(replicas):
            state = folder / f"s{number}"
            state.mkdir()
            settings["LORAGATE_STORE"] = address(made.database, number)
            gateway = RunningGateway(*(engine.url for engine in engines), environment=dict(settings), state=state)
            made.gateways.append(stack.enter_context(gateway))
        first = made.gateways[0]
        for seed in (1, 2):
            source = str(write_adapter(folder / f"a{seed}", seed))
            added = first.admin("POST", "adapters", {"source": source, "name": ALIAS, "activate": seed == 1})
            assert added.status_code == 201, added.text
            made.old, made.new = (added.json()["version"], "") if seed == 1 else (made.old, added.json()["version"])
        until(lambda: all(is_ready(each, made.new) for each in made.gateways))
        yield made


def is_ready(gateway: RunningGateway, version: str) -> bool:
    """Whether a gateway has seen the version on every engine."""
    return all(version in engine["versions"] for engine in gateway.status()["engines"])


def told(name: str, seconds: list[float]) -> str:
    """A distribution in one line, in milliseconds."""
    shares = ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (1.0, "worst"))
    return f"{name}: " + ", ".join(f"{label} {1000 * percentile(seconds, share):.1f} ms" for share, label in shares)


def failures(done: list[Done]) -> list[Done]:
    """Requests that a caller would complain about."""
    return [each for each in done if not each.is_good]
