"""What a later process must kill should the daemon and a keeper die at once.

Each sandbox has a record in `<state_dir>/sandboxes/<owner>/`, written by its keeper and removed
when everything in the sandbox is dead. A live process is known by (boot id, pid, start time).
Control groups are in it, too: they outlive their processes.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

import anyio
import anyio.to_thread

from agent_runtime.errors import SandboxUnavailable
from agent_runtime.sandboxes.confining import remove_scratch
from agent_runtime.sandboxes.groups import GROUP_PREFIX, members, remove_groups, set_frozen
from agent_runtime.sandboxes.kernel import start_time
from agent_runtime.sandboxes.marks import bearers

TAG_VARIABLE: Final = "AGENT_RUNTIME_TAG"
"""Marks every process of the unsafe kind: it has no namespace that would die as one. No setting's
name: a runtime that is started in there would read it."""
END_SECONDS_MAX: Final = 10.0
_POLL_SECONDS: Final = 0.005

Process = tuple[int, int]
"""Pid and start time."""


def directory(state_dir: str, owner_id: str) -> str:
    """Where the records of one owner are."""
    return os.path.join(state_dir, "sandboxes", quote(owner_id, safe="") or "%")


async def reap(state_dir: str, owner_id: str) -> int:
    """End every recorded sandbox of `owner_id` whose daemon is dead; return how many there were.

    Raises:
        SandboxUnavailable: a process does not die; the message names it.
    """
    place, count = directory(state_dir, owner_id), 0
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError:
        return 0
    for name in names:
        path = os.path.join(place, name)
        if not name.endswith(".json"):
            continue
        if _is_here(_load(path)) and _is_alive(*_daemon(_load(path))):
            continue
        if not await end(path):
            raise SandboxUnavailable(_undying(path))
        count += 1
    with suppress(OSError):  # not empty: a live sandbox of the same owner
        os.rmdir(place)
    return count


async def reap_dead(state_dir: str) -> None:
    """End what dead daemons of this pid namespace left, whoever owned it.

    Raises:
        SandboxUnavailable: a process does not die; the message names its record.
    """
    for path in sorted(glob.glob(os.path.join(glob.escape(state_dir), "sandboxes", "*", "*.json"))):
        record = _load(path)
        if _is_here(record) and not _is_alive(*_daemon(record)) and not await end(path):
            raise SandboxUnavailable(_undying(path))


async def end(path: str) -> bool:
    """Kill what a record names and forget it; False if something does not die.

    No record is as good as an empty one: the keeper that wrote it has proven the death itself.
    """
    record = _load(path)
    deadline = time.monotonic() + END_SECONDS_MAX
    while _is_here(record):
        alive = [
            process
            for process in {
                *_processes(record),
                *_tagged(record.get("tag")),
                *_grouped(record),
                *((pid, start_time(pid)) for pid in bearers(int(record.get("mark", 0)))),
            }
            if _is_alive(*process)
        ]
        if not alive:
            break
        if time.monotonic() > deadline:
            return False
        for pid, _ in alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(OSError):  # a frozen one may die only when it is thawed
            set_frozen(_groups(record), frozen=False)
        await anyio.sleep(_POLL_SECONDS)
    if not await anyio.to_thread.run_sync(remove_groups, _groups(record)):
        return False
    _remove_scratch(path.removesuffix(".json") + ".home")
    if record.get("scratch"):
        remove_scratch(str(record["scratch"]))
    with suppress(FileNotFoundError):
        os.unlink(path)
    return True


def _undying(path: str) -> str:
    return (
        f"a process of the sandbox recorded in {path!r} does not die of SIGKILL; "
        "it is stuck in the kernel: end it, or restart the machine"
    )


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_here(record: dict[str, Any]) -> bool:
    """Are the record's pids of this boot and of our namespace? Others ended with theirs."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return (
        record.get("boot") == boot
        and record.get("pid_namespace") == os.readlink("/proc/self/ns/pid")
    )  # fmt: skip


def _daemon(record: dict[str, Any]) -> Process:
    pid, started = record["daemon"]
    return int(pid), int(started)


def _processes(record: dict[str, Any]) -> Iterable[Process]:
    return [(int(pid), int(started)) for pid, started in record.get("processes", [])]


def groups(path: str) -> list[str]:
    """The control groups that a record names."""
    return _groups(_load(path))


def _groups(record: dict[str, Any]) -> list[str]:
    named = [str(path) for path in record.get("groups", [])]
    return [path for path in named if os.path.basename(path).startswith(GROUP_PREFIX)]


def _grouped(record: dict[str, Any]) -> list[Process]:
    return [(pid, start_time(pid)) for path in _groups(record) for pid in members(path)]


def _is_alive(pid: int, started: int) -> bool:
    return started != 0 and start_time(pid) == started


def _tagged(tag: str | None) -> list[Process]:
    """Live processes that carry the tag in their environment; those of bubblewrap never do."""
    if not tag:
        return []
    mark = f"{TAG_VARIABLE}={tag}".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append((int(name), start_time(int(name))))
    return found


def _remove_scratch(path: str) -> None:
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
