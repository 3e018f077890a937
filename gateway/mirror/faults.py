"""A fault of ours in a few words, for the log: what and where, without the text, which may quote a prompt."""

from traceback import walk_tb


def told(error: BaseException) -> str:
    """Return an exception's type and the line it comes from."""
    where = ""
    for frame, line in walk_tb(error.__traceback__):
        where = f" at {'/'.join(frame.f_code.co_filename.split('/')[-3:])}:{line}"
    return f"{type(error).__name__}{where}"
