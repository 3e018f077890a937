"""The log format of the node, its workers and evaluators: no message can forge a line or control a terminal.

Messages quote texts of others: an operator's reason, an engine's error. A record is one line whatever it quotes, with
control characters escaped. Only a traceback has lines of its own; each begins with `  | `, so that no line that begins
with a time can be forged.
"""

import logging
from typing import Final

from gateway.visible import visible

WITH_TIME: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WITHOUT_TIME: Final = "%(levelname)s %(name)s: %(message)s"
# In characters: an engine's error may quote a whole prompt.
MAX_MESSAGE: Final = 8_000
MAX_LINE: Final = 2_000


class InertFormatter(logging.Formatter):
    """A formatter for records whose texts may hold anything."""

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
    """Log to standard error, all records of `level` and above, in the format `line`."""
    handler = logging.StreamHandler()
    handler.setFormatter(InertFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])
