"""Sandboxes beside a plain process, in one run: how long until something has run in one.

The figures of a machine that does other things as well are worth their ratios only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from agent_runtime.ports import DiskQuota, SandboxSession, SandboxSpec
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.pool import Pool
from agent_runtime.types import TaskId, ToolCall, ToolInfo, WorkspaceSpec
from agent_runtime.workspaces import LocalWorkspaces, quota

RUNS = 30
FILES = 10_000
PLAIN = "plain sh"
BUDGET_MS = {
    "cold sh": 40.0,
    "cold worker": 100.0,
    "warm call": 1.0,
    f"tree of {FILES:,} files": 50.0,
}
"""Of a p50, on a machine that does nothing else."""
LIST = ToolInfo(
    name="list_directory", description="", parameters={}, toolbelt="standard", where="worker",
    source="agent_runtime_tools.files:tools",
)  # fmt: skip
CALL = ToolCall(call_id="s.1", tool="list_directory", arguments={"path": "."}, workspace="/w")

Taken = dict[str, list[float]]


async def timed(count: int, work: Callable[[], Awaitable[object]]) -> list[float]:
    """Sorted seconds of `count` times `work`."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)


async def plain() -> None:
    """What there is without a sandbox."""
    subprocess.run(["sh", "-c", "true"], check=True)


async def measure_sandboxes(place: str) -> Taken:
    """Cold and warm, and the spare of the pool."""
    os.mkdir(f"{place}/ws")
    sandbox = BubblewrapSandbox(f"{place}/state")
    probe = await sandbox.probe()
    if not probe.ok:
        sys.exit(f"no sandbox works here: {probe.detail}\n{probe.remedy}")
    spec = SandboxSpec(owner_id="bench", workspace=f"{place}/ws", mount="/w", python=sys.prefix)
    pool, taken = Pool(1), Taken()

    async def sh() -> None:
        await sandbox.execute(spec, ["sh", "-c", "true"], deadline_seconds=60)

    async def opened(open: Callable[[], Awaitable[SandboxSession]]) -> float:
        begun = time.perf_counter()
        session = await open()
        seconds = time.perf_counter() - begun
        await session.call(LIST, CALL, deadline_seconds=60)
        await session.close()
        return seconds

    await sh()
    taken[PLAIN] = await timed(RUNS, plain)
    taken["cold sh"] = await timed(RUNS, sh)
    cold = [await opened(lambda: sandbox.open(spec)) for _ in range(RUNS)]
    taken["cold worker"] = sorted(cold)
    handed_out = []
    for _ in range(RUNS):
        await pool.prestart(sandbox, spec)
        await anyio.sleep(2 * taken["cold worker"][-1])  # as long as a task is planned
        handed_out.append(await opened(lambda: pool.open(sandbox, spec)))
    taken["pool hand-out"] = sorted(handed_out)
    session = await sandbox.open(spec)
    await session.call(LIST, CALL, deadline_seconds=60)
    taken["warm call"] = await timed(
        20 * RUNS, lambda: session.call(LIST, CALL, deadline_seconds=60)
    )
    await session.close()
    return taken


async def measure_trees(place: str, disk: DiskQuota | None) -> list[float]:
    """The tree of a workspace in which one file has changed since the last one."""
    repo = Path(place, "repo")
    for number in range(FILES if not repo.exists() else 0):
        path = repo / f"{number % 100:02}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n", encoding="utf-8")
    name = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "--allow-empty", "-mx"]):
        subprocess.run(["git", "-C", str(repo), *words], check=True)
    workspaces, task_id = LocalWorkspaces(f"{place}/state"), TaskId("bench")
    opened = await workspaces.open(task_id, WorkspaceSpec(repo=str(repo)), disk=disk)
    taken = []
    for number in range(RUNS):
        Path(opened.path, "00", "0.txt").write_text(f"{number}\n", encoding="utf-8")
        taken += await timed(1, lambda: workspaces.snapshot(task_id))
    await workspaces.forget(task_id)
    return sorted(taken)


async def measure() -> Taken:
    """Everything, by name."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        taken = await measure_sandboxes(place)
        tree = f"tree of {FILES:,} files"
        taken[tree] = await measure_trees(place, None)
        if not quota.unavailable(f"{place}/state/workspaces"):
            taken[f"{tree}, disk quota"] = await measure_trees(place, DiskQuota(bytes=1 << 30))
            point = f"{place}/disk"

            async def make() -> None:
                quota.make(point, DiskQuota(bytes=1 << 30))

            taken["making a disk of 1 GiB"] = await timed(RUNS, make)
            quota.remove(point)
    return taken


def main() -> None:
    """`python -m bench.sandboxes`: a table, and the same as one line of JSON."""
    taken = anyio.run(measure)
    rows = []
    base = _share(taken[PLAIN], 0.5)
    for name, seconds in taken.items():
        p50, p99 = _share(seconds, 0.5), _share(seconds, 0.99)
        rows.append({"name": name, "runs": len(seconds), "p50_ms": round(p50, 3),
                     "p99_ms": round(p99, 3), "ratio_to_plain": round(p50 / base, 2),
                     "budget_ms": BUDGET_MS.get(name)})  # fmt: skip
        budget = f"{BUDGET_MS[name]:.0f}" if name in BUDGET_MS else ""
        print(
            f"{name:<34} {len(seconds):>5} {p50:>8.2f} {p99:>8.2f} {p50 / base:>10.1f} {budget:>8}"
        )
    print(json.dumps({row["name"]: row["p50_ms"] for row in rows}))


def _share(seconds: list[float], share: float) -> float:
    return 1000 * seconds[int(len(seconds) * share)]


if __name__ == "__main__":
    main()
