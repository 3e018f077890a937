"""Samples: stored once, claimed by one at a time, judged once, and forgotten."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event, text

from evaluators.observation import Drift
from gateway.store.feedback import Feedbacks
from gateway.store.pairs import Pairs
from gateway.store.samples import MAX_DEATHS, WAIT_SECONDS, Depth, Samples
from gateway.store.sql import Store, open_store
from tests.support.samples import judged, sample

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def samples(store: Store) -> Samples:
    return Samples(store)


@pytest.fixture
def pairs(store: Store) -> Pairs:
    return Pairs(store)


def ids(*numbers: int) -> list[str]:
    return [sample(number).id for number in numbers]


def claimed(samples: Samples, holder: str, most: int = 10, lease_seconds: float = HOUR) -> list[tuple[str, int]]:
    return [(each.sample.id, each.attempt) for each in samples.claim(holder, most, lease_seconds)]


def kept(store: Store) -> list[str]:
    """Ids of the samples whose texts are in the store."""
    return store.run_read(lambda connection: list(connection.scalars(text("SELECT id FROM sample_texts ORDER BY id"))))


def let_claims_run_out(store: Store) -> None:
    store.run_write(lambda connection: connection.execute(text("UPDATE samples SET ready = 1 WHERE holder != ''")))


def now(store: Store) -> float:
    """The database's clock, by which texts expire; the store's own stands still."""
    clock = "extract(epoch FROM clock_timestamp())" if not store.database.is_sqlite else "strftime('%s', 'now')"
    return float(store.run_read(lambda connection: connection.scalar(text(f"SELECT {clock}"))))


def test_a_sample_is_claimed_as_it_was_put(samples: Samples) -> None:
    put = sample(1, body=b"\x00\xff not text", reply=b"", is_stream=True, ttft_seconds=0.25, task="sums", redacted=True)
    assert samples.put([put], DAY) == 0
    (found,) = samples.claim("one", 1, HOUR)
    assert (found.sample, found.attempt) == (put, 1)


def test_a_sample_that_is_put_again_is_one_sample(samples: Samples, pairs: Pairs) -> None:
    assert samples.put([sample(1), sample(1)], DAY) == 0
    assert samples.put([sample(1), sample(2)], DAY) == 0
    assert samples.depth().pending == 2
    samples.claim("one", 1, HOUR)
    assert samples.finish("one", judged(sample(1)), 0)
    assert samples.put([sample(1)], 0) == 0
    assert claimed(samples, "two") == [(sample(2).id, 1)]
    assert len(pairs.since(0)) == 1


def test_a_sample_that_was_judged_and_forgotten_is_not_judged_again_if_it_is_put_again(samples: Samples) -> None:
    samples.put([sample(1)], 0)
    samples.claim("one", 1, HOUR)
    assert samples.finish("one", judged(sample(1)), 0)
    assert samples.put([sample(1)], 0) == 0
    assert samples.depth() == Depth()


def test_a_sample_that_was_judged_meanwhile_is_taken_off_the_queue_unjudged(samples: Samples, pairs: Pairs) -> None:
    samples.put([sample(1)], DAY)
    samples.claim("one", 1, HOUR)
    pairs.add(judged(sample(1)))
    assert not samples.finish("one", judged(sample(1), scored_at=9.0), 70)
    assert samples.depth() == Depth()
    assert samples.tokens_spent("support") == 0
    assert [each.scored_at for each in pairs.since(0)] == [judged(sample(1)).scored_at]


def test_the_oldest_are_claimed_first_and_by_one_alone(samples: Samples) -> None:
    samples.put([sample(number) for number in (3, 1, 4, 2)], DAY)
    assert claimed(samples, "one", 2) == [(id_, 1) for id_ in ids(1, 2)]
    assert claimed(samples, "two", 2) == [(id_, 1) for id_ in ids(3, 4)]
    assert claimed(samples, "one", 2) == []


def test_aliases_that_are_left_wait_for_another_time(samples: Samples) -> None:
    samples.put([sample(1, "spent"), sample(2, "support")], DAY)
    found = samples.claim("one", 5, HOUR, skipping=["spent"])
    assert [each.sample.alias for each in found] == ["support"]
    assert claimed(samples, "one") == [(sample(1).id, 1)]


def test_a_claim_that_ran_out_is_anothers_and_what_the_first_made_of_it_is_refused(
    samples: Samples, pairs: Pairs
) -> None:
    samples.put([sample(1), sample(2)], DAY)
    assert claimed(samples, "slow", lease_seconds=0.0) == [(id_, 1) for id_ in ids(1, 2)]
    assert claimed(samples, "quick", 1) == [(sample(1).id, 2)]
    assert samples.extend("slow", ids(1, 2), HOUR) == set(ids(2))
    assert claimed(samples, "quick") == []
    assert not samples.finish("slow", judged(sample(1), scored_at=7.0), 5)
    assert not samples.give_up("slow", sample(1).id, "tired", again_after_seconds=0)
    assert pairs.since(0) == []
    assert samples.tokens_spent("support") == 0
    assert samples.finish("quick", judged(sample(1), scored_at=8.0), 5)
    assert not samples.finish("slow", judged(sample(1), scored_at=7.0), 5)
    assert [each.scored_at for each in pairs.since(0)] == [8.0]


def test_a_claim_that_ran_out_and_that_nobody_else_took_may_still_be_finished(samples: Samples) -> None:
    samples.put([sample(1)], DAY)
    claimed(samples, "slow", lease_seconds=0.0)
    assert samples.finish("slow", judged(sample(1)), 5)


def test_finishing_again_after_a_lost_answer_is_told_as_done_and_counts_once(samples: Samples, pairs: Pairs) -> None:
    samples.put([sample(1)], DAY)
    claimed(samples, "one")
    for _ in range(2):
        assert samples.finish("one", judged(sample(1)), 70)
    assert [msgspec.structs.replace(each, number=0) for each in pairs.since(0)] == [judged(sample(1))]
    assert samples.tokens_spent("support") == 70
    assert samples.depth() == Depth()


def test_a_sample_with_which_evaluators_die_again_and_again_is_given_up(store: Store, samples: Samples) -> None:
    samples.put([sample(1)], DAY)
    for number in range(MAX_DEATHS):
        assert claimed(samples, f"victim-{number}") == [(sample(1).id, number + 1)]
        let_claims_run_out(store)
    assert claimed(samples, "next") == []
    assert (samples.depth().failed, samples.depth().pending) == (1, 0)
    assert not samples.finish("victim-2", judged(sample(1)), 0)


def test_a_sample_that_is_given_back_often_is_not_given_up(samples: Samples) -> None:
    samples.put([sample(1)], DAY)
    for attempt in range(1, 3 * MAX_DEATHS):
        assert claimed(samples, "one") == [(sample(1).id, attempt)]
        assert samples.give_up("one", sample(1).id, "engine_busy", again_after_seconds=0, tokens=10)
    assert samples.tokens_spent("support") == 10 * (3 * MAX_DEATHS - 1)


def test_a_sample_that_is_given_back_for_later_waits_and_one_that_is_given_up_stays_failed(samples: Samples) -> None:
    samples.put([sample(1), sample(2)], DAY)
    claimed(samples, "one")
    assert samples.give_up("one", sample(1).id, "engine_busy", again_after_seconds=HOUR)
    assert samples.give_up("one", sample(2).id, "not_comparable", again_after_seconds=None)
    assert claimed(samples, "two") == []
    assert samples.depth().by_alias["support"] == Depth(pending=1, failed=1, oldest_at=1.0)


def test_the_depth_tells_who_waits_by_alias(samples: Samples) -> None:
    assert samples.depth() == Depth()
    samples.put([sample(1), sample(2), sample(3, "legal")], DAY)
    claimed(samples, "one", 1)
    of_support, of_legal = Depth(pending=1, claimed=1, oldest_at=1.0), Depth(pending=1, oldest_at=3.0)
    by_alias = {"support": of_support, "legal": of_legal}
    assert samples.depth() == Depth(pending=2, claimed=1, oldest_at=1.0, by_alias=by_alias)


def test_a_full_store_refuses_the_newest_and_says_how_many(store: Store) -> None:
    samples = Samples(store, most_samples=3)
    assert samples.put([sample(number) for number in range(5)], DAY) == 2
    assert samples.put([sample(9)], DAY) == 1
    assert [id_ for id_, _ in claimed(samples, "one")] == ids(0, 1, 2)


def test_a_full_store_is_full_by_bytes_too(store: Store) -> None:
    samples = Samples(store, most_bytes=20_000)
    assert samples.put([sample(number, body=b"x" * 6000) for number in range(5)], DAY) == 2


def test_judged_samples_give_way_to_new_ones(store: Store, pairs: Pairs) -> None:
    samples = Samples(store, most_samples=3)
    samples.put([sample(1), sample(2), sample(3)], DAY)
    claimed(samples, "one", 2)
    samples.finish("one", judged(sample(2)), 0)
    assert kept(store) == ids(1, 2, 3)
    assert samples.put([sample(4), sample(5)], DAY) == 1
    assert kept(store) == ids(1, 3, 4)
    assert [each.sample for each in pairs.since(0)] == ids(2)


def test_failed_samples_give_way_to_new_ones(store: Store) -> None:
    samples = Samples(store, most_samples=2)
    samples.put([sample(1), sample(2)], DAY)
    claimed(samples, "one", 1)
    samples.give_up("one", sample(1).id, "tools", again_after_seconds=None)
    assert samples.put([sample(3), sample(4)], DAY) == 1
    assert kept(store) == ids(2, 3)
    assert samples.depth().failed == 0


def test_texts_outlive_the_judging_until_they_expire_and_the_pair_outlives_both(
    store: Store, samples: Samples, pairs: Pairs
) -> None:
    samples.put([sample(1)], HOUR)
    samples.put([sample(2), sample(3)], DAY)
    claimed(samples, "one", 2)
    for number in (1, 2):
        assert samples.finish("one", judged(sample(number)), 0)
    assert kept(store) == ids(1, 2, 3)
    assert samples.expire(now(store) + HOUR - 60) == 0
    assert samples.expire(now(store) + HOUR + 60) == 1
    assert kept(store) == ids(2, 3)
    first, second = pairs.since(0)
    assert isinstance(first.drift, Drift)
    assert first.drift.top_moved == ()  # words go with their sample
    assert second == judged(sample(2), number=2)
    assert samples.expire(now(store) + DAY + 60) == 2
    assert (kept(store), samples.depth()) == ([], Depth())
    assert len(pairs.since(0)) == 2


def test_without_retention_texts_are_forgotten_with_the_judging_and_wait_a_day_at_most(
    store: Store, samples: Samples, pairs: Pairs
) -> None:
    samples.put([sample(1), sample(2)], 0)
    claimed(samples, "one", 1)
    samples.finish("one", judged(sample(1)), 0)
    assert kept(store) == ids(2)
    (pair,) = pairs.since(0)
    assert isinstance(pair.drift, Drift)
    assert pair.drift.top_moved == ()
    assert samples.expire(now(store) + WAIT_SECONDS + 60) == 1
    assert samples.depth() == Depth()


def test_a_sample_that_expires_while_it_is_judged_is_lost_to_its_evaluator(store: Store, samples: Samples) -> None:
    samples.put([sample(1)], HOUR)
    claimed(samples, "one")
    assert samples.expire(now(store) + DAY) == 1
    assert samples.extend("one", ids(1), HOUR) == set()
    assert not samples.finish("one", judged(sample(1)), 0)


def test_a_sample_that_cannot_be_read_fails_alone(store: Store, samples: Samples) -> None:
    samples.put([sample(1), sample(2)], DAY)
    damage = text("UPDATE sample_texts SET content = :content WHERE id = :id")
    store.run_write(lambda connection: connection.execute(damage, {"content": b"\xc1", "id": sample(1).id}))
    assert claimed(samples, "one") == [(sample(2).id, 1)]
    assert samples.depth().failed == 1


def test_what_judging_has_cost_is_told_by_alias_and_time(store: Store, samples: Samples) -> None:
    samples.put([sample(1), sample(2), sample(3, "legal")], DAY)
    claimed(samples, "one")
    for number, alias, tokens in ((1, "support", 100), (2, "support", 20), (3, "legal", 3)):
        samples.finish("one", judged(sample(number, alias)), tokens)
    assert (samples.tokens_spent("support"), samples.tokens_spent("legal"), samples.tokens_spent("none")) == (120, 3, 0)
    an_hour_ago = text("UPDATE spending SET slot = slot - 61 WHERE alias = 'support'")
    store.run_write(lambda connection: connection.execute(an_hour_ago))
    assert (samples.tokens_spent("support"), samples.tokens_spent("support", 2 * HOUR)) == (0, 120)
    days_ago = text("UPDATE spending SET slot = slot - 2000 WHERE alias = 'support'")
    store.run_write(lambda connection: connection.execute(days_ago))
    samples.expire(0)
    assert (samples.tokens_spent("support", 30 * DAY), samples.tokens_spent("legal", 30 * DAY)) == (0, 3)


def test_more_than_a_batch_expires_at_once(store: Store, samples: Samples) -> None:
    samples.put([sample(number) for number in range(1201)], HOUR)
    assert samples.expire(now(store) + DAY) == 1201
    assert kept(store) == []


def files_of(folder: Path) -> bytes:
    """All that lies on the disk of an SQLite store."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


