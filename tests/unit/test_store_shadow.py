"""What evaluators and gateways share beside samples: feedback, baselines, turns, and who is there."""

import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from gateway.records.feedback import About, Feedback
from gateway.store.baselines import Baselines
from gateway.store.evaluators import GONE_SECONDS, Evaluators
from gateway.store.feedback import Feedbacks
from gateway.store.leases import Leases
from gateway.store.sql import Store

ABOUT = About(alias="support", version="support@2", arm="candidate", rollout="ro-1", stage=1, account="key-1")


@pytest.fixture
def feedbacks(store: Store) -> Feedbacks:
    return Feedbacks(store)


def said(request: str, at: float = 1.0, account: str = "key-1", **what: object) -> Feedback:
    return Feedback(request_id=request, account=account, at=at, **what)  # type: ignore[arg-type]


def of_unit(about: About, unit: str) -> About:
    return msgspec.structs.replace(about, unit=unit)


def test_a_later_word_of_the_same_account_takes_the_place_of_the_first(feedbacks: Feedbacks) -> None:
    feedbacks.put(said("r1", thumb="up", about=ABOUT))
    feedbacks.put(said("r1", thumb="down", about=ABOUT, comment="no"))
    feedbacks.put(said("r1", account="key-2", thumb="up", about=ABOUT))
    assert feedbacks.counts("ro-1", 1) == {"candidate": (2, 1)}
    assert feedbacks.get("r1", "key-1") == said("r1", thumb="down", about=ABOUT, comment="no")
    assert feedbacks.get("r2", "key-1") is None


def test_a_word_that_two_gateways_store_at_once_is_stored(store: Store) -> None:
    class Raced:
        """A store in which another gateway is always the first to insert."""

        def __init__(self) -> None:
            self.has_lost = False

        def run_write(self, work: Callable[[Connection], Any]) -> Any:
            if self.has_lost:
                return store.run_write(work)
            self.has_lost = True
            store.run_write(work)
            raise IntegrityError("INSERT", None, ValueError())

    Feedbacks(cast(Store, Raced())).put(said("r1", thumb="down", about=ABOUT))
    assert Feedbacks(store).counts("ro-1", 1) == {"candidate": (1, 1)}


def test_feedback_waits_until_it_is_known_what_it_is_about(feedbacks: Feedbacks) -> None:
    for number, request in enumerate(("r3", "r1", "r2")):
        feedbacks.put(said(request, at=float(number), score=0.2, comment="words"))
    assert [each.request_id for each in feedbacks.read_unresolved(2)] == ["r3", "r1"]
    assert feedbacks.counts("ro-1", 1) == {}
    assert feedbacks.resolve("r3", "key-1", of_unit(ABOUT, "u3"))
    assert feedbacks.resolve("r1", "key-1", of_unit(ABOUT, "u1"), comment="")
    assert not feedbacks.resolve("r9", "key-1", ABOUT)
    feedbacks.drop("r2", "key-1")
    assert feedbacks.read_unresolved() == []
    assert feedbacks.counts("ro-1", 1) == {"candidate": (2, 2)}
    kept = [feedbacks.get(request, "key-1") for request in ("r3", "r1")]
    assert [each.comment for each in kept if each] == ["words", ""]


def test_feedback_is_counted_by_stage_and_arm_and_labels_for_neither(feedbacks: Feedbacks) -> None:
    control, later = (
        About(alias="support", version="support@1", arm=arm, rollout="ro-1", stage=stage)
        for arm, stage in (("control", 1), ("candidate", 2))
    )
    feedbacks.put(said("r1", score=0.5, about=of_unit(ABOUT, "u1")))
    feedbacks.put(said("r2", score=0.4, about=of_unit(ABOUT, "u2")))
    feedbacks.put(said("r3", label="rude", about=ABOUT))
    feedbacks.put(said("r4", thumb="up", about=control))
    feedbacks.put(said("r5", thumb="down", about=later))
    assert feedbacks.counts("ro-1", 1) == {"candidate": (2, 1), "control": (1, 0)}
    assert feedbacks.counts("ro-1", 2) == {"candidate": (1, 1)}


def test_a_unit_counts_by_the_first_that_it_said_and_within_its_account(feedbacks: Feedbacks) -> None:
    about = of_unit(ABOUT, "u")
    for number in range(9):
        feedbacks.put(said(f"r{number}", at=float(number), thumb="down" if number else "up", about=about))
    feedbacks.put(said("other", account="key-2", thumb="down", about=about))
    assert feedbacks.counts("ro-1", 1) == {"candidate": (2, 1)}
    by_account = feedbacks.counts_by_account("ro-1", 1, 10)
    assert by_account == {"key-1": {"candidate": (1, 0)}, "key-2": {"candidate": (1, 1)}}


def test_old_feedback_goes(feedbacks: Feedbacks) -> None:
    feedbacks.put(said("r1", at=1.0, thumb="up", about=ABOUT))
    feedbacks.put(said("r2", at=2.0, thumb="up", about=ABOUT))
    assert feedbacks.expire(2.0) == 1
    assert feedbacks.counts("ro-1", 1) == {"candidate": (1, 0)}


def test_a_version_has_one_baseline_the_last(store: Store) -> None:
    baselines = Baselines(store)
    assert baselines.get("support@1") is None
    baselines.put("support@1", {"n": 1})
    baselines.put("support@1", {"n": 2, "histogram": [1, 2.5]})
    baselines.put("support@2", {})
    assert baselines.get("support@1") == {"n": 2, "histogram": [1, 2.5]}
    assert baselines.get("support@2") == {}


def test_one_has_the_turn_until_it_is_released_or_over(store: Store) -> None:
    turns = Leases(store)
    assert turns.take("http://a", "one", 60)
    assert not turns.take("http://a", "two", 60)
    assert turns.take("http://b", "two", 60)
    assert turns.take("http://a", "one", 60)  # prolonged
    turns.release("http://a", "two")  # not its to release
    assert not turns.take("http://a", "two", 60)
    turns.release("http://a", "one")
    assert turns.take("http://a", "two", 0)
    assert turns.take("http://a", "one", 60)  # the turn of two is over
    assert not turns.take("http://a", "two", 60)


def test_evaluators_that_beat_are_alive_and_tell_their_counts(store: Store) -> None:
    evaluators = Evaluators(store)
    assert evaluators.alive() == {}
    evaluators.beat("one", {"completed": 1})
    evaluators.beat("two", {})
    evaluators.beat("one", {"completed": 2, "shed": {"queue": 3}})
    assert evaluators.alive() == {"one": {"completed": 2, "shed": {"queue": 3}}, "two": {}}
    evaluators.leave("two")
    assert list(evaluators.alive()) == ["one"]


def test_an_evaluator_that_is_silent_is_not_alive_and_its_row_goes_when_another_comes(store: Store) -> None:
    evaluators = Evaluators(store)
    evaluators.beat("one", {})
    time.sleep(0.02)
    assert evaluators.alive(within_seconds=0.01) == {}
    long_ago = text("UPDATE evaluators SET seen = seen - :seconds")
    store.run_write(lambda connection: connection.execute(long_ago, {"seconds": GONE_SECONDS + 1}))
    evaluators.beat("two", {})
    rows = store.run_read(lambda connection: list(connection.scalars(text("SELECT id FROM evaluators"))))
    assert rows == ["two"]
