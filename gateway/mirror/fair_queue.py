"""A queue of feedback that serves accounts in turn, so that one account cannot hold up all others."""

from collections import OrderedDict, deque
from collections.abc import Sequence

from gateway.records.feedback import Feedback


class FairQueue:
    """Feedback that waits to be stored.

    Args:
        most: The bound on all of it.
        most_of_one: The bound on the feedback of one account.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._by_account: OrderedDict[str, deque[Feedback]] = OrderedDict()  # the account whose turn is next is first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, feedback: Feedback) -> bool:
        """Add feedback; False if there is no room."""
        line = self._by_account.get(feedback.account)
        if self._size >= self._most or (line is not None and len(line) >= self._most_of_one):
            return False
        if line is None:
            line = self._by_account[feedback.account] = deque()
        line.append(feedback)
        self._size += 1
        return True

    def take(self, most: int) -> list[Feedback]:
        """Remove and return at most `most`, taking turns between accounts and in order within each."""
        batch: list[Feedback] = []
        while self._by_account and len(batch) < most:
            account, line = self._by_account.popitem(last=False)
            batch.append(line.popleft())
            if line:
                self._by_account[account] = line
        self._size -= len(batch)
        return batch

    def give_back(self, batch: Sequence[Feedback]) -> None:
        """Put feedback that could not be stored back to the front, even beyond the bounds."""
        for each in reversed(batch):
            self._by_account.setdefault(each.account, deque()).appendleft(each)
        self._size += len(batch)
