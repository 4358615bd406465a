"""A process that drives many tasks of one store at once, and can hold a task where a test wants it.

`python -m tests.e2e.drivers` drives whatever can be claimed, until nothing is left. With arguments
TASK=PHASE it drives these tasks; each is held, its driver in the middle of a commit, when its log
has entered the phase, until the file `release` exists in the working directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio
import msgspec

from agent_runtime.app import open_runtime
from agent_runtime.ports import Store
from agent_runtime.runtime import Runtime
from agent_runtime.settings import load_settings, state_dir
from agent_runtime.types import Row, TaskId


class Holding:
    """A store that answers an append late."""

    def __init__(self, store: Store, phases: Mapping[str, str]) -> None:
        self._store, self._phases = store, dict(phases)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, task_id: TaskId, expected: int, rows: Sequence[Row], **more: Any) -> int:
        seq: int = await self._store.append(task_id, expected, rows, **more)  # type: ignore[arg-type]
        if any(_phase(row) == self._phases.get(task_id) for row in rows):
            del self._phases[task_id]
            print("held", task_id, flush=True)
            while not os.path.exists("release"):
                await anyio.sleep(0.01)
        return seq


def _phase(row: Row) -> str:
    if row.type != "PhaseEntered":
        return ""
    return str(msgspec.json.decode(row.data)["phase"])


async def main(phases: Mapping[str, str]) -> None:
    settings = load_settings({})
    async with open_runtime(settings) as opened:
        print("open", flush=True)
        if not phases:
            await opened.supervisor.run_all()
            return
        store: Any = Holding(opened.ports.store, phases)
        runtime = Runtime(replace(opened.ports, store=store), state_dir=state_dir(settings))
        async with anyio.create_task_group() as tg:
            for task_id in phases:
                tg.start_soon(runtime.supervisor.run_task, TaskId(task_id))


if __name__ == "__main__":
    anyio.run(main, dict(argument.split("=") for argument in sys.argv[1:]))
