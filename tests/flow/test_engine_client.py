"""What the gateway asks engines for itself, over real sockets: whole answers, and an end to each question."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.decide.route import Base
from gateway.serve.adapter_host import VllmHost
from gateway.serve.engine_client import EngineClient, NoAnswer
from tests.support.patience import PATIENCE_SECONDS

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
# Linux acknowledges what has come after 40 ms, even if nothing more comes.
DELAYED_SECONDS = 0.03
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def question(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Read one request: its first line, and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    assert fields["host"]
    return head.split("\r\n")[0], await reader.readexactly(int(fields.get("content-length", 0)))


@contextlib.asynccontextmanager
async def asked(serve: Serve) -> AsyncIterator[EngineClient]:
    writers: list[asyncio.StreamWriter] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    client = EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield client
    finally:
        client.close()
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def test_a_question_is_sent_whole_and_its_answer_read_whole_however_it_is_cut() -> None:
    parts = [b"data: one\n\n", b"data: two\n\n", b"data: three", b"\n\n"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, body = await question(reader)
        assert (line, json.loads(body)) == ("POST /v1/completions HTTP/1.1", {"prompt": "é", "n": 2})
        writer.write(CHUNKED)
        for part in [*parts, b""]:
            await asyncio.sleep(0.01)  # a read each
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))

    async def main() -> None:
        async with asked(serve) as client:
            answer = await client.post("/v1/completions", {"prompt": "é", "n": 2}, 5)
            assert answer == (200, b"".join(parts))

    asyncio.run(main())


def test_a_connection_that_the_engine_closed_while_it_was_idle_is_not_noticed() -> None:
    lines: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await question(reader))[0])
        writer.write(OK)
        with contextlib.suppress(asyncio.IncompleteReadError):
            lines.append((await question(reader))[0])
        writer.close()  # without a byte

    async def main() -> None:
        async with asked(serve) as client:
            for _ in range(2):
                assert (await client.get("/health", 5)).json() == {}

    asyncio.run(main())
    assert lines == ["GET /health HTTP/1.1"] * 3


def test_a_question_whose_time_is_over_or_that_nobody_asks_any_more_is_taken_back() -> None:
    gone = 0

    async def main() -> None:
        all_gone, began = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal gone
            await question(reader)
            writer.write(CHUNKED + b"5\r\ntoken\r\n")
            assert await reader.read() == b""
            gone += 1
            writer.close()
            if gone == 2:
                all_gone.set()

        async with asked(serve) as client:
            with pytest.raises(NoAnswer, match=r"nothing within 0\.5 s"):
                await client.get("/v1/models", 0.5)
            asking_on = asyncio.get_running_loop().create_task(
                client.post("/generate", {}, PATIENCE_SECONDS, on_part=began.set)
            )
            await began.wait()
            asking_on.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking_on
            await all_gone.wait()

    asyncio.run(main())
    assert gone == 2


def test_questions_at_once_get_their_own_answers_whichever_are_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                line, _ = await question(reader)
                await asyncio.sleep(0.001)  # about as long as some are waited for
                path = line.split()[1].encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(path), path))

    async def main() -> None:
        async with asked(serve) as client:

            async def ask(number: int) -> None:
                for turn in range(20):
                    path = f"/{number}/{turn}"
                    if number % 3:
                        assert (await client.get(path, PATIENCE_SECONDS)).text() == path
                    else:  # given up at about the time at which the answer comes
                        with contextlib.suppress(NoAnswer):
                            assert (await client.get(path, 0.001 * (turn % 4))).text() == path

            await asyncio.gather(*(ask(number) for number in range(12)))

    asyncio.run(main())


def test_no_engine_and_what_is_no_answer_are_told_of() -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(b"SSH-2.0-nothing\r\n")

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000)
        assert await reader.read() == b""  # it is cut off

    async def main() -> None:
        async with asked(garbage) as client:
            with pytest.raises(NoAnswer, match="not HTTP"):
                await client.get("/health", 5)
        async with asked(endless) as client:
            with pytest.raises(NoAnswer, match="longer than 1,000 bytes"):
                await client.get("/health", 5, most_bytes=1000)
        for nowhere in ("http://127.0.0.1:9", "unix:///nowhere/engine.sock"):
            with pytest.raises(NoAnswer, match="not reachable"):
                await EngineClient(nowhere).get("/health", 5)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told so")
def test_a_streams_events_are_not_acknowledged_one_by_one() -> None:
    came: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        writer.write(CHUNKED)
        while len(came) < 10:
            before, longest = segments_from_peer(writer), 0.0
            for number in range(10):
                text = b'data: {"token": %d}\n\n' % number
                writer.write(b"%x\r\n%s\r\n" % (len(text), text))
                began = time.monotonic()
                await asyncio.sleep(0.002)
                longest = max(longest, time.monotonic() - began)
            if longest < DELAYED_SECONDS:  # else the machine was busy, and the kernel waited for no other event
                came.append(segments_from_peer(writer) - before)
        writer.write(b"0\r\n\r\n")

    async def main() -> None:
        async with asked(serve) as client:
            assert (await client.post("/v1/completions", {}, PATIENCE_SECONDS)).status == 200

    asyncio.run(main())
    assert 30 <= sum(came) <= 75  # every second one; all 100 if nothing is said


def segments_from_peer(writer: asyncio.StreamWriter) -> int:
    """Return `tcpi_segs_in` of a connection (linux/tcp.h, struct tcp_info)."""
    info = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return int(struct.unpack_from("<I", info, 140)[0])


@pytest.mark.parametrize("figure", ["-1", "18446744073709551615", "1e400", "true", '"4096"', "null", "[]"])
def test_figures_on_an_engines_card_that_no_table_can_carry_are_left_out(figure: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await question(reader)
        card = f'{{"data":[{{"id":"base","created":{figure},"max_model_len":{figure}}}]}}'.encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(card), card))

    async def main() -> None:
        async with asked(serve) as client:
            host = VllmHost("http://127.0.0.1:1")
            host._client = client
            assert await host.base() == Base(name="base", created=0, max_model_len=None, names=("base",))

    asyncio.run(main())
