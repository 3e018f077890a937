"""Whether the caller of a request that has waited may still ask: a key may be revoked, or expire, meanwhile."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gateway.decide.authenticate import EXPIRED, Principal
from gateway.decide.route import RouteTable
from gateway.errors import Unauthenticated


class KnownCallers:
    """The callers of the newest route table by their ids, which requests keep; read from the keys when first asked.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._keys: Mapping[bytes, Principal] = MappingProxyType({})
        self._by_id: dict[str, Principal] = {}

    def check(self, caller: Principal, table: RouteTable) -> None:
        """See that a caller's key still stands in a table.

        Raises:
            Unauthenticated: It has been revoked, or has expired.
        """
        if table.keys is None:
            return
        if table.keys is not self._keys:
            self._keys = table.keys
            self._by_id = {each.id: each for each in table.keys.values()}
        known = self._by_id.get(caller.id)
        if known is None:
            raise Unauthenticated("This API key was revoked while its request waited.")
        if known.expires is not None and self._clock() >= known.expires:
            raise Unauthenticated("This API key expired while its request waited.", code=EXPIRED)
