"""Bound the time of calls to the store, whatever they hang on.

Time-outs of database drivers do not cover a name server or a disk that does not answer. So each call runs in a
thread of its own, and the caller stops waiting for it when its time is over.
"""

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# While this many abandoned calls still hang, new calls are refused at once.
MAX_HANGING: Final = 8


class TimeIsOver(Exception):
    """The call did not end in time; its effect may still happen later."""


class Deadline:
    """Limits the time of calls to one store.

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
            call: The call, which may hang.
            cut: Called when the time is over, to interrupt what the call waits for.
            seconds: A limit in place of the usual one.

        Raises:
            TimeIsOver: The call did not end in time.
        """
        if self._hanging >= MAX_HANGING:
            raise TimeIsOver(f"{self._hanging} calls still hang")
        seconds = self.seconds if seconds is None else seconds
        running = _Running(call)
        # A daemon thread, since a call that hangs forever must not keep the process from ending.
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
        """Make the call, and keep its result or its exception."""
        try:
            self._returned = self._call()
        except BaseException as error:  # noqa: BLE001 (raised again in the waiting thread)
            self._raised = error

    def result(self) -> T:
        """Return the call's result, or raise its exception."""
        if self._raised is not None:
            raise self._raised
        return self._returned
