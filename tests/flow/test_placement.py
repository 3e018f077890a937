"""Two engines of which one fails, hangs, drops or dawdles: what clients see, and what the metrics say of it."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway
from tests.support.patience import PATIENCE_SECONDS, until
from tests.support.raw_client import CHAT, Raw, chat

# Short, so that an ejection, a pause and a return fit in a few seconds.
HASTY = {
    "LORAGATE_LIMITS__ENGINE_SILENT_SECONDS": "1",
    "LORAGATE_LIMITS__EJECT_SECONDS": "0.2",
    "LORAGATE_LIMITS__EJECT_LONGEST_SECONDS": "0.4",
}
MAX_ERRORS = 0.001  # of all requests


@dataclass
class Pair:
    """A gateway and its two engines."""

    gateway: RunningGateway
    a: FakeEngine
    b: FakeEngine

    def of_a(self, series: str) -> float:
        """A series' sum over what it says of engine `a`."""
        found = self.gateway.metrics().items()
        return sum(value for name, value in found if name.startswith(series + "{") and self.a.url in name)


@contextlib.contextmanager
def pair(**environment: str) -> Iterator[Pair]:
    """Start them."""
    with (
        FakeEngine(keep=0) as a,
        FakeEngine(keep=0) as b,
        RunningGateway(a.url, b.url, environment=environment) as gateway,
    ):
        gateway.wait_for_engine()
        yield Pair(gateway, a, b)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Pair]:
    """A gateway that loses patience soon."""
    with pair(**HASTY) as pair_:
        yield pair_


