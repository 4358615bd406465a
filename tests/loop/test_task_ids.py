"""Ids of tasks: UUIDv7, in the order of their making, and never twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from agent_runtime.loop.submission import new_task_id

FORKED = """
import os
from agent_runtime.loop.submission import new_task_id

new_task_id(0)  # the pool is filled before
child = os.fork()
os.write(1, f"{new_task_id(0)}\\n".encode())  # in one piece: both write to the same pipe
if child:
    os.waitpid(child, 0)
"""


def test_an_id_is_a_uuid_of_version_7_and_sorts_by_its_time() -> None:
    ids = [new_task_id(at_us) for at_us in (1_000, 2_000, 1_790_000_000_000_000)]
    assert ids == sorted(ids)
    for task_id in ids:
        made = UUID(task_id.removeprefix("task_"))
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"


def test_a_forked_process_makes_other_ids(tmp_path: Path) -> None:
    """Both have the same memory, and with it what was left of the random bytes."""
    told = subprocess.run(
        [sys.executable, "-c", FORKED], check=True, capture_output=True, text=True, cwd=tmp_path,
        env=dict(os.environ),
    ).stdout.split()  # fmt: skip
    assert len(told) == 2
    assert len(set(told)) == 2
