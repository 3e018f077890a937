"""Which engine serves a version: filter, then pick the least loaded.

`in_flight` is this worker's own count. With several workers each balances its own
share, which evens out without a word between them.
"""

from collections.abc import Collection, Mapping

from gateway.decide.route import EngineView, RouteTable
from gateway.errors import EngineUnavailable, VersionNotReady


def place(table: RouteTable, version: str, in_flight: Mapping[str, int], tried: Collection[str] = ()) -> EngineView:
    """Return the engine with the fewest requests in flight that is up and has `version` ready.

    Args:
        table: The current route table; the base counts as ready wherever an engine is up.
        version: An engine-side name: a full version, or the base's name.
        in_flight: Engine URL → requests this worker has there now.
        tried: Engine URLs that have just failed this very request.

    Raises:
        EngineUnavailable: No engine is up, or all that were have been tried.
        VersionNotReady: Engines are up, none has the version yet.
    """
    is_base = table.base is not None and version == table.base.name
    best: EngineView | None = None
    fewest = 0
    any_up = False
    for engine in table.engines:
        if not engine.is_up or engine.url in tried:
            continue
        any_up = True
        if not is_base and version not in engine.versions:
            continue
        count = in_flight.get(engine.url, 0)
        if best is None or count < fewest:
            best, fewest = engine, count
    if best is not None:
        return best
    if any_up and not tried:
        error = VersionNotReady(f"`{version}` is registered and not loaded on any engine yet. Try again shortly.")
        error.version = None if is_base else version
        raise error
    raise EngineUnavailable("No engine can serve this request now: it is starting or restarting. Try again shortly.")
