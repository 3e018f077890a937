"""Token buckets, what is refused and what is told; and workers that tell each other, simulated."""

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decide.assign import Split
from gateway.decide.authenticate import Principal, Role
from gateway.decide.limit import Allowance, Bucket, Rates, format_seconds, rates_of
from gateway.decide.route import Route, RouteTable
from gateway.errors import Overloaded, RateLimited
from gateway.observe.ledger import Ledger
from gateway.receive.rates import Lease, Spendings, WorkerRates
from gateway.workers.rate_sync import RateSync


def limited(requests: int | None = None, tokens: int | None = None, name: str = "k", **more: str) -> Principal:
    return Principal(id=name, role=Role.APP, rates=rates_of(requests, tokens), **more)  # type: ignore[arg-type]


def rates() -> WorkerRates:
    return WorkerRates(Ledger(), lambda: None)


def admitted(worker: WorkerRates, caller: Principal, table: RouteTable, now: float, model: str = "base") -> bool:
    try:
        worker.admit(caller, table, model, now)
    except (RateLimited, Overloaded):
        return False
    return True


EMPTY = RouteTable()


def test_a_minutes_worth_at_once_then_one_after_the_other() -> None:
    worker, caller = rates(), limited(requests=6)
    assert [admitted(worker, caller, EMPTY, 0.0) for _ in range(7)] == [True] * 6 + [False]
    assert not admitted(worker, caller, EMPTY, 9.9)
    assert [admitted(worker, caller, EMPTY, 10.0) for _ in range(2)] == [True, False]


@given(st.integers(1, 300), st.lists(st.floats(0, 5), max_size=150))
def test_within_any_time_no_more_is_let_in_than_stated(limit: int, gaps: list[float]) -> None:
    worker, caller, now, times = rates(), limited(requests=limit), 0.0, []
    for gap in gaps:
        now += gap
        if admitted(worker, caller, EMPTY, now):
            times.append(now)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= limit * (1 + (times[last] - start) / 60) + 1e-6


def test_tokens_are_let_in_while_any_are_left_and_paid_for_afterwards() -> None:
    worker, caller = rates(), limited(tokens=600)
    first = worker.admit(caller, EMPTY, "base", 0.0)
    assert isinstance(first, Lease)
    assert admitted(worker, caller, EMPTY, 0.0), "the first has not been paid for"
    first.end(700, 1.0)
    first.end(700, 1.0)  # only once
    with pytest.raises(RateLimited) as caught:
        worker.admit(caller, EMPTY, "base", 1.0)
    assert caught.value.type == "tokens"
    assert caught.value.retry_after_seconds == 11  # 100 in debt at 10 a second, and one to begin with
    assert not admitted(worker, caller, EMPTY, 10.9)
    assert admitted(worker, caller, EMPTY, 11.2)


def test_a_refusal_speaks_as_openai_does() -> None:
    worker, caller = rates(), limited(requests=2, tokens=90_000)
    assert admitted(worker, caller, EMPTY, 0.0)
    assert admitted(worker, caller, EMPTY, 0.0)
    with pytest.raises(RateLimited) as caught:
        worker.admit(caller, EMPTY, "base", 15.0)
    error = caught.value
    assert (error.status, error.type, error.code, error.retry_after_seconds) == (
        429,
        "requests",
        "rate_limit_exceeded",
        15,
    )
    assert error.message == (
        "Rate limit reached for this key on requests per min (RPM): limit 2. Please try again in 15s."
    )
    assert error.headers == (
        b"x-ratelimit-limit-requests: 2\r\nx-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 45s\r\n"
        b"x-ratelimit-limit-tokens: 90000\r\nx-ratelimit-remaining-tokens: 90000\r\nx-ratelimit-reset-tokens: 0ms\r\n"
    )


