"""What a process of several says when another one dies: one sentence, whatever the runtime prints.

JAX's runtime ends a process whose peer is gone from within C++, with a stack trace and without
asking Python. So while processes work together, their stderr goes through a small process of its
own, this file run as a program, which passes everything on but that dump.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

SENTENCE = (
    "another process of this run has died or cannot be reached; the same command in all processes "
    "goes on from the last checkpoint"
)

_DUMP = re.compile(rb"^[EF]\d{4} .*(coordination_service|distributed service)", re.MULTILINE)


@contextlib.contextmanager
def filtered_stderr() -> Iterator[None]:
    """Sends this process's stderr through the filter, until the block ends."""
    own = os.dup(2)
    with subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE) as reader:
        assert reader.stdin is not None
        os.dup2(reader.stdin.fileno(), 2)
        reader.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)


def pass_on(source: int, target: int) -> None:
    """Copies a stream until it ends, with `SENTENCE` once in place of a dump.

    Args:
      source: the descriptor to read from.
      target: the one to write to.
    """
    told = dumping = False
    while piece := os.read(source, 1 << 16):
        dump = _DUMP.search(piece)  # which the runtime writes a message at a time
        if dump and not dumping:
            dumping, before = True, piece[: dump.start()]
            told = told or SENTENCE.encode() in before
            os.write(target, before if told else before + f"error: {SENTENCE}\n".encode())
        elif not dumping:
            told = told or SENTENCE.encode() in piece
            os.write(target, piece)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    pass_on(0, 2)
