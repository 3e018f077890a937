"""Everything that the admin API offers, in its parts."""

from collections.abc import Awaitable, Callable

from gateway.admin.adapters.operations import AdapterOperations
from gateway.admin.keys.operations import KeyOperations
from gateway.admin.rollouts.operations import Gather, RolloutOperations
from gateway.admin.routes.operations import RouteOperations
from gateway.admin.state import LiveState
from gateway.observe.mirror_counts import MirrorCounts


class Operations:
    """Everything that the admin API offers.

    Args:
        state: The state it works on.
        adapters: The part that registers, removes and fuses.
        gather: Returns what all gateways have counted of open rollouts.
        everywhere: Waits a moment for all gateways to serve a version of the state; returns how many of them do.
        mirrored: Returns what became of this gateway's copies of requests.
    """

    def __init__(
        self,
        state: LiveState,
        adapters: AdapterOperations,
        gather: Gather,
        everywhere: Callable[[int], Awaitable[tuple[int, int]]],
        mirrored: Callable[[], MirrorCounts] = MirrorCounts,
    ) -> None:
        self.state = state
        self.adapters = adapters
        self.keys = KeyOperations(state)
        self.routes = RouteOperations(state)
        self.rollouts = RolloutOperations(state, gather)
        self.everywhere = everywhere
        self.mirrored = mirrored
