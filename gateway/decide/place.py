"""Placement: which engine serves a version. Engines are filtered, then one is chosen.

Filter: the engine is up, has the version ready, has not been tried by this request, is not ejected, and has room below
the cap. Choice: requests of one conversation prefer one engine, so that their common prefix is in its cache (affinity),
unless that engine is loaded well above the others; all other requests go to the less loaded of two engines.

`in_flight` is this worker's own count. With several workers each balances its own requests, which evens out without
communication; the engine that a conversation prefers is the same in all of them.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from gateway.decide.route import EngineState, RouteTable
from gateway.errors import EngineUnavailable, Saturated, VersionNotReady

# Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018, arXiv:1608.01350): an engine is
# preferred while it has at most `1 + epsilon` times the mean. HAProxy's hash-balance-factor recommends 125 to 200.
LOAD_FACTOR: Final = 1.25
# Allowed above that bound, in requests: with few in flight the mean is below one, and the bound would be too strict.
LOAD_SLACK: Final = 2
_64_BITS: Final = (1 << 64) - 1


class Terms(NamedTuple):
    """What bears on the choice of an engine, beside the route table and the loads.

    `number` is any number of 32 bits or more, spread evenly over requests; it is used as a random number.
    `affinity` is a 64-bit hash that requests of one conversation share; None without one.
    `ejected` are the URLs of ejected engines; `cap` is the most requests in flight on one engine, 0 for no bound.
    """

    number: int = 0
    affinity: int | None = None
    ejected: Collection[str] = ()
    cap: int = 0


ANY: Final = Terms()


def place(
    table: RouteTable, version: str, in_flight: Mapping[str, int], tried: Collection[str] = (), terms: Terms = ANY
) -> EngineState:
    """Return the engine that serves `version` now.

    An ejection never makes a request fail: if all engines that could serve it are ejected, all of them are used.

    Args:
        table: The current route table; the base is ready on every engine that is up.
        version: The engines' name for the model: a full version, or the base's name.
        in_flight: Engine URL → this worker's requests there now.
        tried: URLs of engines that have failed this request.
        terms: Affinity, ejected engines and the cap.

    Raises:
        EngineUnavailable: No engine is up, or all that are up have been tried.
        VersionNotReady: Engines are up, but none has the version ready.
        Saturated: All engines that could serve it have as many requests as the cap allows.
    """
    is_base = table.base is not None and version == table.base.name
    found: list[EngineState] = []
    any_up = False
    for engine in table.engines:
        if engine.is_up and engine.url not in tried:
            any_up = True
            if is_base or version in engine.versions:
                found.append(engine)
    if not found:
        raise _no_engine_error(version, is_base=is_base, may_be_loaded=any_up and not tried)
    if terms.ejected:
        found = [engine for engine in found if engine.url not in terms.ejected] or found
    if terms.cap:
        found = [engine for engine in found if in_flight.get(engine.url, 0) < terms.cap]
        if not found:
            raise Saturated(version)
    if len(found) == 1:
        return found[0]
    if terms.affinity is not None:
        best = pick_by_affinity(found, terms.affinity)
        if _may_take(best, found, in_flight):
            return best
        found.remove(best)
    return less_loaded_of_two(found, in_flight, terms.number)


def pick_by_affinity(engines: Sequence[EngineState], affinity: int) -> EngineState:
    """Return the engine that `affinity` prefers, by rendezvous hashing.

    Adding or removing an engine moves only those conversations that prefer this engine.

    Source: Thaler and Ravishankar (1998), IEEE/ACM ToN 6(1), doi:10.1109/90.663936.
    """
    best, highest = engines[0], -1
    for engine in engines:
        # Two rounds of multiply and fold, as in splitmix64's finalizer. Python's `hash` of a tuple is hardly quicker,
        # and so uneven that one of two engines got 28 % more (measured).
        mixed = (affinity ^ _number_of(engine.url)) * 0xBF58476D1CE4E5B9 & _64_BITS
        mixed = (mixed ^ mixed >> 32) * 0x94D049BB133111EB & _64_BITS
        if mixed > highest:
            best, highest = engine, mixed
    return best


def less_loaded_of_two(engines: Sequence[EngineState], in_flight: Mapping[str, int], number: int) -> EngineState:
    """Return the engine with fewer requests of the two that `number` picks; with equal loads, each equally often.

    Two random choices keep loads nearly even, while the least loaded of all would attract every worker at once.

    Source: Mitzenmacher (2001), IEEE TPDS 12(10), doi:10.1109/71.963420.
    """
    count = len(engines)
    if count == 1:
        return engines[0]
    first = number % count
    one, other = engines[first], engines[(first + 1 + (number // count) % (count - 1)) % count]
    return other if in_flight.get(other.url, 0) < in_flight.get(one.url, 0) else one


def _may_take(engine: EngineState, engines: Sequence[EngineState], in_flight: Mapping[str, int]) -> bool:
    """Whether `engine` with one request more stays within the bound, which is relative to the mean of `engines`."""
    total = sum([in_flight.get(each.url, 0) for each in engines]) + 1
    return in_flight.get(engine.url, 0) + 1 <= LOAD_FACTOR * total / len(engines) + LOAD_SLACK


@lru_cache(maxsize=4096)
def _number_of(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest(), "big")


def _no_engine_error(version: str, *, is_base: bool, may_be_loaded: bool) -> EngineUnavailable | VersionNotReady:
    if may_be_loaded:
        error = VersionNotReady(f"`{version}` is registered and not loaded on any engine yet. Try again shortly.")
        error.version = None if is_base else version
        return error
    return EngineUnavailable("No engine can serve this request now: it is starting or restarting. Try again shortly.")
