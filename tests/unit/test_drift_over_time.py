"""Drift over time: what is kept when a version is accepted, what raises an alarm, and that it is told once."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from evaluators.judge.over_time import BaselineOf, OverTime
from evaluators.observation import Kind, ScoredPair
from gateway.admin.rollouts.drift_baseline import (
    FEWEST_SESSIONS,
    complete_baseline,
    decode,
    encode,
    make_baseline,
    sessions_in,
)
from gateway.records.routes import MirrorPolicy
from gateway.rollout import explain
from gateway.store.baselines import Baselines
from gateway.store.pairs import Pairs
from gateway.store.sql import Store
from tests.support.rollout_world import ORDER, World, run, store
from tests.support.route_values import A, B
from tests.support.scored_pairs import judged
from tests.support.stored_pairs import begun, plant, shadow

__all__ = ["store"]  # a fixture
MIRRORED = MirrorPolicy(share=1_000)


def traffic(n: int, *, seed: int = 1, length: float = 60.0, **fields: Any) -> Iterator[ScoredPair]:
    """Pairs of version B, its prompts and answers of many lengths."""
    chance = random.Random(seed)
    given: dict[str, Any] = {"control": "base", "other": B, "kind": Kind.BASE, "rollout": "", "stage": 0}
    for _ in range(n):
        yield judged(
            **given
            | {
                "other_tokens": int(chance.expovariate(1 / length)) + 1,
                "prompt_tokens": int(chance.expovariate(1 / 100)) + 1,
                "kl": chance.expovariate(5),
            }
            | fields
        )


# Baselines


def candidates(n: int, **fields: Any) -> Iterator[ScoredPair]:
    return traffic(n, kind=Kind.CANDIDATE, control=A, rollout="ro-0", stage=1, **fields)


def test_a_baseline_is_made_of_the_versions_own_pairs_and_comes_back_as_it_was() -> None:
    names = {"version": B, "alias": "support", "rollout": "ro-0", "at": 1.5}
    made = make_baseline([*candidates(FEWEST_SESSIONS), *traffic(9)], **names)  # type: ignore[arg-type]
    assert decode(json.loads(json.dumps(encode(made)))) == made
    assert (made.rollout, made.after, sessions_in(made.read())) == ("ro-0", 0, FEWEST_SESSIONS)
    assert sessions_in(made.read(), "kl") == 0, "its rollout's pairs compare it with another control, not with the base"
    few = make_baseline(candidates(FEWEST_SESSIONS - 1), **names)  # type: ignore[arg-type]
    assert (few.rollout, few.window) == ("", {})


@pytest.mark.parametrize("junk", [{"version": 3}, {"version": B, "alias": "support", "window": {"numbers": 7}}])
def test_junk_is_no_baseline(junk: dict[str, Any]) -> None:
    assert decode(junk) is None


def test_the_first_pairs_with_the_base_complete_a_rollouts_baseline_and_are_all_of_one_without() -> None:
    first = make_baseline(candidates(300, length=10.0), version=B, alias="support", rollout="ro-0", at=1.0)
    gathered = BaselineOf(B)
    for pair in traffic(250):
        gathered.add(pair)
    window = gathered.close(1e12)
    done = complete_baseline(first, window, 99)
    numbers = done.read().numbers
    assert (numbers["output_length"].n, numbers["kl"].n, done.after) == (300, 250, 99)
    assert (
        complete_baseline(make_baseline([], version=B, alias="support", rollout="ro-0", at=1.0), window, 9).read()
        == window
    )


def test_a_baseline_of_before_there_were_estimates_says_nothing_of_how_far_the_base_is() -> None:
    gathered = BaselineOf(B)
    for pair in traffic(250):
        gathered.add(pair)
    made = complete_baseline(make_baseline([], version=B, alias="support", rollout="", at=1.0), gathered.close(1e12), 9)
    stored = encode(made)
    assert "kl" in made.read().numbers
    del stored["has_estimates"]
    old = decode(stored)
    assert old is not None
    assert set(old.read().numbers) == set(made.read().numbers) - {"kl"}
    # What is further from the base by today's estimate than by yesterday's bound is no change of the version.
    further = list(traffic(400, kl=4.0))
    for baseline, told in ((old, set()), (made, {"kl"})):
        watch = OverTime(B, baseline.read(), run_length=1_000)
        alarms = [alarm for pair in further for alarm in watch.add(pair)] + watch.close(1e12)
        assert {alarm.what for alarm in alarms} == told


# The watch


def test_a_promotion_accepts_a_baseline_and_the_first_pairs_with_the_base_complete_it(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await begun(world, shadow("refusal"))
        plant(store, candidates(300))
        await world.look(60)
        await world.rollouts.promote("support", ORDER, is_early=True)
        await world.look(20)
        stored = decode(Baselines(store).get(B) or {})
        assert stored is not None
        assert (stored.rollout, stored.after, world.rollouts.drift.standing()) == ("ro-0", 0, ())
        await _mirrored(world)
        plant(store, traffic(FEWEST_SESSIONS))
        await world.look(120)
        complete = decode(Baselines(store).get(B) or {})
        assert complete is not None
        assert (complete.after, sessions_in(complete.read(), "kl")) == (Pairs(store).head(), FEWEST_SESSIONS)

    run(store, tmp_path, work)


async def _mirrored(world: World) -> None:
    async with world.state.turn:
        (route,) = world.state.desired.routes
        route = msgspec.structs.replace(route, control=B, mirror=MIRRORED)
        await world.state.change(world.state.desired.with_route(route))


def test_traffic_that_stays_the_same_raises_no_alarm_and_answers_that_grow_longer_one_that_is_told_once(
    store: Store, tmp_path: Path
) -> None:
    async def work(world: World) -> None:
        await _mirrored(world)
        plant(store, traffic(FEWEST_SESSIONS))
        await world.look(120)
        plant(store, traffic(600))
        await world.look(120)
        assert store.journal() == ()
        standing = {each.what: each for each in world.rollouts.drift.standing()}
        assert standing.keys() == {"output_length", "refusal", "kl", "task", "prompt_length"}
        assert (standing["output_length"].n, standing["output_length"].alarm_at) == (600, None)
        mix = standing["prompt_length"].psi
        assert mix is not None
        assert mix < 0.1
        plant(store, traffic(400, length=400.0))
        await world.look(120)
        await world.look(120)
        (entry,) = store.journal()
        record = entry.record
        assert (record["kind"], record["what"], record["alias"], record["version"]) == (
            "drift",
            "output_length",
            "support",
            B,
        )
        assert world.rollouts.counts.pages == {("support", "drift"): 1}
        assert world.rollouts.counts.rollbacks == {}
        told = "\n".join(explain.sentences(record))
        assert "answers are longer, by more than is let pass: output_length >" in told
        assert "nothing was changed" in told
        standing = {each.what: each for each in world.rollouts.drift.standing()}
        assert standing["output_length"].alarm_at is not None
        assert standing["prompt_length"].alarm_at is None

        other = World(tmp_path, store)  # a new leader reads it all again
        world.leader.resign()
        await other.look(120)
        assert other.conductor.is_leader
        assert len(store.journal()) == 1
        assert {each.what for each in other.rollouts.drift.standing() if each.alarm_at} == {"output_length"}

    run(store, tmp_path, work)


def test_an_alarm_that_could_not_be_journalled_is_told_at_the_next_look(store: Store, tmp_path: Path) -> None:
    async def work(world: World) -> None:
        await _mirrored(world)
        plant(store, traffic(FEWEST_SESSIONS))
        await world.look(120)
        plant(store, traffic(400, length=400.0))
        other = store.read_state()
        store.write_state(other, expected=other.version)  # somebody else was first
        await world.look(120)
        assert store.journal() == ()
        await world.look(20)
        assert [each.record["what"] for each in store.journal()] == ["output_length"]

    run(store, tmp_path, work)
