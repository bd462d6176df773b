"""What every input is promised: success or one sentence, soon, and in little memory."""

import contextlib
import faulthandler
import signal
from collections.abc import Callable
from pathlib import Path

from dpfinjax.errors import InputError

ACCEPTED, REFUSED = "accepted", "refused"

SECONDS = 10
"""Of processor time, so that a busy machine decides nothing."""

_WAITING_SECONDS = 60  # of the clock: an input on which nothing happens at all
_TIMES = 4
_ALWAYS_BYTES = 96 << 20  # what threads and buffers may take, whatever the input
_LONGEST_SENTENCE = 3000  # beside what it repeats of the input

Entry = Callable[[bytes], None]


class Violation(AssertionError):
    """An input that got another answer than it is promised."""


def tried(entry: Entry, data: bytes, always: int = _ALWAYS_BYTES) -> str:
    """Returns what became of an input, `ACCEPTED` or `REFUSED`.

    Args:
      entry: reads it.
      data: the input.
      always: bytes of memory that it may take beside four times its size.

    Raises:
      Violation: where it raised anything but an InputError of one sentence, took longer than
        `SECONDS` or more memory than four times its size.
    """
    before = _memory("VmRSS")
    _forget_the_peak()
    try:
        with _limited():
            entry(data)
        outcome = ACCEPTED
    except InputError as error:
        _check_sentence(" ".join(str(error).split()), len(data))
        outcome = REFUSED
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}") from error
    grown = _memory("VmHWM") - before
    if grown > _TIMES * len(data) + always:
        raise Violation(f"{grown >> 20} MiB of memory for {len(data)} bytes")
    return outcome


def _check_sentence(text: str, size: int) -> None:
    if not text or "Traceback" in text or len(text) > _LONGEST_SENTENCE + 4 * size:
        raise Violation(f"no sentence: {text[:300]!r} ({len(text)} letters)")


@contextlib.contextmanager
def _limited():
    """Ends a block that takes too long, by processor time or by the clock.

    Where it hangs outside Python no signal is heard, and the process ends with a traceback.
    """

    def stop(signum, frame):
        raise Violation(f"not done after {SECONDS} s ({signal.Signals(signum).name})")

    limits = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    seconds = {signal.SIGPROF: SECONDS, signal.SIGALRM: _WAITING_SECONDS}
    before = {number: signal.signal(number, stop) for number in limits}
    for number, timer in limits.items():
        signal.setitimer(timer, seconds[number])
    faulthandler.dump_traceback_later(2 * _WAITING_SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, timer in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _memory(field: str) -> int:
    """Bytes of this process's memory: `VmRSS` now, `VmHWM` at most since `_forget_the_peak`."""
    with contextlib.suppress(OSError):  # where the system does not tell
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) << 10
    return 0


def _forget_the_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
