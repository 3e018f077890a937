"""A fake engine and a real gateway in front of it, over real sockets."""

from collections.abc import Iterator

import pytest

from tests.fakes.engine import FakeEngine
from tests.support.gateways import RunningGateway


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    """A fake engine, shared by the tests of a module; its knobs are set per request."""
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(engine: FakeEngine) -> Iterator[RunningGateway]:
    """A gateway in front of it, whose time-outs no test waits for: all are half a minute or more."""
    with RunningGateway(engine.url) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty(engine: FakeEngine) -> Iterator[RunningGateway]:
    """Another, with quick time-outs: for tests that wait for one, and must not need anything sooner."""
    with RunningGateway(engine.url, environment=QUICK) as gateway:
        yield gateway


# Short, since they are waited for.
QUICK = {
    "LORAGATE_LIMITS__HEADER_SECONDS": "2",
    "LORAGATE_LIMITS__BODY_SECONDS": "2",
    "LORAGATE_LIMITS__FIRST_BYTE_SECONDS": "2",
    "LORAGATE_LIMITS__IDLE_SECONDS": "2",
    "LORAGATE_LIMITS__LINGER_SECONDS": "3",
    "LORAGATE_LIMITS__KEEP_ALIVE_SECONDS": "2",
    "LORAGATE_LIMITS__STALLED_READER_SECONDS": "3",
}
