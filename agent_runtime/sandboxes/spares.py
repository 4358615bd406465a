"""The launcher's loop: the next sandbox's keeper is there before anybody asks for it.

Being small and single-threaded, this process can fork safely and fast, which the daemon cannot.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress

from agent_runtime.sandboxes.becoming import LEFT_TO_THE_DAEMON
from agent_runtime.sandboxes.control import cmsg_cloexec
from agent_runtime.sandboxes.keeper import keep
from agent_runtime.sandboxes.kernel import PR_SET_CHILD_SUBREAPER, close_all_but, prctl


def serve(bases: Sequence[str]) -> None:
    """Serve the daemon on fd 0 until it closes the socket."""
    with suppress(PermissionError):
        os.setsid()  # the terminal's signals are for the daemon, which decides what they mean
    close_all_but({0, 1, 2})
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Ended keepers, and what a killed keeper leaves, are reaped by the kernel.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # A service manager sends these to everybody; only the daemon decides when a sandbox ends.
    for number in LEFT_TO_THE_DAEMON:
        signal.signal(number, signal.SIG_IGN)
    requests = socket.socket(fileno=0)
    spare = _spare(requests, bases)
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 1, 8, cmsg_cloexec())
        if not data:
            return
        try:
            socket.send_fds(spare, [b"+"], fds)
        except BrokenPipeError:  # it was killed
            spare = _spare(requests, bases)
            socket.send_fds(spare, [b"+"], fds)
        for fd in fds:
            os.close(fd)
        spare.close()
        spare = _spare(requests, bases)


def _spare(requests: socket.socket, bases: Sequence[str]) -> socket.socket:
    """Fork the next sandbox's keeper; it takes the request's descriptors from the socket."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        requests.close()
        ours.close()
        code = 1
        try:
            keep(theirs, bases)
            code = 0
        except BaseException:  # noqa: BLE001 - the border: nobody else would say why
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    theirs.close()
    return ours
