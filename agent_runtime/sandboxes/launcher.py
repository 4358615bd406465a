"""The first lines of the process beside the daemon that starts, watches and ends sandboxes.

Run as a script by `launching`, with nothing but the standard library, an empty environment and one
socket as its stdin; argv[1:] are the directories in which sandboxes have control groups. It forks a
keeper for every sandbox (`spares`), which builds it and ends it when the daemon closes the control
socket, also by dying (`keeper`). What happens between fork and exec is in `becoming`.

Which mounts a sandbox has is decided in `mounts`, and which control groups in `cgroups`; in these
files only the kernel is talked to.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Serve the daemon on fd 0 until it closes the socket."""
    # Last: what is beside the package must never take the place of the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from agent_runtime.sandboxes import spares

    spares.serve(sys.argv[1:])


if __name__ == "__main__":
    main()
