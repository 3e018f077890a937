"""Requests that wait in a worker for a version, and what becomes of them when it is there."""

from gateway.errors import LoragateError
from gateway.workers.channel import Supplied, Used, Want
from gateway.workers.supply import WorkerSupply


class Waiting:
    def __init__(self, *, is_broken: bool = False) -> None:
        self._is_broken = is_broken
        self.told: list[LoragateError | None] = []

    def on_supply(self, error: LoragateError | None, *, was_there: bool) -> None:
        assert not was_there
        self.told.append(error)
        if self._is_broken:
            raise RuntimeError("this request's own fault")


def test_a_request_that_cannot_go_on_leaves_none_of_the_others_waiting_and_the_worker_hearing() -> None:
    sent: list[Want | Used] = []
    supply, waiters = WorkerSupply(sent.append), [Waiting(), Waiting(is_broken=True), Waiting()]
    for waiter in waiters:
        supply.want("a@1", None, waiter)
    supply.on_supplied(Supplied("a@1", None, False))
    assert [waiter.told for waiter in waiters] == [[None]] * 3
    assert len(sent) == 1
