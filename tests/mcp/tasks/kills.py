"""SIGKILL every second to a daemon whose clients poll tasks: `python -m tests.mcp.tasks.kills N`.

Clients know nothing but a key of each call and the id that they were given. They make a request
again for as long as it is not answered. Afterwards the files that the tools wrote tell whether an
effect was doubled, and the clients whether a task was lost or got another id.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.api.daemons import DaemonProcess
from tests.mcp.conformance.__main__ import PLUGIN
from tests.mcp.tasks.client import ENDED, Refused, TaskClient

SECONDS_BETWEEN = 1.0
CLIENTS = 6
UNKNOWN = "effect is unknown"


@dataclass
class Tally:
    """What came of it. The lists have what must not be, a line each."""

    kills: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    """Requests that the clients had to make again."""
    unknown: int = 0
    """Calls that may not be repeated and of which nobody knows; each says so."""
    again: int = 0
    """Runs of calls that may be repeated, beyond their first."""
    lost: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.renamed or self.doubled or self.wrong)


def kill_many(directory: Path, *, kills: int, seed: int) -> Tally:
    """Serve, kill and serve again until so many were killed; every task is seen to its end."""
    tally, lock, over = Tally(), threading.Lock(), threading.Event()
    _make_repo(directory / "repo")
    settings = {
        "AGENT_RUNTIME_PLUGINS": "mcp-conformance",
        "AGENT_RUNTIME_WORKSPACE_ROOTS": str(directory),
        "PYTHONPATH": str(PLUGIN),
    }
    daemon = DaemonProcess(directory / "daemon", settings=settings)
    daemon.start()
    clients = [
        threading.Thread(
            target=_live, args=(daemon, directory, random.Random(seed + n), tally, lock, over)
        )
        for n in range(CLIENTS)
    ]
    try:
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(SECONDS_BETWEEN)
            daemon.kill()
            tally.kills += 1
            daemon.start()
    finally:
        over.set()
        for client in clients:
            client.join(120)
        daemon.kill()
    return tally


def _live(
    daemon: DaemonProcess, directory: Path, rng: random.Random, tally: Tally,
    lock: threading.Lock, over: threading.Event,
) -> None:  # fmt: skip
    kinds: list[Callable[[_Job], None]] = [_write_once, _write_again, _confirm, _cancel, _submit]
    while not over.is_set():
        kind = rng.choice(kinds)
        job = _Job(TaskClient(daemon.port, daemon.token, seconds_max=90), directory, rng)
        try:
            kind(job)
        except Refused as why:
            job.lost.append(f"{kind.__name__} {job.word}: {why}")
        except AssertionError as why:
            job.wrong.append(f"{kind.__name__} {job.word}: {why}")
        with lock:
            tally.tasks[kind.__name__.strip("_")] += 1
            tally.cut += job.client.losses
            tally.unknown += job.unknown
            tally.again += job.again
            for name in ("lost", "renamed", "doubled", "wrong"):
                getattr(tally, name).extend(getattr(job, name))


@dataclass
class _Job:
    """One task from its first request to what its effects are in the end."""

    client: TaskClient
    directory: Path
    rng: random.Random
    word: str = field(default_factory=lambda: uuid.uuid4().hex)
    unknown: int = 0
    again: int = 0
    lost: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def begin(self, tool: str, **arguments: Any) -> str:
        task = self.client.call(tool, key=self.word, **arguments)
        assert task["resultType"] == "task", task
        return str(task["taskId"])

    def repeat(self, task_id: str, tool: str, **arguments: Any) -> None:
        """A client that has lost the answer asks again, whenever that is."""
        again = self.client.call(tool, key=self.word, **arguments)
        if again.get("taskId") != task_id:
            self.renamed.append(f"{tool} {self.word}: {task_id} and {again}")

    @property
    def path(self) -> Path:
        return self.directory / f"effects-{self.word}"

    def effects(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def _write_once(job: _Job) -> None:
    arguments = {"path": str(job.path), "word": job.word, "seconds": job.rng.random()}
    task_id = job.begin("write_once", **arguments)
    if job.rng.random() < 0.5:
        job.repeat(task_id, "write_once", **arguments)
    end = job.client.end(task_id)
    job.repeat(task_id, "write_once", **arguments)
    if end["status"] == "failed":
        job.unknown += 1
        assert UNKNOWN in end["error"]["message"], end
    else:
        assert end["result"]["content"][0]["text"] == f"wrote {job.word}", end
        assert job.effects(), "it says that it was done"
    if len(job.effects()) > 1:
        job.doubled.append(f"{task_id}: {job.effects()}")


def _write_again(job: _Job) -> None:
    arguments = {"path": str(job.path), "word": job.word, "seconds": job.rng.random() / 2}
    task_id = job.begin("write_again", **arguments)
    end = job.client.end(task_id)
    assert end["status"] == "completed", end
    job.repeat(task_id, "write_again", **arguments)
    found = job.effects()
    job.again += len(found) - 1
    assert found, "it says that it was done"
    if len(set(found)) != 1:
        job.doubled.append(f"{task_id}: runs have different keys: {found}")


def _confirm(job: _Job) -> None:
    task_id = job.begin("confirm_delete", filename=job.word)
    task = job.client.until(task_id, lambda task: task["status"] == "input_required")
    assert task["inputRequests"]["confirm"]["method"] == "elicitation/create", task
    answer = {"confirm": {"action": "accept", "content": {"confirm": True}}}
    job.client.ask("tasks/update", taskId=task_id, inputResponses=answer)
    end = job.client.end(task_id)
    if end["status"] == "failed":
        job.unknown += 1
        assert UNKNOWN in end["error"]["message"], end
    else:
        assert end["result"]["content"][0]["text"] == f"{job.word} was deleted", end


def _cancel(job: _Job) -> None:
    task_id = job.begin("slow_compute", seconds=3600)
    job.client.ask("tasks/cancel", taskId=task_id)
    seen = [job.client.get(task_id)["status"] for _ in range(3)]
    assert seen == ["cancelled"] * 3, seen
    assert set(seen) <= set(ENDED)


def _submit(job: _Job) -> None:
    """One of the runtime's own tasks, whose log is all there is: its steps write a line each."""
    job.client.path = "/mcp/runtime"
    lines = [f"{job.word}-{number}" for number in range(3)]
    steps = [
        {"id": f"s{at}", "tool": "shell", "args": {"command": f"echo {line} >> out"}}
        | ({"needs": [f"s{at - 1}"]} if at else {})
        for at, line in enumerate(lines)
    ]
    task = {
        "goal": "write", "workspace": {"repo": str(job.directory / "repo")},
        "plan": {"steps": steps},
        "objectives": [
            {"id": "once", "check": {"command": f"printf '%s\\n' {' '.join(lines)} | cmp - out"}}
        ],
    }  # fmt: skip
    task_id = job.begin("submit_task", task=task)
    job.repeat(task_id, "submit_task", task=task)
    end = job.client.end(task_id)
    job.repeat(task_id, "submit_task", task=task)
    told = end["result"]["content"][0]["text"]
    # The check compares the whole file: a line too many or too few is not succeeded.
    if "succeeded, grade proven" not in told:
        job.doubled.append(f"{task_id}: {told[:2000]}")
    assert task_id in told and "Checks" in told and "Not checked" in told, told


def _make_repo(path: Path) -> None:
    path.mkdir()
    for arguments in (
        ("init", "-q"),
        (
            *("-c", "user.name=t", "-c", "user.email=t@example.org"),
            *("commit", "-q", "-m", "one", "--allow-empty"),
        ),
    ):
        subprocess.run(["git", *arguments], cwd=path, check=True)


def main() -> int:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    print(f"{kills} kills, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        tally = kill_many(Path(name), kills=kills, seed=seed)
    print(
        f"{tally.kills} kills in {time.monotonic() - began:.0f} s, "
        f"{tally.tasks.total()} tasks {dict(tally.tasks)}, {tally.cut} requests made again; "
        f"{tally.unknown} say that their effect is unknown, {tally.again} safe runs more"
    )
    for name in ("lost", "renamed", "doubled", "wrong"):
        found = getattr(tally, name)
        print(f"{name}: {len(found)}", *found[:10], sep="\n  ")
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
