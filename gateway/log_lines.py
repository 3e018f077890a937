"""How a line of the log is written, in the node, its workers and evaluators alike.

A message quotes what others wrote: a reason, an engine's error. One record stays one line whatever it
quotes, and nothing of it moves a terminal's cursor. Only a traceback has lines of its own; each of them
begins with `  | `, so that no line of the log that begins with a time can be forged.
"""

import logging
from typing import Final

from gateway.visible import visible

WITH_TIME: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WITHOUT_TIME: Final = "%(levelname)s %(name)s: %(message)s"
# An engine's error may quote a whole prompt.
MAX_MESSAGE: Final = 8_000
MAX_LINE: Final = 2_000


class InertFormatter(logging.Formatter):
    """Writes records whose texts may hold anything."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Return the record's line."""
        return visible(super().formatMessage(record), MAX_MESSAGE)

    def formatException(self, ei: object) -> str:  # noqa: N802 (logging's own name)
        """Return a traceback's lines, none of which can be taken for a record's."""
        return _mark_lines(super().formatException(ei))  # type: ignore[arg-type]  # as logging calls it

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 (logging's own name)
        """Return a stack's lines, none of which can be taken for a record's."""
        return _mark_lines(super().formatStack(stack_info))


def _mark_lines(lines: str) -> str:
    return "\n".join(f"  | {visible(line, MAX_LINE)}" for line in lines.split("\n"))


def log_to_stderr(level: str | int, line: str = WITH_TIME) -> None:
    """Write every record of this process from `level` on to standard error, in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(InertFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])