@dataclass
class Load:
    """Clients that ask one request after another, streamed or not, each a conversation of its own."""

    gateway: RunningGateway
    clients: int = 12
    sent: int = 0
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in self._threads)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(urlsplit(self.gateway.url).netloc, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            while not self._stop.is_set():
                number = next(self._numbers)
                body = chat(user=f"u{number}", stream=number % 2 == 0, max_tokens=3)
                connection.request("POST", CHAT, json.dumps(body), self.gateway.headers)
                reply = connection.getresponse()
                data = reply.read()
                if reply.status != 200 or b'"error"' in data or (body["stream"] and b"[DONE]" not in data):
                    self.errors.append(f"{reply.status} {data[:200]!r}")
                with self._lock:  # one that hung ends long after those that were sent after it
                    self.sent += 1
                time.sleep(0.002)


def ejected(pair: Pair) -> list[float]:
    found = pair.gateway.metrics().items()
    return [value for name, value in found if name.startswith("loragate_engine_ejected{")]


def break_engine(engine: FakeEngine, how: str) -> None:
    """Make every generation on it fail; its health check goes on saying that all is well."""
    if how == "fails":
        engine.fail_next(1_000_000, status=500)
    elif how == "hangs":
        engine.set(hang=True)
    elif how == "drops":
        engine.set(drop=True)
    else:
        engine.set(slow_share=0.2, slow_ms=250)


def mend(engine: FakeEngine) -> None:
    """Make it work again."""
    engine.core.failures.clear()
    engine.set(hang=False, drop=False, slow_share=0.0)


def go_through(pair: Pair, how: str, requests: int) -> Load:
    """Break engine `a` for so many requests, then mend it and wait for its return."""
    try:
        with Load(pair.gateway) as load:
            # What hung at the end of another test may have had it ejected once more.
            until(lambda: load.sent > 50 and pair.of_a("loragate_engine_ejected") == 0, "all is well")
            before = [pair.of_a(f"loragate_engine_{what}_total") for what in ("ejections", "returns")]
            break_engine(pair.a, how)
            if how != "dawdles":
                until(lambda: pair.of_a("loragate_engine_ejected") == 1, "the engine is ejected")
            sent = load.sent
            until(lambda: load.sent >= sent + requests, "requests are served meanwhile")
            assert pair.of_a("loragate_engine_ejected") == (how != "dawdles")
            mend(pair.a)
            until(lambda: pair.of_a("loragate_engine_ejected") == 0, "the engine is back")
            served = pair.a.completed
            until(lambda: pair.a.completed > served + 20, "it is sent requests again")
    finally:
        mend(pair.a)
    after = [pair.of_a(f"loragate_engine_{what}_total") for what in ("ejections", "returns")]
    ejections, returns = (int(now - then) for now, then in zip(after, before, strict=True))
    print(f"{how}: {load.sent} requests, {len(load.errors)} errors, {ejections} ejections, {returns} returns")
    assert len(load.errors) <= MAX_ERRORS * load.sent, load.errors[:3]
    if how == "dawdles":
        assert (ejections, returns) == (0, 0)
    else:
        assert ejections >= returns >= 1
    return load


FAULTS = ["fails", "hangs", "drops"]


@pytest.mark.parametrize("how", FAULTS)
def test_clients_do_not_notice_an_engine_that_goes_bad(hasty: Pair, how: str) -> None:
    go_through(hasty, how, 200)


@pytest.mark.simulation
@pytest.mark.parametrize("how", FAULTS)
def test_clients_do_not_notice_an_engine_that_is_bad_for_long(hasty: Pair, how: str) -> None:
    assert go_through(hasty, how, 3_000).sent > 3_000


@pytest.mark.simulation
def test_an_engine_that_dawdles_now_and_then_is_not_ejected() -> None:
    # As long a silence as a busy machine may make of 250 ms.
    with pair(**HASTY | {"LORAGATE_LIMITS__ENGINE_SILENT_SECONDS": "10"}) as patient:
        assert go_through(patient, "dawdles", 3_000).sent > 3_000


def test_when_every_engine_fails_they_are_asked_all_the_same_and_their_own_answer_is_passed_on(hasty: Pair) -> None:
    engines = (hasty.a, hasty.b)
    try:
        for engine in engines:
            engine.fail_next(1_000_000, status=500)
        with Raw(hasty.gateway) as client:
            replies = [client.ask(CHAT, chat(user=f"u{number}")) for number in range(30)]
            assert {reply.status for reply in replies} == {500}
            assert "fake engine was told to fail" in replies[-1].json()["error"]["message"]
            for engine in engines:
                engine.core.failures.clear()
            assert client.ask(CHAT, chat()).status == 200  # at once, whatever pause was left
    finally:
        for engine in engines:
            mend(engine)
    with Load(hasty.gateway, clients=2):
        until(lambda: sum(ejected(hasty)) == 0, "both are back")


# Room


@pytest.fixture(scope="module")
def narrow() -> Iterator[Pair]:
    """A gateway whose engines take one request each; two more wait, for as long as a test may take."""
    with pair(**room_for(seconds=2 * PATIENCE_SECONDS)) as pair_:
        yield pair_


def room_for(seconds: float) -> dict[str, str]:
    """Settings for one request on each engine, and two that wait so long."""
    limits = {"ENGINE_CONCURRENCY": "1", "QUEUE_SIZE": "2", "QUEUE_SECONDS": str(seconds)}
    return {f"LORAGATE_LIMITS__{name}": value for name, value in limits.items()}


@contextlib.contextmanager
def asking(pair: Pair, count: int, **body: object) -> Iterator[list[Raw]]:
    """So many clients, each with a request under way, sent one after another."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(pair.gateway)) for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(client.request(CHAT, chat(user=f"u{number}", **body)))
            until(lambda: pair.a.running + pair.b.running + queued(pair) == number + 1, "it runs or waits")  # noqa: B023
        yield clients


def queued(pair: Pair) -> float:
    return pair.gateway.metrics()["loragate_requests_queued"]


def test_requests_beyond_the_cap_wait_for_their_turn(narrow: Pair) -> None:
    before = narrow.gateway.metrics()["loragate_queue_wait_seconds_count"]
    with asking(narrow, 4, fake={"held": True}) as clients:
        assert (narrow.a.running, narrow.b.running, queued(narrow)) == (1, 1, 2)
        for _ in range(2):
            assert narrow.a.wait_for(lambda engine: engine.held == 1)
            assert narrow.b.wait_for(lambda engine: engine.held == 1)
            narrow.a.release()
            narrow.b.release()
        assert [client.reply().status for client in clients] == [200] * 4
    metrics = narrow.gateway.metrics()
    assert (metrics["loragate_requests_queued"], metrics["loragate_queue_wait_seconds_count"]) == (0, before + 2)


def test_beyond_the_queue_it_is_503(narrow: Pair) -> None:
    with asking(narrow, 4, fake={"hang": True}) as clients, Raw(narrow.gateway) as another:
        reply = another.ask(CHAT, chat())
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "overloaded", "1")
        assert [refusals(narrow, reason) for reason in ("full", "timeout")] == [1, 0]
        assert (narrow.a.running, narrow.b.running, queued(narrow)) == (1, 1, 2)
        for client in clients:
            client.close()
    until(lambda: narrow.a.running + narrow.b.running + queued(narrow) == 0, "the engines are free")


def test_beyond_the_time_of_the_queue_it_is_503() -> None:
    with pair(**room_for(seconds=1)) as impatient, contextlib.ExitStack() as stack:
        stack.enter_context(asking(impatient, 2, fake={"hang": True}))
        clients = [stack.enter_context(Raw(impatient.gateway)) for _ in range(2)]
        for client in clients:
            client.send(client.request(CHAT, chat()))
        for client in clients:
            reply = client.reply()
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "overloaded", "1")
        assert [refusals(impatient, reason) for reason in ("full", "timeout")] == [0, 2]


def refusals(pair: Pair, reason: str) -> float:
    return pair.gateway.metrics()[f'loragate_queue_refusals_total{{reason="{reason}"}}']


def test_a_client_that_leaves_leaves_the_queue(narrow: Pair) -> None:
    with asking(narrow, 4, fake={"hang": True}) as clients:
        clients[2].close()
        until(lambda: queued(narrow) == 1, "it has left")
        clients[0].close()  # makes room for the one that still waits
        until(lambda: queued(narrow) == 0, "it runs")
        assert narrow.a.running + narrow.b.running == 2
    until(lambda: narrow.a.running + narrow.b.running == 0, "the engines are free")


def test_one_that_waits_for_another_engine_does_not_hold_up_those_who_could_use_the_one_that_failed_it(
    narrow: Pair,
) -> None:
    with asking(narrow, 1, fake={"hang": True}):
        idle = narrow.b if narrow.a.running else narrow.a
        with Raw(narrow.gateway) as failed, Raw(narrow.gateway) as next_one:
            failed.send(failed.request(CHAT, chat(user="u", fake={"status": 500})))
            until(lambda: queued(narrow) == 1, "it waits for the busy engine")
            assert (next_one.ask(CHAT, chat(user="v")).status, queued(narrow)) == (200, 1)
            assert idle.running == 0
    until(lambda: narrow.a.running + narrow.b.running + queued(narrow) == 0, "all have left")


def test_what_has_had_no_byte_moves_away_from_an_engine_that_goes_down(narrow: Pair) -> None:
    for engine in (narrow.a, narrow.b):
        engine.set(hang=True)
    try:
        with asking(narrow, 1) as (client,):
            stuck, other = (narrow.a, narrow.b) if narrow.a.running else (narrow.b, narrow.a)
            other.set(hang=False)
            stuck.set(hang=True, status=503)  # its health check says so as well
            assert client.reply().status == 200
            assert stuck.wait_for(lambda engine: engine.running == 0)  # it notices a moment later that nobody waits
            assert (stuck.running, other.running) == (0, 0)
    finally:
        for engine in (narrow.a, narrow.b):
            engine.set(hang=False, status=200)
    narrow.gateway.wait_for_engine(up=True)


def test_a_conversation_stays_on_its_engine(narrow: Pair) -> None:
    with Raw(narrow.gateway) as client:
        for number in range(6):
            messages: list[dict[str, str]] = [{"role": "system", "content": f"Be {number}."}]
            served = []
            for turn in range(4):
                messages.append({"role": "user", "content": f"Question {turn}"})
                before = narrow.a.completed
                reply = client.ask(CHAT, {"model": "base", "messages": messages}).json()["choices"][0]["message"]
                messages.append({"content": str(reply["content"]), "role": "assistant"})
                until(lambda: narrow.a.running + narrow.b.running == 0)  # by then it is counted
                served.append(narrow.a.completed - before)
            assert len(set(served)) == 1, served
