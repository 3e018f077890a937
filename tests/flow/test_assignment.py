"""Who gets which arm, whoever asks and however; what a tester may choose; and what rollouts are told."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import httpx
import openai
import pytest

from gateway.decide.assign import Arm, bucket
from gateway.decide.authenticate import Role
from gateway.decide.route import EngineState
from gateway.observe.tally import Tally
from gateway.records.routes import RouteRecord
from gateway.records.state import KeyRecord
from tests.fakes.engine import FakeEngine
from tests.support.adapter_folders import write_adapter
from tests.support.patience import LOOK_SECONDS, PATIENCE_SECONDS
from tests.support.state_records import rollout
from tests.support.worker_pools import keyed, load_on, running_pool, table_of

CONTROL, CANDIDATE = "support@111111111111", "support@222222222222"
BODY: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
ROLLOUT = rollout(stage=3)
WEIGHT = 3_000


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeEngine, FakeEngine]]:
    """One with both versions, one with the control alone."""
    folder = tmp_path_factory.mktemp("adapters")
    with FakeEngine() as both, FakeEngine() as control:
        for number, version in enumerate((CONTROL, CANDIDATE)):
            load_on(both, version, write_adapter(folder / str(number), number))
        load_on(control, CONTROL, folder / "0")
        yield both, control


def views(engines: Sequence[FakeEngine], *, has_candidate: bool = True) -> list[EngineState]:
    both, control = engines
    versions = frozenset({CONTROL, CANDIDATE} if has_candidate else {CONTROL})
    return [EngineState(url=both.url, versions=versions), EngineState(url=control.url, versions=frozenset({CONTROL}))]


def route(weight: int = WEIGHT, **more: Any) -> RouteRecord:
    return RouteRecord(alias="support", control=CONTROL, candidate=CANDIDATE, weight=weight, salt="s", **more)


def table(
    engines: Sequence[FakeEngine],
    keys: Sequence[KeyRecord],
    split: RouteRecord,
    *,
    is_open: bool = True,
    has_candidate: bool = True,
) -> bytes:
    rollouts = [ROLLOUT] if is_open else []
    return table_of(keys, [split], rollouts, views(engines, has_candidate=has_candidate))


def arm_of(unit: str, weight: int = WEIGHT) -> Arm:
    return Arm.CANDIDATE if bucket("s", unit) < weight else Arm.CONTROL


async def ask(client: httpx.AsyncClient, unit: str = "", **more: Any) -> httpx.Response:
    headers = {"x-loragate-unit": unit, **more.pop("headers", {})}
    return await client.post("/v1/chat/completions", json=BODY | more, headers=headers)


def test_every_exposure_is_counted_by_its_assigned_arm_and_units_once_in_two_workers(
    engines: tuple[FakeEngine, FakeEngine],
) -> None:
    """60 units twice, over two workers: some fail, some leave, some are refused, some are tests."""
    record, key = keyed(Role.APP_PIN)
    units = [f"u{number}" for number in range(60)]

    async def run() -> Tally:
        headers = {"authorization": f"Bearer {key}", "connection": "close"}  # either worker, each time anew
        async with (
            running_pool(2, table(engines, [record], route())) as (pool, url),
            httpx.AsyncClient(base_url=url, headers=headers) as client,
        ):
            for _ in range(2):
                for unit in units:
                    reply = await ask(client, unit)
                    assert (reply.status_code, reply.headers["x-loragate-arm"]) == (200, arm_of(unit))
                    assert reply.headers["x-loragate-route-reason"] == "split"
            # Failed streams, a client error, two that are not assigned, and one that leaves.
            for unit in ("bad-0", "bad-1", "bad-2"):
                failed = await ask(client, unit, stream=True, fake={"error_after": 2})
                assert failed.status_code == 200
                assert b"error" in failed.content
            assert (await ask(client, "wrong", fake={"status": 400})).status_code == 400
            assert (await ask(client, "pinned", model=CANDIDATE)).headers["x-loragate-route-reason"] == "pin"
            chosen = await ask(client, "tester", headers={"x-loragate-arm": "candidate"})
            assert chosen.headers["x-loragate-route-reason"] == "override"
            slow = BODY | {"stream": True, "fake": {"events": 2_000, "cadence_ms": 5}}
            async with client.stream("POST", "/v1/chat/completions", json=slow, headers={"x-loragate-unit": "left"}):
                pass
            async with asyncio.timeout(PATIENCE_SECONDS):  # until the workers have seen that one leave
                while sum(cell.in_flight for cell in await pool.collect()):
                    await asyncio.sleep(LOOK_SECONDS)
            cells = await pool.collect()
            (total,) = pool.tallies({"r1"})
            assert sum(sum(cell.exposures.values()) for cell in cells) == 120 + 3 + 1 + 1
            return total

    total = asyncio.run(run())
    assert (total.rollout, total.stage, total.alias) == ("r1", 3, "support")
    counted = [*units, *units, "bad-0", "bad-1", "bad-2", "wrong"]
    for arm, tally, sample in (
        (Arm.CONTROL, total.control, total.units.control),
        (Arm.CANDIDATE, total.candidate, total.units.candidate),
    ):
        assert tally.requests == sum(arm_of(unit) is arm for unit in counted)
        assert tally.errors == sum(arm_of(f"bad-{number}") is arm for number in range(3))
        assert sum(tally.duration.counts) == tally.requests
        assert len(sample) == sum(arm_of(unit) is arm for unit in {*counted, "left"})
        # Each unit once, whichever of the two workers it met; one whose client has left tells nothing.
        assert tally.by_unit.failing[0].n == sum(arm_of(unit) is arm for unit in set(counted))
        assert tally.by_unit.failing[0].bad == sum(arm_of(f"bad-{number}") is arm for number in range(3))


def test_a_candidate_that_cannot_serve_gives_way_and_does_not_look_healthy(
    engines: tuple[FakeEngine, FakeEngine],
) -> None:
    record, key = keyed(Role.APP_PIN)

    async def run() -> None:
        async with (
            running_pool(1, table(engines, [record], route(10_000), has_candidate=False)) as (pool, url),
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            reply = await ask(client, "u")
            told = [reply.headers[f"x-loragate-{name}"] for name in ("version", "arm", "route-reason")]
            assert told == [CONTROL, "control", "fallback:version_not_ready"]
            chosen = await ask(client, "u", headers={"x-loragate-arm": "candidate"})
            assert (chosen.status_code, chosen.json()["error"]["code"]) == (503, "version_not_ready")
            assert CANDIDATE in chosen.json()["error"]["message"]
            await pool.collect()
            (total,) = pool.tallies({"r1"})
            assert (total.candidate.requests, total.candidate.errors, total.control.requests) == (1, 1, 0)

    asyncio.run(run())


def test_a_tester_gets_the_arm_that_was_asked_for_and_nobody_else_may_ask(
    engines: tuple[FakeEngine, FakeEngine],
) -> None:
    (tester, key), (app, app_key) = keyed(Role.APP_PIN), keyed(Role.APP)

    async def run() -> None:
        async with (
            running_pool(1, table(engines, [tester, app], route(0), is_open=False)) as (pool, url),
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            for arm, version in (("control", CONTROL), ("candidate", CANDIDATE), ("Candidate", CANDIDATE)):
                reply = await ask(client, headers={"x-loragate-arm": arm})
                assert reply.headers["x-loragate-version"] == version
                assert reply.headers["x-loragate-arm"] == arm.lower()
            refused = await ask(client, headers={"x-loragate-arm": "candidate", "authorization": f"Bearer {app_key}"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "arm_not_allowed")
            for wrong in (
                {"headers": {"x-loragate-arm": "both"}},
                {"model": CONTROL, "headers": {"x-loragate-arm": "control"}},
            ):
                assert (await ask(client, **wrong)).status_code == 400
            alone = RouteRecord(alias="support", control=CONTROL, salt="s")
            assert await pool.publish(table(engines, [tester, app], alone, is_open=False))
            none = await ask(client, headers={"x-loragate-arm": "candidate"})
            assert (none.status_code, none.json()["error"]["code"]) == (400, "no_candidate")

    asyncio.run(run())


def test_a_conversation_keeps_its_arm_without_the_callers_help(engines: tuple[FakeEngine, FakeEngine]) -> None:
    record, key = keyed(Role.APP)

    async def run() -> None:
        split = route(5_000, unit=("conversation", "key"))
        async with (
            running_pool(1, table(engines, [record], split, is_open=False)) as (_, url),
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            seen = set()
            for number in range(12):
                turns: list[dict[str, Any]] = [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": f"Question {number}"},
                ]
                arms = set()
                for turn in range(3):
                    arms.add((await ask(client, messages=turns, user=f"turn-{turn}")).headers["x-loragate-arm"])
                    turns += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": f"And {turn}?"}]
                assert len(arms) == 1
                seen |= arms
            assert seen == {"control", "candidate"}

    asyncio.run(run())


def test_a_rollback_brings_every_unit_home_and_ends_the_counting(engines: tuple[FakeEngine, FakeEngine]) -> None:
    record, key = keyed(Role.APP)

    async def run() -> None:
        async with (
            running_pool(1, table(engines, [record], route(10_000))) as (pool, url),
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client,
        ):
            assert (await ask(client, "u")).headers["x-loragate-arm"] == "candidate"
            home = RouteRecord(alias="support", control=CONTROL, salt="s")
            assert await pool.publish(table(engines, [record], home, is_open=False))
            for number in range(20):
                assert (await ask(client, f"u{number}")).headers["x-loragate-version"] == CONTROL
            await pool.collect()
            assert [each.candidate.requests for each in pool.tallies({"r1"})] == [1], "the last word of it"
            await pool.collect()
            assert pool.tallies(()) == []

    asyncio.run(run())


def test_people_behind_one_key_are_told_apart_by_what_their_front_ends_send(
    engines: tuple[FakeEngine, FakeEngine],
) -> None:
    """The official clients, as Open WebUI and Claude Code use them: one key, a user in a header or in `metadata`."""
    record, key = keyed(Role.APP)
    sources = ("header:x-openwebui-user-id", "body:metadata.user_id", "user", "key")
    people = [f"person-{number}" for number in range(12)]
    hello: Any = BODY["messages"]

    async def run() -> None:
        async with (
            running_pool(1, table(engines, [record], route(5_000, unit=sources))) as (_, url),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as chat,
            anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as claude,
        ):
            for person in people:
                create = chat.chat.completions.with_raw_response.create
                by_header = await create(model="support", messages=hello, extra_headers={"X-OpenWebUI-User-Id": person})
                by_message = await claude.messages.with_raw_response.create(
                    model="support", max_tokens=3, messages=hello, metadata={"user_id": person}
                )
                by_user = await create(model="support", messages=hello, user=person)
                arms = {reply.headers["x-loragate-arm"] for reply in (by_header, by_message, by_user)}
                assert arms == {arm_of(person, 5_000)}, person

    assert {arm_of(person, 5_000) for person in people} == set(Arm)
    asyncio.run(run())


def test_a_route_that_trusts_no_app_key_gives_its_callers_the_arm_of_their_key(
    engines: tuple[FakeEngine, FakeEngine],
) -> None:
    app, app_key = keyed(Role.APP)
    pin, pin_key = keyed(Role.APP_PIN)

    async def run() -> None:
        split = route(5_000, unit=("trusted:header", "trusted:user", "key"))
        async with running_pool(1, table(engines, [app, pin], split)) as (_, url):
            for key, record in ((app_key, app), (pin_key, pin)):
                async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
                    for unit in (f"u{number}" for number in range(8)):
                        expected = arm_of(unit if record is pin else record.account or record.id, 5_000)
                        assert (await ask(client, unit)).headers["x-loragate-arm"] == expected

    asyncio.run(run())
