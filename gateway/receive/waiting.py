"""What a client connection can wait for. Each state has its own time-out and its own action when that has passed."""

from enum import Enum, auto


class Waiting(Enum):
    """What the connection waits for, which decides what its deadline means."""

    REQUEST = auto()  # idle between requests
    HEADERS = auto()
    BODY = auto()
    ENGINE = auto()
    READER = auto()  # for the client to take something from a full send buffer
    LINGER = auto()  # for a refused client to stop sending; its data is dropped
