"""How much of a worker's memory request bodies take, in all and of each account.

Only what is beyond `SURELY_AT_ONCE_BYTES` of a body counts: less is bounded by the number of connections. What is
held is given back when an engine has begun to answer, or when the request ends otherwise.
"""

from gateway.decide.authenticate import Principal
from gateway.errors import LoragateError, Overloaded, RateLimited
from gateway.receive.limits import Limits


class BodyMemory:
    """The bytes of bodies that a worker holds.

    Args:
        limits: How many they may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.held = 0
        self.by_account: dict[str, int] = {}

    def problem(self, caller: Principal, size: int) -> LoragateError | None:
        """Return why `size` more bytes of a caller's are not taken now, or None if they are."""
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
    """What one request's body takes of a worker's memory."""

    __slots__ = ("_memory", "_size", "_unit")

    def __init__(self, memory: BodyMemory, caller: Principal) -> None:
        self._memory = memory
        self._unit = caller.unit
        self._size = 0

    def add(self, size: int) -> None:
        """Take `size` bytes more; whether there is room is asked before."""
        self._size += size
        self._memory.held += size
        by_account = self._memory.by_account
        by_account[self._unit] = by_account.get(self._unit, 0) + size

    def release(self) -> None:
        """Give back all of it; harmless when it has been given back."""
        size, self._size = self._size, 0
        by_account = self._memory.by_account
        self._memory.held -= size
        left = by_account.get(self._unit, 0) - size
        if left > 0:
            by_account[self._unit] = left
        else:
            by_account.pop(self._unit, None)
