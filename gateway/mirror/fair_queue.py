"""What waits in line by account: each account in turn gives one, so that one cannot hold up all others."""

from collections import OrderedDict, deque
from collections.abc import Sequence

from gateway.records.feedback import Feedback


class FairQueue:
    """Feedback that waits to be stored.

    Args:
        most: How much may wait.
        most_of_one: How much of one account.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._by_account: OrderedDict[str, deque[Feedback]] = OrderedDict()  # whose turn is next, first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, given: Feedback) -> bool:
        """Take it over, if there is room."""
        line = self._by_account.get(given.account)
        if self._size >= self._most or (line is not None and len(line) >= self._most_of_one):
            return False
        if line is None:
            line = self._by_account[given.account] = deque()
        line.append(given)
        self._size += 1
        return True

    def take(self, most: int) -> list[Feedback]:
        """Return what is next, at most so many; of each account in the order in which it came."""
        taken: list[Feedback] = []
        while self._by_account and len(taken) < most:
            account, line = self._by_account.popitem(last=False)
            taken.append(line.popleft())
            if line:
                self._by_account[account] = line
        self._size -= len(taken)
        return taken

    def give_back(self, taken: Sequence[Feedback]) -> None:
        """Put back what could not be stored, before all else, whatever room there is."""
        for each in reversed(taken):
            self._by_account.setdefault(each.account, deque()).appendleft(each)
        self._size += len(taken)
