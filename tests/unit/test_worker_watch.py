"""When a worker has been silent for too long, and when the node only was not there to hear it."""

import pytest

from gateway.workers.watch import (
    ANSWER_SECONDS,
    CONFIRM_SECONDS,
    LOOK_SECONDS,
    MAX_LOOK_SECONDS,
    PING_SECONDS,
    SILENT_SECONDS,
    START_SECONDS,
    Attention,
    AwakeClock,
)

# In which no worker may serve from an old table, and what of it the end of a process may take on a loaded machine.
PROMISE_SECONDS = 5.0
MARGIN_SECONDS = 1.0


def serving(now: float = 0.0) -> Attention:
    attention = Attention(now)
    attention.accepts(now)
    return attention


def test_a_table_is_confirmed_or_its_worker_killed_within_the_five_seconds_that_are_promised() -> None:
    assert CONFIRM_SECONDS + 2 * LOOK_SECONDS + MARGIN_SECONDS <= PROMISE_SECONDS
    attention = serving()
    attention.told(1, 10.0)
    assert (attention.overdue(10.0 + CONFIRM_SECONDS - 0.1), attention.is_silent(11.9)) == ("", False)
    assert attention.is_silent(10.0 + SILENT_SECONDS)
    assert "has not confirmed a route table" in attention.overdue(10.0 + CONFIRM_SECONDS)


def test_a_worker_that_is_busy_for_two_seconds_lives() -> None:
    attention = serving()
    attention.told(1, 0.0)
    assert attention.is_to_be_pinged(PING_SECONDS)
    assert attention.overdue(PING_SECONDS + 2.0) == ""
    attention.confirmed(1)
    attention.ponged(3.1)
    assert not attention.is_silent(100.0)
    assert attention.overdue(100.0) == ""


def test_tables_after_tables_do_not_excuse_the_first_that_is_not_confirmed() -> None:
    attention = serving()
    for number in range(1, 9):
        attention.told(number, number * 0.5)
    attention.confirmed(2)
    assert attention.overdue(1.5 + CONFIRM_SECONDS - 0.01) == ""
    assert attention.overdue(1.5 + CONFIRM_SECONDS)
    attention.confirmed(8)
    assert not attention.overdue(1000.0)


def test_one_ping_at_a_time_is_on_its_way_and_it_is_answered_in_time() -> None:
    attention = serving()
    assert not attention.is_to_be_pinged(PING_SECONDS / 2)
    assert [attention.is_to_be_pinged(PING_SECONDS + each) for each in (0.0, 0.25, 9.0)] == [True, False, False]
    assert "no sign of life" in attention.overdue(PING_SECONDS + ANSWER_SECONDS)


def test_a_worker_that_starts_is_given_its_time_and_told_tables_count_from_when_it_accepts() -> None:
    attention = Attention(0.0)
    attention.told(1, 0.0)
    assert not attention.is_to_be_pinged(50.0)
    assert (attention.overdue(START_SECONDS - 1), attention.is_silent(START_SECONDS - 1)) == ("", False)
    assert "has not started" in attention.overdue(START_SECONDS)
    attention.accepts(60.0)
    assert attention.overdue(60.0 + CONFIRM_SECONDS - 0.1) == ""
    assert attention.overdue(60.0 + CONFIRM_SECONDS)


@pytest.mark.parametrize("away", [4.0, 60.0, 86_400.0, -3600.0])
def test_a_node_that_was_stopped_suspended_or_whose_clock_jumps_takes_no_worker_for_silent(away: float) -> None:
    clock, attention, now = AwakeClock(100.0), serving(), 100.0
    attention.told(1, clock.now)
    for _ in range(4):
        now += LOOK_SECONDS
        clock.look(now)
    now += away
    assert not attention.overdue(clock.look(now))
    assert not attention.is_silent(clock.now)
    assert clock.now <= 4 * LOOK_SECONDS + MAX_LOOK_SECONDS
    for _ in range(int(CONFIRM_SECONDS / LOOK_SECONDS)):  # awake again, and still nothing
        now += LOOK_SECONDS
        clock.look(now)
    assert attention.overdue(clock.now)
