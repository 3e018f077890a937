"""Log lines about bugs: the exception's type and place, but not its message, which may quote a prompt."""

from traceback import walk_tb


def safe_traceback(error: BaseException) -> str:
    """Return an exception's type, and the file and line that raised it."""
    where = ""
    for frame, line in walk_tb(error.__traceback__):
        where = f" at {'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{line}"
    return f"{type(error).__name__}{where}"
