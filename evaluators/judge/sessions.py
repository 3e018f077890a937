"""Reduce the pairs of each session to one mean, so that a session counts once.

Pairs of one conversation resemble each other: taken one by one they would count as more evidence than they
are, and a test's error rate would not hold (docs/statistics.md shows by how much). So pairs are
gathered by session, and the session is closed with its `MAX_PAIRS`th pair, when nothing came for
`idle_seconds`, or `LONGEST` times that after it began. Pairs that come for a closed session are left out and never
reopen it. The waiting times therefore affect only how soon a verdict comes, never whether it is valid.

Means are handed out in the order in which the sessions *began*: one that is closed waits for all that began before
it. Handed out in the order of closing, short sessions would come first, and a candidate that is worse in short
sessions and better in long ones, no worse on the whole, would be failed by the evidence of the short ones alone.

The times at which a session is closed and handed out depend only on the pairs' times, not on when the evidence was
read. So a second reader of the same pairs (a new leader, `gates simulate`) gets the same means in the same order.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

# With an intra-session correlation of 0.5 the mean of ten pairs has 55 % of one pair's variance, that of endlessly
# many 50 %.
MAX_PAIRS: Final = 10
# Longer than a turn of a conversation mostly takes; a gate waits so long for the last sessions. Clicks on
# web pages are split at 30 minutes, but no evidence should wait for that.
IDLE_SECONDS: Final = 60.0
# A session stays open for at most this many times `idle_seconds`, because the sessions that began later wait for it.
LONGEST: Final = 10
# Bounds of memory. With more sessions waiting than this the one that began first is closed; of the closed ones the
# oldest is forgotten, and would count once more if it came back after so many others.
MAX_WAITING: Final = 10_000
MAX_CLOSED: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A session's mean.

    Attributes:
        stream: The stream of the session's first pair.
        mean: Mean of the pairs' numbers.
        weight: Mean of the pairs' weights.
        pairs: Number of pairs.
    """

    stream: str
    mean: float
    weight: float
    pairs: int


@dataclass(slots=True)
class _Session:
    stream: str
    began: float
    last: float
    total: float = 0.0
    weight: float = 0.0
    pairs: int = 0
    is_closed: bool = False

    def mean(self) -> Closed:
        return Closed(
            stream=self.stream, mean=self.total / self.pairs, weight=self.weight / self.pairs, pairs=self.pairs
        )


class SessionMeans:
    """Gathers pairs by session and hands out each session's mean once.

    Attributes:
        left_out: Pairs that came for a session which had counted already, or for its other stream.
        of_other_stream: How many of `left_out` came for the session's other stream. With two streams, a session of
            several pairs normally has some.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS, most_pairs: int = MAX_PAIRS) -> None:
        if idle_seconds < 0 or most_pairs < 1:
            raise ValueError(f"idle_seconds `{idle_seconds}` and most_pairs `{most_pairs}` must be at least 0 and 1")
        self._idle_seconds = idle_seconds
        self._most_pairs = most_pairs
        self._open: dict[Hashable, _Session] = {}  # the longest idle first
        self._line: dict[Hashable, _Session] = {}  # not handed out yet; the one that began first is first
        self._closed: dict[Hashable, str] = {}  # session → its stream, the oldest first
        self.left_out = 0
        self.of_other_stream = 0

    @property
    def waiting(self) -> int:
        """Pairs of sessions that have not been handed out: they are open, or one that began before them is."""
        return sum(session.pairs for session in self._line.values())

    def has_counted(self, until: float) -> bool:
        """Whether all sessions that began by then have been handed out."""
        return not self._line or next(iter(self._line.values())).began > until

    def add(self, session: Hashable, value: float, at: float, *, stream: str = "", weight: float = 1.0) -> list[Closed]:
        """Add one pair, and return the sessions that are handed out because of it.

        Args:
            session: Key of the pair's session.
            value: The pair's number.
            at: When the pair was compared, in seconds of any clock that rises from pair to pair.
            stream: The pair's stream; a session belongs to the stream of its first pair.
            weight: The pair's weight; only its mean over the session is kept.
        """
        found = self._open.get(session)
        if found is not None and self._is_over(found, at):
            self._close(session)
            found = None
        first_stream = found.stream if found is not None else self._closed.get(session)
        if session in self._closed or (found is not None and found.stream != stream):
            self.left_out += 1
            self.of_other_stream += first_stream != stream
            return self._take_closed()
        if found is None:
            found = self._line[session] = _Session(stream, at, at)
        else:
            del self._open[session]
        self._open[session] = found
        found.total += value
        found.weight += weight
        found.pairs += 1
        found.last = max(found.last, at)
        if found.pairs >= self._most_pairs:
            self._close(session)
        elif len(self._line) > MAX_WAITING:
            self._close(next(iter(self._line)))
        return self._take_closed()

    def close(self, now: float) -> list[Closed]:
        """Return the sessions that are handed out because nothing came for `idle_seconds` until `now`."""
        while self._open:
            session, found = next(iter(self._open.items()))
            if now - found.last < self._idle_seconds:
                break
            self._close(session)
        closed = self._take_closed()
        while self._line:
            session, found = next(iter(self._line.items()))
            if not self._is_over(found, now):
                break
            self._close(session)
            closed += self._take_closed()
        return closed

    def _is_over(self, found: _Session, now: float) -> bool:
        return now - found.last >= self._idle_seconds or now - found.began >= LONGEST * self._idle_seconds

    def _close(self, session: Hashable) -> None:
        found = self._open.pop(session)
        found.is_closed = True
        self._closed[session] = found.stream
        if len(self._closed) > MAX_CLOSED:
            del self._closed[next(iter(self._closed))]

    def _take_closed(self) -> list[Closed]:
        """Remove and return the closed sessions that no open session precedes."""
        closed = []
        while self._line:
            session, found = next(iter(self._line.items()))
            if not found.is_closed:
                break
            del self._line[session]
            closed.append(found.mean())
        return closed
