"""Accounting of the memory that request bodies take in a worker, in total and for each account.

Only the part of a body beyond `SURELY_AT_ONCE_BYTES` counts: the rest is bounded by the number of connections. A
body's memory is released when an engine begins to answer, or when the request ends otherwise.
"""

from gateway.decide.authenticate import Principal
from gateway.errors import LoragateError, Overloaded, RateLimited
from gateway.receive.limits import Limits


class BodyMemory:
    """The bytes of request bodies that one worker holds.

    Args:
        limits: The bounds: `max_worker_body_bytes` in total, `max_key_body_bytes` for each account.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0
        self.by_account: dict[str, int] = {}

    def problem(self, caller: Principal, size: int) -> LoragateError | None:
        """Return the error that refuses `size` more bytes of this caller's; None if there is room."""
        limits, unit = self._limits, caller.unit
        if self.by_account.get(unit, 0) + size > limits.max_key_body_bytes:
            error = RateLimited(
                f"The bodies of this key's requests take {self.by_account.get(unit, 0):,} bytes in this gateway "
                f"worker, and {size:,} more would pass the limit of {limits.max_key_body_bytes:,}. Send fewer large "
                "requests at once, or have the operator raise `limits.max_key_body_bytes`."
            )
            error.retry_after_seconds = 1
            return error
        if self.held + size > limits.max_worker_body_bytes:
            return Overloaded(
                f"The bodies of running requests take {self.held:,} bytes in this gateway worker, and {size:,} more "
                f"would pass the limit of {limits.max_worker_body_bytes:,}. Try again shortly."
            )
        return None


class BodyReservation:
    """The share of a worker's body memory that one request holds."""

    __slots__ = ("_memory", "_size", "_unit")

    def __init__(self, memory: BodyMemory, caller: Principal) -> None:
        self._memory = memory
        self._unit = caller.unit
        self._size = 0

    def add(self, size: int) -> None:
        """Reserve `size` bytes more. The caller has checked `BodyMemory.problem` first."""
        self._size += size
        self._memory.held += size
        by_account = self._memory.by_account
        by_account[self._unit] = by_account.get(self._unit, 0) + size

    def release(self) -> None:
        """Release everything reserved. Safe to call twice."""
        size, self._size = self._size, 0
        by_account = self._memory.by_account
        self._memory.held -= size
        left = by_account.get(self._unit, 0) - size
        if left > 0:
            by_account[self._unit] = left
        else:
            by_account.pop(self._unit, None)
