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
    AwakeClock,
    Liveness,
)

# In which no worker may serve from an old table, and what of it the end of a process may take on a loaded machine.
PROMISE_SECONDS = 5.0
MARGIN_SECONDS = 1.0


def serving(now: float = 0.0) -> Liveness:
    liveness = Liveness(now)
    liveness.on_ready(now)
    return liveness


def test_a_table_is_confirmed_or_its_worker_killed_within_the_five_seconds_that_are_promised() -> None:
    assert CONFIRM_SECONDS + 2 * LOOK_SECONDS + MARGIN_SECONDS <= PROMISE_SECONDS
    liveness = serving()
    liveness.on_table_sent(1, 10.0)
    assert (liveness.overdue(10.0 + CONFIRM_SECONDS - 0.1), liveness.is_silent(11.9)) == ("", False)
    assert liveness.is_silent(10.0 + SILENT_SECONDS)
    assert "has not confirmed a route table" in liveness.overdue(10.0 + CONFIRM_SECONDS)


def test_a_worker_that_is_busy_for_two_seconds_lives() -> None:
    liveness = serving()
    liveness.on_table_sent(1, 0.0)
    assert liveness.ping_is_due(PING_SECONDS)
    assert liveness.overdue(PING_SECONDS + 2.0) == ""
    liveness.on_confirmed(1)
    liveness.on_pong(3.1)
    assert not liveness.is_silent(100.0)
    assert liveness.overdue(100.0) == ""


def test_tables_after_tables_do_not_excuse_the_first_that_is_not_confirmed() -> None:
    liveness = serving()
    for number in range(1, 9):
        liveness.on_table_sent(number, number * 0.5)
    liveness.on_confirmed(2)
    assert liveness.overdue(1.5 + CONFIRM_SECONDS - 0.01) == ""
    assert liveness.overdue(1.5 + CONFIRM_SECONDS)
    liveness.on_confirmed(8)
    assert not liveness.overdue(1000.0)


def test_one_ping_at_a_time_is_on_its_way_and_it_is_answered_in_time() -> None:
    liveness = serving()
    assert not liveness.ping_is_due(PING_SECONDS / 2)
    assert [liveness.ping_is_due(PING_SECONDS + each) for each in (0.0, 0.25, 9.0)] == [True, False, False]
    assert "no sign of life" in liveness.overdue(PING_SECONDS + ANSWER_SECONDS)


def test_a_worker_that_starts_is_given_its_time_and_told_tables_count_from_when_it_accepts() -> None:
    liveness = Liveness(0.0)
    liveness.on_table_sent(1, 0.0)
    assert not liveness.ping_is_due(50.0)
    assert (liveness.overdue(START_SECONDS - 1), liveness.is_silent(START_SECONDS - 1)) == ("", False)
    assert "has not started" in liveness.overdue(START_SECONDS)
    liveness.on_ready(60.0)
    assert liveness.overdue(60.0 + CONFIRM_SECONDS - 0.1) == ""
    assert liveness.overdue(60.0 + CONFIRM_SECONDS)


@pytest.mark.parametrize("away", [4.0, 60.0, 86_400.0, -3600.0])
def test_a_node_that_was_stopped_suspended_or_whose_clock_jumps_takes_no_worker_for_silent(away: float) -> None:
    clock, liveness, now = AwakeClock(100.0), serving(), 100.0
    liveness.on_table_sent(1, clock.now)
    for _ in range(4):
        now += LOOK_SECONDS
        clock.look(now)
    now += away
    assert not liveness.overdue(clock.look(now))
    assert not liveness.is_silent(clock.now)
    assert clock.now <= 4 * LOOK_SECONDS + MAX_LOOK_SECONDS
    for _ in range(int(CONFIRM_SECONDS / LOOK_SECONDS)):  # awake again, and still nothing
        now += LOOK_SECONDS
        clock.look(now)
    assert liveness.overdue(clock.now)
