"""What a worker and its pool tell each other, where two things happen at once."""

import asyncio
import socket
import threading
import time
from typing import Any, cast

import msgspec

from gateway.app import Worker
from gateway.mirror.captured import CapturedRequest
from gateway.records.feedback import About, RequestKey
from gateway.workers import channel
from gateway.workers.channel import Recalled, Start, WorkerReport
from gateway.workers.pool import WorkerPool
from tests.support.patience import PATIENCE_SECONDS
from tests.support.worker_pools import configuration


def framed(message: channel.ToWorker) -> bytes:
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


class Paper:
    """A channel's end that only takes note."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def test_two_who_ask_workers_at_once_get_an_answer_each() -> None:
    def about(alias: str) -> dict[RequestKey, About]:
        return {("key", alias): About(alias=alias, version=f"{alias}@1", arm="control")}

    async def main() -> list[dict[RequestKey, About]]:
        with socket.socket() as listener:
            pool = WorkerPool(listener, 1)
            (slot,) = pool._slots
            slot.writer = cast(Any, Paper())
            slot.is_ready.set()
            both = [asyncio.create_task(pool.recall([("key", alias)])) for alias in ("one", "two")]
            while len(slot.answers) < 2:
                await asyncio.sleep(0)
            for number, alias in zip(tuple(slot.answers), ("one", "two"), strict=True):
                pool._handle(slot, Recalled(number, about(alias)))
            found = list(await asyncio.gather(*both))
            pool._handle(slot, Recalled(99, about("late")))
            assert slot.recalled == {}
            return found

    assert asyncio.run(main()) == [about("one"), about("two")]


def test_a_workers_last_counts_arrive_behind_the_copies_that_it_hands_on_as_it_ends() -> None:
    ours, theirs = socket.socketpair()
    heard = bytearray()

    def listen() -> None:
        time.sleep(0.1)  # a control plane that is busy
        while data := ours.recv(1 << 20):
            heard.extend(data)

    copy = CapturedRequest(
        "noise",
        "v",
        "v",
        "control",
        "a",
        "",
        0,
        "full",
        b"/v1/completions",
        b"r",
        "k",
        "s",
        "",
        None,
        b"x" * 1_500_000,
        False,
        1_500_000,
        0.0,
    )

    async def main() -> None:
        reader, writer = await asyncio.open_connection(sock=theirs)
        worker = Worker(configuration(), reader, writer)
        worker.mirror.reserve(copy.size)
        worker.mirror.offer(copy)

        async def receive() -> dict[str, Any]:
            return {}

        async def send(_message: dict[str, Any]) -> None:
            pass

        await worker({"type": "lifespan", "state": {}}, receive, send)

    listener = threading.Thread(target=listen)
    ours.sendall(framed(Start()))
    listener.start()
    asyncio.run(main())
    listener.join(PATIENCE_SECONDS)
    ours.close()
    messages = []
    while heard:
        size = 4 + int.from_bytes(heard[:4], "big")
        messages.append(msgspec.msgpack.decode(bytes(heard[4:size]), type=channel.FromWorker))
        del heard[:size]
    assert isinstance(messages[-1], WorkerReport)
    assert messages[-1].mirror.sampled == {"a": {"noise": 1}}
