"""Checks again the key of a request that has waited: it may have been revoked or have expired meanwhile."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gateway.decide.authenticate import EXPIRED, Principal
from gateway.decide.route import RouteTable
from gateway.errors import Unauthenticated


class KnownCallers:
    """The callers of the newest route table, by id: a waiting request keeps its caller's id, not the key.

    The index is built when a request first asks after a change of keys.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: Mapping[bytes, Principal] = MappingProxyType({})
        self._by_id: dict[str, Principal] = {}

    def check(self, caller: Principal, table: RouteTable) -> None:
        """Check that a caller's key is still in the table.

        Raises:
            Unauthenticated: The key has been revoked, or has expired.
        """
        if table.keys is None:
            return
        if table.keys is not self._keys:
            self._keys = table.keys
            self._by_id = {each.id: each for each in table.keys.values()}
        principal = self._by_id.get(caller.id)
        if principal is None:
            raise Unauthenticated("This API key was revoked while its request waited.")
        if principal.expires is not None and self._clock() >= principal.expires:
            raise Unauthenticated("This API key expired while its request waited.", code=EXPIRED)
