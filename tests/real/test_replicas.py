"""Three gateways of two workers on one PostgreSQL: a rollback reaches all of them, and no request notices."""

import time

import pytest

from tests.support.gateways import RunningGateway
from tests.support.load import Load
from tests.support.patience import until
from tests.support.replicas import ALIAS, Fleet, failures, fleet, told

pytestmark = pytest.mark.real

ROLLBACKS = 50
RATE = 300.0
# Requests that are looked at after each, over all replicas: of a second at that rate.
SEEN = 300
SLOWNESS = 10


def test_after_a_rollback_no_request_starts_on_the_bad_version_and_none_is_cut() -> None:
    with fleet(3, 2) as made, made.load(RATE) as load:
        until(lambda: len(load.done) > RATE)
        returned, late = [], []
        for number in range(ROLLBACKS):
            asked_at, back_at = bad_time(made, load, number)
            returned.append(back_at - asked_at)
            until(lambda: all(serves_old_alone(each, made) for each in made.gateways))
            load.wait_for_more(SEEN)
            bad = [each.sent_at for each in load.since(back_at) if each.version == made.new]
            late.append(max(bad, default=back_at) - back_at)
        load.__exit__()
        served_new = [each for each in load.done if each.version == made.new]
        print(f"\n{len(load.done):,} requests at {RATE:.0f}/s, {len(served_new):,} on the bad version")
        print(told(f"{ROLLBACKS} rollbacks: until the command returned", returned))
        print(told("until the last request to the bad version started, after that", late))
        assert len(served_new) > ROLLBACKS, "each time the bad version was served"
        assert failures(load.done) == []
        # The promise is a second; a machine on which the command itself takes long is busy, and gets as much more.
        assert max(late) <= max(1.0, SLOWNESS * max(returned)), "effective in every replica within a second"
        assert [each for gateway in made.gateways for each in gateway.status()["engines"] if not each["up"]] == []


def serves_old_alone(gateway: RunningGateway, made: Fleet) -> bool:
    route = gateway.admin("GET", f"routes/{ALIAS}").json()
    return (route["control"], route["weight"]) == (made.old, 0)


def bad_time(made: Fleet, load: Load, number: int) -> tuple[float, float]:
    """Have the new version serve half of the callers, and take it back; returns when that was asked and answered."""
    began = time.monotonic()
    forth, back = made.gateways[number % 3], made.gateways[(number + 1) % 3]
    plan = {"candidate": made.new, "plan": "50% 1h", "reason": "test"}
    started = forth.admin("POST", f"routes/{ALIAS}/rollout", plan)
    assert started.status_code == 201, started.text
    until(lambda: any(each.version == made.new for each in load.since(began)))
    asked_at = time.monotonic()
    answer = back.admin("POST", f"routes/{ALIAS}/rollback", {"reason": f"rollback {number}"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["control"] == made.old
    return asked_at, time.monotonic()
