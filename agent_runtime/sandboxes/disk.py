"""What to tell when a workspace with a disk of its own has no room.

Who makes such disks is `workspaces.quota`, and `sandbox make-workspace`; here they are only seen.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

LOOP_MAJOR: Final = 7
"""Of the kernel's loop devices: /usr/share/doc/kernel-doc, devices.txt."""
BLOCK_BYTES_LEFT: Final = 2 << 20
"""Less than this cannot be used: the file system keeps some for itself."""
_SAID: Final = "No space left on device"


def full_note(workspace: str, output: str) -> str:
    """Why there was no space, if that was it and the workspace has a disk of its own; else ''."""
    with suppress(OSError):
        if os.major(os.stat(workspace).st_dev) != LOOP_MAJOR:
            return ""
        facts = os.statvfs(workspace)
        no_bytes = facts.f_bavail * facts.f_frsize < BLOCK_BYTES_LEFT
        if no_bytes or facts.f_favail == 0 or _SAID in output:
            return (
                f"the disk quota of the workspace and its HOME, "
                f"{facts.f_blocks * facts.f_frsize / (1 << 20):,.0f} MiB and {facts.f_files:,} "
                f"files, is used up: {facts.f_bavail * facts.f_frsize / (1 << 20):,.0f} MiB and "
                f"{facts.f_favail:,} files are free now; environment.resources.disk (and inodes) "
                "in the task file, or the settings sandbox_disk_bytes (and sandbox_inodes), allow "
                "more"
            )
    return ""
