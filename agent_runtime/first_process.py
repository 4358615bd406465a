"""What a process does that finds itself the first of a container: leave the work to a child.

Process 1 is the parent of everything whose own parent has died, and a signal that it does not
handle does not reach it. So it stays what it is here, an init: it starts itself once more, hands on
signals, reaps, and ends as its child does, whereupon the kernel ends the rest of the container.
Call it before threads are started, and before anything big is imported: both are kept twice.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

_OURS: Final = {signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU}
"""Not handed on: the first tells of children, the others of our own use of the terminal."""


def leave_the_first() -> None:
    """Return at once unless this is process 1; if it is, return in a child and never in itself."""
    if os.getpid() == 1:
        stand_before_a_child()


def stand_before_a_child() -> None:
    """Fork, return in the child; the parent ends with the child's exit code, or 128 and a signal's
    number."""
    every = signal.valid_signals()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, every)
    child = os.fork()
    if child == 0:
        # A group of its own: a terminal's Ctrl-C would reach it twice.
        os.setpgid(0, 0)
        with suppress(OSError):
            os.tcsetpgrp(0, os.getpgrp())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        number = signal.sigwait(every)
        if number not in _OURS:
            with suppress(ProcessLookupError):
                os.kill(child, number)
            continue
        status = _reap(child)
        if status is not None:
            os._exit(status)


def _reap(child: int) -> int | None:
    """Everything that has ended; the child's status if it is among it."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = 128 - code if code < 0 else code
