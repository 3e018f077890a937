"""What a client connection can wait for. Each has its own time-out, and its own end when that is over."""

from enum import Enum, auto


class Waiting(Enum):
    """What the connection waits for, and so what its deadline means."""

    REQUEST = auto()  # idle between requests
    HEADERS = auto()
    BODY = auto()
    ENGINE = auto()
    READER = auto()  # the client takes nothing off a full buffer
    LINGER = auto()  # refused; what still comes is dropped
