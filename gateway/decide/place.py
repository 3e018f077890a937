"""Which engine serves a version: filter, score, pick.

Filter: up, the version ready, not tried by this request, not ejected, room below the cap.
Score: a conversation leans to one engine, so that its prefix is in that engine's cache; the
rest goes by load. Pick: that engine unless it is loaded above the others, else the less
loaded of two.

`in_flight` is this worker's own count. With several workers each balances its own share,
which evens out without a word between them; what a conversation leans to is the same in all.
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
# More than that by so many requests is no load to speak of: with few in flight the mean is a fraction.
LOAD_SLACK: Final = 2
_64_BITS: Final = (1 << 64) - 1


class Terms(NamedTuple):
    """On what terms an engine may be chosen, beside the table and the loads.

    `number` is any number of 32 bits or more, evenly spread over requests: it stands in for chance.
    `affinity` is a 64-bit hash of what several requests have in common; None where nothing is.
    `ejected` are engines that have failed; `cap` is the most in flight on any one, 0 for no bound.
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

    An ejection never makes a request fail: when every engine that could serve is ejected,
    all are used.

    Args:
        table: The current route table; the base counts as ready wherever an engine is up.
        version: An engine-side name: a full version, or the base's name.
        in_flight: Engine URL → requests this worker has there now.
        tried: Engine URLs that have just failed this very request.
        terms: What else bears on the choice.

    Raises:
        EngineUnavailable: No engine is up, or all that were have been tried.
        VersionNotReady: Engines are up, none has the version yet.
        Saturated: All that could serve have as many requests as they may.
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
        raise _none_found(version, is_base=is_base, may_be_loaded=any_up and not tried)
    if terms.ejected:
        found = [engine for engine in found if engine.url not in terms.ejected] or found
    if terms.cap:
        found = [engine for engine in found if in_flight.get(engine.url, 0) < terms.cap]
        if not found:
            raise Saturated(version)
    if len(found) == 1:
        return found[0]
    if terms.affinity is not None:
        best = preferred(found, terms.affinity)
        if _may_take(best, found, in_flight):
            return best
        found.remove(best)
    return less_loaded_of_two(found, in_flight, terms.number)


def preferred(engines: Sequence[EngineState], affinity: int) -> EngineState:
    """Return the engine that `affinity` leans to: rendezvous hashing.

    One engine more or less moves only what leans to that one.

    Source: Thaler and Ravishankar (1998), IEEE/ACM ToN 6(1), doi:10.1109/90.663936.
    """
    best, highest = engines[0], -1
    for engine in engines:
        # Two rounds of multiply and fold, as splitmix64's finalizer has; Python's `hash` of a tuple is no quicker by
        # much, and so uneven that one of two engines got 28 % more (measured).
        mixed = (affinity ^ _number_of(engine.url)) * 0xBF58476D1CE4E5B9 & _64_BITS
        mixed = (mixed ^ mixed >> 32) * 0x94D049BB133111EB & _64_BITS
        if mixed > highest:
            best, highest = engine, mixed
    return best


def less_loaded_of_two(engines: Sequence[EngineState], in_flight: Mapping[str, int], number: int) -> EngineState:
    """Return the engine with fewer requests of the two that `number` picks; of two alike, either equally often.

    Two choices keep loads nearly even where the least of all draws every worker to the same engine.

    Source: Mitzenmacher (2001), IEEE TPDS 12(10), doi:10.1109/71.963420.
    """
    count = len(engines)
    if count == 1:
        return engines[0]
    first = number % count
    one, other = engines[first], engines[(first + 1 + (number // count) % (count - 1)) % count]
    return other if in_flight.get(other.url, 0) < in_flight.get(one.url, 0) else one


def _may_take(engine: EngineState, engines: Sequence[EngineState], in_flight: Mapping[str, int]) -> bool:
    """Whether `engine`, with this request, stays within the bound on the mean of `engines`."""
    total = sum([in_flight.get(each.url, 0) for each in engines]) + 1
    return in_flight.get(engine.url, 0) + 1 <= LOAD_FACTOR * total / len(engines) + LOAD_SLACK


@lru_cache(maxsize=4096)
def _number_of(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest(), "big")


def _none_found(version: str, *, is_base: bool, may_be_loaded: bool) -> EngineUnavailable | VersionNotReady:
    if may_be_loaded:
        error = VersionNotReady(f"`{version}` is registered and not loaded on any engine yet. Try again shortly.")
        error.version = None if is_base else version
        return error
    return EngineUnavailable("No engine can serve this request now: it is starting or restarting. Try again shortly.")
