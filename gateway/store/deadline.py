"""Wait for a call no longer than so many seconds, whatever it hangs on.

Time-outs of drivers cover most of it, and neither a name server nor a disk that does not
answer. So each call runs in a thread of its own, which is given up when time is over.
"""

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Calls that were given up and still hang; more than that, and new ones are refused at once.
MAX_HANGING: Final = 8


class TimeIsOver(Exception):
    """The call did not end in time; what it does may still happen."""


class Deadline:
    """Bounds the calls to one store.

    Args:
        seconds: The longest that a call may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging = 0
        self._guard = threading.Lock()

    def run(self, call: Callable[[], T], cut: Callable[[], None], seconds: float | None = None) -> T:
        """Return what `call` returns, or raise what it raises.

        Args:
            call: What may hang.
            cut: Called if it does, to free what it hangs on.
            seconds: Another limit than usual.

        Raises:
            TimeIsOver: It did not end in time.
        """
        if self._hanging >= MAX_HANGING:
            raise TimeIsOver(f"{self._hanging} calls still hang")
        seconds = self.seconds if seconds is None else seconds
        running = _Running(call)
        # A daemon: a call that hangs for good must not keep the process from ending.
        threading.Thread(target=self._run, args=(running,), name="loragate-store", daemon=True).start()
        if not running.ended.wait(seconds):
            with self._guard:
                is_over = not running.ended.is_set()
                if is_over:
                    running.is_given_up = True
                    self._hanging += 1
            if is_over:
                cut()
                raise TimeIsOver(f"no answer within {seconds:g} s")
        return running.result()

    def _run(self, running: "_Running[T]") -> None:
        running.run()
        with self._guard:
            running.ended.set()
            if running.is_given_up:
                self._hanging -= 1


class _Running(Generic[T]):
    """One call and its outcome."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self.is_given_up = False
        self._call = call
        self._returned: T
        self._raised: BaseException | None = None

    def run(self) -> None:
        """Carry it out, whatever comes of it."""
        try:
            self._returned = self._call()
        except BaseException as error:  # noqa: BLE001 (handed on to who waits)
            self._raised = error

    def result(self) -> T:
        """Return or raise what came of it."""
        if self._raised is not None:
            raise self._raised
        return self._returned