@pytest.mark.parametrize("retention_seconds", [0, HOUR])
def test_no_word_of_a_sample_is_left_in_the_file_once_it_has_expired(tmp_path: Path, retention_seconds: float) -> None:
    marker = b"PLANTED-in-a-prompt"
    store = open_store(tmp_path / "state", now=lambda: 0.0)
    samples = Samples(store)
    # Of all sizes, put and judged in between, so that pages are split, merged and used again.
    for round_ in range(6):
        numbers = range(30 * round_, 30 * round_ + 30)
        samples.put(
            [sample(number, body=marker * (1 + 7 * number % 400), reply=marker) for number in numbers],
            retention_seconds,
        )
        for each in samples.claim("one", 20, HOUR):
            drift = Drift(
                n_tokens=1,
                log_ratio=0.0,
                kl=0.0,
                kl_bound=0.0,
                moved_share=0.0,
                top1_agreement=1.0,
                top_moved=((marker.decode(), 0, -1.0, -1.0),),
            )
            samples.finish("one", judged(each.sample, drift=drift), 0)
    assert marker in files_of(tmp_path / "state")
    samples.expire(now(store) + 2 * DAY)
    assert marker not in files_of(tmp_path / "state")
    assert len(Pairs(store).since(0)) == 120
    store.close()


