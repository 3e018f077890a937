"""What tests of the store do in processes of their own, to be killed and paused."""

import hashlib
import time
from multiprocessing.connection import Connection

from gateway.decide.authenticate import Role
from gateway.records.state import Desired, KeyRecord
from gateway.store.errors import Fenced, StaleWrite
from gateway.store.leader import Leader
from gateway.store.samples import Samples
from gateway.store.sql import Store, open_store
from tests.support.patience import PATIENCE_SECONDS
from tests.support.samples import judged

PAUSE_SECONDS = 0.04
WRITES_PER_STEP = 3
CLAIMED_AT_ONCE = 4


def with_another_key(desired: Desired) -> Desired:
    """Return the state with one more key: as many as its next version."""
    number = desired.version + 1
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    record = KeyRecord(id=f"key-{number}", digest=digest, role=Role.APP)
    return Desired(version=desired.version, keys=(*desired.keys, record))


def write_for_ever(where: str, parent: Connection) -> None:
    """Add key after key, and tell the version of each change that is done."""
    store = open_store(where, now=time.time, seconds=PATIENCE_SECONDS)
    desired = store.read_state()
    while True:
        desired = with_another_key(desired)
        desired = store.write_state(desired, expected=desired.version, journal=[{"key": desired.keys[-1].id}])
        parent.send(desired.version)


def lead(where: str, name: str, lease_seconds: float, parent: Connection) -> None:
    """Stand for leader, and write as the leader; tell what happens."""
    store = open_store(where, now=time.time, seconds=PATIENCE_SECONDS)
    leader = Leader(store, name, lease_seconds=lease_seconds)
    while True:
        fence = leader.step()
        if fence is not None:
            parent.send((name, "leads", fence))
        while fence is not None:
            for _ in range(WRITES_PER_STEP):
                outcome = _write(store, name, fence)
                parent.send((name, outcome, fence))
                time.sleep(PAUSE_SECONDS)
            if leader.step() != fence:
                # As one would that was paused between looking and writing.
                parent.send((name, _write(store, name, fence), fence))
                parent.send((name, "leads no more", fence))
                fence = None
        time.sleep(PAUSE_SECONDS)


def _write(store: Store, name: str, fence: int) -> str:
    desired = store.read_state()
    journal = [{"by": name, "fence": fence}]
    try:
        store.write_state(with_another_key(desired), expected=desired.version, journal=journal, fence=fence)
    except Fenced:
        return "fenced"
    except StaleWrite:
        return "stale"
    return "wrote"


def judge_for_ever(where: str, name: str, lease_seconds: float, work_seconds: float, parent: Connection) -> None:
    """Claim samples, seem to judge them for a while, and store pairs; tell the ids of what was stored."""
    store = open_store(where, now=time.time, seconds=PATIENCE_SECONDS)
    samples = Samples(store)
    while True:
        claimed = samples.claim(name, CLAIMED_AT_ONCE, lease_seconds)
        for each in claimed:
            time.sleep(work_seconds)
            if samples.finish(name, judged(each.sample, scored_at=time.time(), session=name), tokens=1):
                parent.send(each.sample.id)
        if not claimed:
            time.sleep(PAUSE_SECONDS)
