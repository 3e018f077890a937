"""The operations behind the admin API, gathered in one object."""

from collections.abc import Awaitable, Callable

from gateway.admin.adapters.operations import AdapterOperations
from gateway.admin.keys.operations import KeyOperations
from gateway.admin.rollouts.operations import Gather, RolloutOperations
from gateway.admin.routes.operations import RouteOperations
from gateway.admin.state import LiveState
from gateway.observe.mirror_counts import MirrorCounts


class Operations:
    """The operations behind the admin API: on adapters, keys, routes and rollouts.

    Args:
        state: The live state that they read and change.
        adapters: Operations on adapters, which need more than the state.
        gather: Returns the counts of open rollouts from all gateways.
        everywhere: Waits a moment for all gateways to serve a version of the state; returns how many do, and how many
            gateways there are.
        mirrored: Returns this gateway's counts of mirrored requests: sampled, skipped and dropped.
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