@contextmanager
def statements_of(store: Store) -> Iterator[list[tuple[str, object]]]:
    """What is sent to the database meanwhile."""
    sent: list[tuple[str, object]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        sent.append((statement, parameters))

    event.listen(store.database._engine, "before_cursor_execute", note)
    yield sent
    event.remove(store.database._engine, "before_cursor_execute", note)


def test_no_step_of_an_evaluator_reads_a_whole_table(tmp_path: Path) -> None:
    store = open_store(tmp_path, now=lambda: 0.0)
    samples, pairs = Samples(store), Pairs(store)
    samples.put([sample(1), sample(2)], DAY)
    with statements_of(store) as sent:
        samples.put([sample(3)], DAY)
        samples.claim("one", 2, HOUR, skipping=["other"])
        samples.extend("one", ids(1), HOUR)
        samples.finish("one", judged(sample(1)), 5)
        samples.give_up("one", sample(2).id, "busy", again_after_seconds=0, tokens=5)
        samples.tokens_spent("support")
        samples.expire(0)
        pairs.since(0)
        pairs.since(0, alias="support")
        pairs.of("ro-1")
        pairs.of("ro-1", 1)
        (pair,) = pairs.between(None, 0, 9)
        pairs.between("support", 0, 9, after=pair)
        pairs.expire(0)
        pairs.head()
        Feedbacks(store).expire(0)
        Feedbacks(store).read_unresolved(newest=True)
    steps = []
    for statement, parameters in sent:
        if re.match("SELECT|UPDATE|DELETE", statement):
            query = (f"EXPLAIN QUERY PLAN {statement}", parameters)
            found = store.run_read(lambda connection, query=query: connection.exec_driver_sql(*query).all())  # type: ignore[misc]
            steps += [(row[3], statement) for row in found]
    assert len(steps) > 30
    # The room that is left is added up along an index, which holds no texts.
    whole = re.compile("SCAN (samples|sample_texts|pairs|pair_words|feedback)(?! USING COVERING INDEX)")
    assert [step for step in steps if whole.match(step[0])] == []
    assert [step for step in steps if "TEMP B-TREE" in step[0] and "FROM pairs" in step[1]] == []
    store.close()
