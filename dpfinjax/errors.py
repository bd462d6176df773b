"""What is told in one sentence instead of a traceback."""

import errno
import os
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what would be right.

    Launchers print the sentence without a traceback and end with exit code 2.
    """


_REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it readable and writable",
    errno.EPERM: "make it readable and writable",
    errno.EIO: "look after the disk",
}


def refused_by_system(error: BaseException) -> str | None:
    """Returns the sentence for an error that comes from the disk and not from a program's mistake.

    Libraries in C++ tell such errors as text in exceptions of their own, and others wrap them.

    Args:
      error: any exception, with what it was raised from.

    Returns:
      What the system refused, where it says so, and what to do; None for any other error.
    """
    for each in _chain(error):
        for number, remedy in _REMEDIES.items():
            reason = os.strerror(number)
            if isinstance(each, OSError):
                if each.errno != number:
                    continue
                where = f": {each.filename}" if each.filename else ""
            elif reason in str(each):
                where = f" ({_line(each)})"
            else:
                continue
            return f"{reason}{where}; {remedy}, and the same command goes on from here."
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it was raised from or beside."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    return " ".join(str(error).split())[:300]
