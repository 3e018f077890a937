"""Idempotency keys around an application that fails, takes long, or is broken off."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from gateway.admin.idempotent import Idempotent
from gateway.store.idempotency import WORK_SECONDS, IdempotencyKeys, StillRunning
from gateway.store.sql import Store
from tests.support.patience import LOOK_SECONDS, PATIENCE_SECONDS
from tests.support.stores import open_empty_store

Work = Callable[[bytes], Awaitable[Response]]


class Clock:
    """Unix seconds, as the test says."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = open_empty_store(tmp_path, now=clock)
    yield store
    store.close()


class Renewing(IdempotencyKeys):
    """Counts how often claims were renewed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.renewed = 0

    def renew(self, name: str) -> None:
        super().renew(name)
        self.renewed += 1


def middleware(
    store: Store, work: Work, renew_seconds: float = 60.0, keys: IdempotencyKeys | None = None
) -> Idempotent:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reply = await work(await Request(scope, receive).body())
        await reply(scope, receive, send)

    return Idempotent(app, keys=lambda: keys or IdempotencyKeys(store), renew_seconds=renew_seconds)


async def ask(app: Idempotent, body: bytes = b"{}", key: bytes = b"k") -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of the reply."""
    messages: list[Message] = []
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "query_string": b"",
        "headers": [(b"idempotency-key", key)],
        "state": {"caller": "key-1", "operation": "POST /x"},
    }

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    sent = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], dict(messages[0]["headers"]), sent


def replies(*statuses: int) -> Work:
    """Answer with these statuses, one after the other."""
    left = list(statuses)

    async def work(body: bytes) -> Response:
        return JSONResponse({"left": len(left)}, left.pop(0))

    return work


def test_a_failure_is_forgotten_and_the_same_key_tries_again(store: Store) -> None:
    app = middleware(store, replies(503, 201, 200))
    assert [asyncio.run(ask(app))[0] for _ in range(3)] == [503, 201, 201]


def test_a_refusal_is_remembered(store: Store) -> None:
    app = middleware(store, replies(409, 200))
    assert [asyncio.run(ask(app))[0] for _ in range(2)] == [409, 409]


def test_an_application_that_raises_leaves_the_key_free(store: Store) -> None:
    async def broken(body: bytes) -> Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(middleware(store, broken)))
    assert asyncio.run(ask(middleware(store, replies(200))))[0] == 200


def test_the_body_reaches_the_application_as_sent(store: Store) -> None:
    async def echo(body: bytes) -> Response:
        return Response(body, headers={"etag": '"7"'})

    first = asyncio.run(ask(middleware(store, echo), '{"a": "é"}'.encode()))
    assert first[2] == '{"a": "é"}'.encode()
    again = asyncio.run(ask(middleware(store, replies()), '{"a": "é"}'.encode()))
    assert again[2] == first[2]
    assert (again[1][b"etag"], again[1][b"idempotency-replayed"]) == (b'"7"', b"true")


def test_a_claim_does_not_run_out_while_the_request_is_worked_on(store: Store, clock: Clock) -> None:
    async def story() -> None:
        done = asyncio.Event()

        async def long(body: bytes) -> Response:
            await done.wait()
            return JSONResponse({})

        keys = Renewing(store)
        working = asyncio.ensure_future(ask(middleware(store, long, renew_seconds=0.01, keys=keys)))
        for _ in range(4):
            renewed = keys.renewed
            async with asyncio.timeout(PATIENCE_SECONDS):
                while keys.renewed < renewed + 2:  # the second began after the clock was set
                    await asyncio.sleep(LOOK_SECONDS)
            clock.seconds += WORK_SECONDS - 1
        assert (await ask(middleware(store, replies())))[0] == 409
        done.set()
        assert (await working)[0] == 200
        assert (await ask(middleware(store, replies())))[0] == 200

    asyncio.run(story())


def test_a_request_that_was_broken_off_is_not_carried_out_again_at_once(store: Store, clock: Clock) -> None:
    async def story() -> None:
        begun = asyncio.Event()

        async def endless(body: bytes) -> Response:
            begun.set()
            await asyncio.Event().wait()
            return JSONResponse({})

        working = asyncio.ensure_future(ask(middleware(store, endless)))
        await begun.wait()
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        assert (await ask(middleware(store, replies(200))))[0] == 409, "nobody knows what it has done"
        clock.seconds += WORK_SECONDS + 1
        assert (await ask(middleware(store, replies(200))))[0] == 200

    asyncio.run(story())


def test_a_claim_that_nobody_renews_runs_out(store: Store, clock: Clock) -> None:
    keys = IdempotencyKeys(store)
    assert keys.claim("a", "r") is None
    clock.seconds += WORK_SECONDS - 1
    with pytest.raises(StillRunning):
        keys.claim("a", "r")
    keys.renew("a")
    clock.seconds += WORK_SECONDS - 1
    with pytest.raises(StillRunning):
        keys.claim("a", "r")
    clock.seconds += 2
    assert keys.claim("a", "r") is None
