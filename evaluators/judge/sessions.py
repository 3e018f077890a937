"""A session counts once, by the mean of its pairs.

Pairs of one conversation resemble each other: taken one by one they would count as more evidence than they
are, and a test's error rate would not hold (docs/statistics.md shows by how much). So pairs are
gathered by session, and their mean is handed out when the session is closed: with its `MOST_PAIRS`th
pair, or when nothing came for `idle_seconds`. What comes for it afterwards is left out, not counted
anew. How long is waited is therefore a matter of speed, never of validity.

When a session is closed depends on its pairs' times alone, never on who looked when; so whoever
reads the same pairs again (a new leader, `gates simulate`) finds the same means.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

# With an intra-session correlation of 0.5 the mean of ten pairs has 55 % of one pair's variance, that of endlessly
# many 50 %.
MOST_PAIRS: Final = 10
# Longer than a turn of a conversation mostly takes; a gate waits so long for the last sessions. Clicks on
# web pages are split at 30 minutes, but no evidence should wait for that.
IDLE_SECONDS: Final = 60.0
# Bounds of memory. With more sessions open than this the one that waits longest is closed; of the closed ones the
# oldest is forgotten, and would count once more if it came back after so many others.
MOST_OPEN: Final = 10_000
MOST_CLOSED: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A session's mean.

    Attributes:
        stream: Whose: as given with its first pair.
        mean: Of its pairs' numbers.
        weight: Mean of its pairs' weights.
        pairs: How many.
    """

    stream: str
    mean: float
    weight: float
    pairs: int


@dataclass(slots=True)
class _Open:
    stream: str
    last: float
    total: float = 0.0
    weight: float = 0.0
    pairs: int = 0

    def closed(self) -> Closed:
        """Return what is handed out of it."""
        return Closed(
            stream=self.stream, mean=self.total / self.pairs, weight=self.weight / self.pairs, pairs=self.pairs
        )


class SessionMeans:
    """Gathers pairs by session and hands out each session's mean once.

    Attributes:
        left_out: Pairs that came for a session which had counted already, or for its other stream.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS, most_pairs: int = MOST_PAIRS) -> None:
        if idle_seconds < 0 or most_pairs < 1:
            raise ValueError(f"idle_seconds `{idle_seconds}` and most_pairs `{most_pairs}` must be at least 0 and 1")
        self._idle_seconds = idle_seconds
        self._most_pairs = most_pairs
        self._open: dict[Hashable, _Open] = {}  # the longest idle first
        self._closed: dict[Hashable, None] = {}  # the oldest first
        self.left_out = 0

    @property
    def waiting(self) -> int:
        """Pairs of sessions that are still open."""
        return sum(session.pairs for session in self._open.values())

    def add(self, session: Hashable, value: float, at: float, *, stream: str = "", weight: float = 1.0) -> list[Closed]:
        """Take one pair, and return the sessions that are closed by it.

        Args:
            session: Whose it is.
            value: Its number.
            at: When it was compared, in seconds of any clock that rises from pair to pair.
            stream: Which stream it belongs to; a session belongs to that of its first pair.
            weight: The pair's, for whoever wants to know their mean.
        """
        done: list[Closed] = []
        found = self._open.pop(session, None)
        if found is not None and at - found.last >= self._idle_seconds:
            done.append(self._close(session, found))
            found = None
        if session in self._closed or (found is not None and found.stream != stream):
            self.left_out += 1
            if found is not None:
                self._open[session] = found
            return done
        found = found or _Open(stream, at)
        found.total += value
        found.weight += weight
        found.pairs += 1
        found.last = max(found.last, at)
        if found.pairs >= self._most_pairs:
            done.append(self._close(session, found))
        else:
            self._open[session] = found
            if len(self._open) > MOST_OPEN:
                oldest = next(iter(self._open))
                done.append(self._close(oldest, self._open.pop(oldest)))
        return done

    def close(self, now: float) -> list[Closed]:
        """Return the sessions for which nothing came for `idle_seconds` until `now`; they have counted then."""
        done = []
        while self._open:
            session, found = next(iter(self._open.items()))
            if now - found.last < self._idle_seconds:
                break
            del self._open[session]
            done.append(self._close(session, found))
        return done

    def _close(self, session: Hashable, found: _Open) -> Closed:
        self._closed[session] = None
        if len(self._closed) > MOST_CLOSED:
            del self._closed[next(iter(self._closed))]
        return found.closed()