@given(st.integers(1, 100_000), st.floats(0, 200), st.integers(1, 5))
def test_after_the_time_that_was_told_one_fits(limit: int, later: float, replicas: int) -> None:
    allowance = Allowance(Rates(requests_per_minute=limit), replicas, 0.0)
    for _ in range(min(limit, 50)):
        if allowance.refusal("x", 0.0) is None:
            allowance.enter(0.0)
    refused = allowance.refusal("x", later)
    if refused is not None:
        assert refused.retry_after_seconds is not None
        assert allowance.refusal("x", later + refused.retry_after_seconds + 1e-6) is None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (1.42, "1.5s"), (59.96, "60s"), (60, "1m0s"), (365, "6m5s")],
)
def test_times_are_written_as_openai_writes_them(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


def route(**limits: int) -> RouteTable:
    made = Route(alias="support", split=Split("support@1"), salt="s", rates=Rates(**limits))
    return RouteTable(routes={"support": made}, has_rates=True)


def test_an_alias_has_limits_over_all_keys_and_only_those_who_may_use_it_count() -> None:
    worker, table = rates(), route(requests_per_minute=2)
    stranger = Principal(id="s", role=Role.APP, models=frozenset({"legal"}))
    pinned_without_right = "support@111111"
    for _ in range(5):
        assert worker.admit(stranger, table, "support", 0.0) is None  # 403 comes later
        assert worker.admit(limited(name="a"), table, pinned_without_right, 0.0) is None
        assert worker.admit(limited(name="a"), table, "base", 0.0) is None
    assert admitted(worker, Principal(id="a", role=Role.APP), table, 0.0, "support")
    assert admitted(worker, Principal(id="b", role=Role.APP_PIN), table, 0.0, "support@111111")
    assert not admitted(worker, Principal(id="c", role=Role.APP), table, 0.0, "support")


def test_what_one_limit_refuses_counts_under_no_other() -> None:
    worker, table = rates(), route(requests_per_minute=1)
    caller = limited(requests=2)
    assert [admitted(worker, caller, table, 0.0, "support") for _ in range(3)] == [True, False, False]
    assert [admitted(worker, caller, table, 0.0, "base") for _ in range(2)] == [True, False]


def test_requests_under_way_are_bounded() -> None:
    worker, table, caller = rates(), route(max_in_flight=2), Principal(id="a", role=Role.APP)
    leases = [worker.admit(caller, table, "support", 0.0) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 requests under way"):
        worker.admit(caller, table, "support", 0.0)
    assert leases[0] is not None
    leases[0].end(0, 1.0)
    assert admitted(worker, caller, table, 1.0, "support")


def test_refusals_are_counted_by_their_limit() -> None:
    ledger = Ledger()
    worker, table, caller = WorkerRates(ledger, lambda: None), route(max_in_flight=1), limited(requests=2)
    assert [admitted(worker, caller, table, 0.0, "support") for _ in range(2)] == [True, False]
    assert [admitted(worker, caller, table, 0.0, "base") for _ in range(2)] == [True, False]
    assert {cell.alias: cell.refusals for cell in ledger.cells()} == {
        "support": {"alias_in_flight": 1},
        "": {"key_requests": 1},
    }


def test_the_keys_of_one_account_share_its_limits() -> None:
    worker = rates()
    old, new = limited(requests=1, name="old"), limited(requests=1, name="new", account="old")
    assert [admitted(worker, each, EMPTY, 0.0) for each in (old, new)] == [True, False]


def test_replicas_share_a_limit_evenly() -> None:
    caller = limited(requests=9)
    for replicas, each in ((1, 9), (3, 3), (20, 1)):
        worker = rates()
        let_in = sum(admitted(worker, caller, RouteTable(replicas=replicas), 0.0) for _ in range(20))
        assert let_in == each


def test_another_limit_keeps_what_was_used_and_a_table_without_it_forgets() -> None:
    worker = rates()

    def keys(key: Principal) -> RouteTable:
        return RouteTable(keys={b"d": key})

    before, after = limited(requests=10), limited(requests=100)
    worker.adapt(keys(before), 0.0)
    assert sum(admitted(worker, before, EMPTY, 0.0) for _ in range(5)) == 5
    worker.adapt(keys(after), 0.0)
    assert sum(admitted(worker, after, EMPTY, 0.0) for _ in range(200)) == 50  # half is left
    worker.adapt(EMPTY, 0.0)
    assert sum(admitted(worker, before, EMPTY, 0.0) for _ in range(20)) == 10


def test_a_bucket_never_holds_more_than_a_minute_and_time_never_goes_back() -> None:
    bucket = Bucket(60, 1, 100.0)
    bucket.take(10, 100.0)
    assert bucket.level(1_000.0) == 60
    assert bucket.level(900.0) == 60


# Several workers


def share(workers: list[WorkerRates], sharing: RateSync, now: float) -> None:
    for number, worker in enumerate(workers):
        sharing.record(number, worker.take_unshared())
    for worker, others in zip(workers, sharing.deltas(), strict=True):
        worker.apply_shared(others, now)


@pytest.mark.parametrize(("size", "limit", "demand"), [(2, 60, 20), (4, 600, 60), (8, 6_000, 400)])
def test_workers_that_tell_each_other_let_in_what_one_would_but_for_an_interval(
    size: int, limit: int, demand: int
) -> None:
    """`demand` requests a second over two minutes, on a random worker each; told every 0.2 s."""
    chance, interval = random.Random(size), 0.2
    workers, sharing, caller = [rates() for _ in range(size)], RateSync(size), limited(requests=limit)
    for worker in workers:
        worker.adapt(RouteTable(keys={b"d": caller}), 0.0)
    times: list[float] = []
    told_at = 0.0
    for number in range(demand * 120):
        now = number / demand
        if now - told_at >= interval:
            told_at = now
            share(workers, sharing, now)
        if admitted(chance.choice(workers), caller, EMPTY, now):
            times.append(now)
    most_elsewhere = demand * interval  # what all the others together can let in before they are heard
    assert len(times) <= limit * (1 + 120 / 60) + most_elsewhere
    assert len(times) >= limit * (1 + 120 / 60) - most_elsewhere - size
    for first, start in enumerate(times):
        assert bisect_left(times, start + 60) - first <= limit * 2 + most_elsewhere


def test_workers_that_do_not_tell_each_other_would_let_in_as_often_as_there_are_workers() -> None:
    workers, caller = [rates() for _ in range(4)], limited(requests=60)
    assert sum(admitted(worker, caller, EMPTY, 0.0) for worker in workers for _ in range(100)) == 240


def test_what_is_under_way_in_a_worker_that_ends_or_starts_is_known_to_the_others() -> None:
    table, caller = route(max_in_flight=3), Principal(id="a", role=Role.APP)
    workers, sharing = [rates() for _ in range(2)], RateSync(2)
    for worker in workers:
        worker.adapt(table, 0.0)
    for _ in range(3):
        assert admitted(workers[0], caller, table, 0.0, "support")
    share(workers, sharing, 0.2)
    assert not admitted(workers[1], caller, table, 0.3, "support")
    # The second one starts anew and is told; the first one ends, and what it had is gone.
    workers[1] = rates()
    workers[1].adapt(table, 0.3)
    sharing.forget_worker(1)
    workers[1].apply_shared(sharing.in_flight_elsewhere(1), 0.3)
    assert not admitted(workers[1], caller, table, 0.4, "support")
    sharing.forget_worker(0)
    workers[0] = rates()
    workers[0].adapt(table, 0.4)
    share(workers, sharing, 0.5)
    assert admitted(workers[1], caller, table, 0.6, "support")


def test_a_worker_is_asked_to_tell_once_until_it_has_told() -> None:
    calls: list[int] = []
    worker = WorkerRates(Ledger(), lambda: calls.append(1))
    for _ in range(3):
        worker.admit(limited(requests=10), EMPTY, "base", 0.0)
    assert (calls, worker.take_unshared().requests) == ([1], {"key:k": 3})
    assert worker.take_unshared() == Spendings()
    worker.admit(limited(requests=10), EMPTY, "base", 0.0)
    assert calls == [1, 1]


def test_what_other_workers_have_spent_is_spent_here() -> None:
    for requests, tokens in ((10, 0), (0, 10)):
        allowance = Allowance(Rates(requests_per_minute=10, tokens_per_minute=10), 1, 0.0)
        assert allowance.refusal("this key", 0.0) is None
        allowance.apply_others(requests, tokens, 0, 0.0)
        assert allowance.refusal("this key", 0.0) is not None


def test_figures_below_zero_give_no_tokens_and_no_requests_back() -> None:
    allowance = Allowance(Rates(requests_per_minute=10, tokens_per_minute=10), 1, 0.0)
    allowance.enter(0.0)
    allowance.leave(10, 0.0)
    assert allowance.refusal("this key", 0.0) is not None
    allowance.leave(-(2**40), 0.0)
    allowance.apply_others(-(2**40), -(2**40), 0, 0.0)
    assert allowance.refusal("this key", 0.0) is not None
    worker = WorkerRates(Ledger(), lambda: None)
    lease = worker.admit(limited(tokens=10), EMPTY, "base", 0.0)
    assert lease is not None
    lease.end(-5, 0.0)
    assert worker.take_unshared().tokens == {}
