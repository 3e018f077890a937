"""The alias that rollouts are tried on."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS


class Support:
    """An alias of its own with two versions, the first of them in service."""

    def __init__(self, gateway: RunningGateway, engine: FakeEngine, alias: str, versions: list[str]) -> None:
        self.gateway = gateway
        self.engine = engine
        self.alias = alias
        self.first, self.second = versions
        self._units = itertools.count()

    def ask(self, client: httpx.Client) -> int:
        body = {"model": self.alias, "prompt": "a", "max_tokens": 1, "user": f"unit-{next(self._units)}"}
        return client.post("/v1/completions", json=body).status_code

    @contextlib.contextmanager
    def traffic(self) -> Iterator[list[int]]:
        """Send requests of ever new units until the end; yields their statuses."""
        statuses: list[int] = []
        stopping = threading.Event()

        def send() -> None:
            with httpx.Client(
                base_url=self.gateway.url, headers=self.gateway.headers, timeout=PATIENCE_SECONDS
            ) as client:
                while not stopping.is_set():
                    statuses.append(self.ask(client))
                    time.sleep(0.003)

        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield statuses
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def start(self, plan: Any, candidate: str | None = None, expect: int = 201) -> dict[str, Any]:
        body = {"candidate": candidate or self.second, "plan": plan, "reason": "a better tone"}
        return self.post(f"routes/{self.alias}/rollout", body, expect)

    def post(self, path: str, body: dict[str, Any], expect: int = 200) -> dict[str, Any]:
        reply = self.gateway.admin("POST", path, body)
        assert reply.status_code == expect, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def get(self, path: str) -> dict[str, Any]:
        reply = self.gateway.admin("GET", path)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def wait_for(self, rollout: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = self.get(f"rollouts/{rollout}")
            if holds(found):
                return found
            time.sleep(0.05)
        raise AssertionError(f"the rollout stands at {found}\n{self.gateway.log_path.read_text()}")

    def route(self) -> tuple[str, str | None, int]:
        route = self.get(f"routes/{self.alias}")
        return route["control"], route["candidate"], route["weight"]

    def last_entry(self) -> str:
        return str(self.get("journal?newest=true&limit=1")["entries"][0]["number"])

    def story(self, decision: str) -> str:
        return str(self.gateway.cli("explain", decision))
