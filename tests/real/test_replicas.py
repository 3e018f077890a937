"""Three gateways of two workers on one PostgreSQL: a rollback reaches all of them, and no request notices."""

import time

import pytest

from tests.real.replicas import ALIAS, Fleet, failures, fleet, told, until

pytestmark = pytest.mark.real

ROLLBACKS = 50
RATE = 300.0


def test_after_a_rollback_no_request_starts_on_the_bad_version_and_none_is_cut() -> None:
    with fleet(3, 2) as made, made.load(RATE) as load:
        until(lambda: len(load.done) > RATE)
        returned, late = [], []
        for number in range(ROLLBACKS):
            asked_at, back_at = bad_time(made, number)
            time.sleep(1.1)
            returned.append(back_at - asked_at)
            bad = [each.sent_at for each in load.since(back_at) if each.version == made.new]
            late.append(max(bad, default=back_at) - back_at)
        load.__exit__()
        served_new = [each for each in load.done if each.version == made.new]
        print(f"\n{len(load.done):,} requests at {RATE:.0f}/s, {len(served_new):,} on the bad version")
        print(told(f"{ROLLBACKS} rollbacks: until the command returned", returned))
        print(told("until the last request to the bad version started, after that", late))
        assert len(served_new) > ROLLBACKS, "each time the bad version was served"
        assert failures(load.done) == []
        assert max(late) <= 1.0, "the promise: effective in every replica within a second"
        assert [each for gateway in made.gateways for each in gateway.status()["engines"] if not each["up"]] == []


def bad_time(made: Fleet, number: int) -> tuple[float, float]:
    """Have the new version serve half of the callers, and take it back; returns when that was asked and answered."""
    forth, back = made.gateways[number % 3], made.gateways[(number + 1) % 3]
    plan = {"candidate": made.new, "plan": "50% 1h", "reason": "test"}
    started = forth.admin("POST", f"routes/{ALIAS}/rollout", plan)
    assert started.status_code == 201, started.text
    time.sleep(0.4)
    asked_at = time.monotonic()
    answer = back.admin("POST", f"routes/{ALIAS}/rollback", {"reason": f"rollback {number}"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["control"] == made.old
    return asked_at, time.monotonic()
