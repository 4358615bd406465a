"""A daemon under load that is killed again and again, and the account of it, taken from outside.

`python -m tests.api.kills 50` does it for minutes and prints the account: fifty kills, one
every two seconds.
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.api.daemons import DaemonProcess

PLUGIN = Path(__file__).parents[1] / "crash" / "plugin"
TOOLS = ("put_again", "post_probed", "pay_once")
TASK: dict[str, Any] = {
    "goal": "change something outside",
    "plan": {"steps": [{"id": tool, "tool": tool} for tool in TOOLS]},
    "policy": {"tools": list(TOOLS), "unknown_effect": "continue"},
}
LIVES_SECONDS = 2.0
ENDED = ("succeeded", "unverified", "failed", "cancelled")


@dataclass
class Account:
    """What was promised, and what came of it."""

    kills: int = 0
    accepted: dict[str, str] = field(default_factory=dict)
    """Idempotency key -> the task that a 201 named."""
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled_tasks: list[str] = field(default_factory=list)
    doubled_effects: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    """Effects that happened, of tasks whose log knows nothing of the call."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled_tasks or self.doubled_effects or self.untold)


def kill_under_load(directory: Path, *, kills: int, submitters: int = 3) -> Account:
    """Submit and kill, then let everything end; nobody does anything by hand."""
    effects = directory / "effects.txt"
    daemon = DaemonProcess(
        directory / "state",
        settings={
            "AGENT_RUNTIME_PLUGINS": "outside-effects",
            "PYTHONPATH": str(PLUGIN),
            "OUTSIDE_EFFECTS": str(effects),
        },
    )
    daemon.start()
    account, over = Account(), threading.Event()
    threads = [
        threading.Thread(target=_submit, args=(daemon, account, name, over))
        for name in range(submitters)
    ]
    for thread in threads:
        thread.start()
    try:
        while account.kills < kills:
            over.wait(LIVES_SECONDS)
            daemon.kill()
            account.kills += 1
            daemon.start()
    finally:
        over.set()
        for thread in threads:
            thread.join()
    try:
        _wait_for_all(daemon, account)
        _judge(daemon, account, effects)
        assert daemon.stop() == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()
    return account


def _submit(daemon: DaemonProcess, account: Account, name: int, over: threading.Event) -> None:
    """One task after another; who gets no answer asks again with the same key."""
    number = 0
    while not over.is_set():
        key = f"{name}-{number}"
        try:
            reply = daemon.ask(
                "POST", "/v1/tasks", {**TASK, "labels": {"key": key}}, {"Idempotency-Key": key}
            )
        except (OSError, http.client.HTTPException):
            over.wait(0.05)
            continue
        if reply.status == 201:
            account.accepted[key] = reply.json()["id"]
            number += 1
            over.wait(0.05)
        elif reply.status in (429, 503):
            over.wait(0.2)
        else:
            raise AssertionError(reply.body)


def _all_tasks(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = daemon.ask("GET", f"/v1/tasks?limit=500&cursor={cursor}").json()
        found += page["tasks"]
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


def _wait_for_all(daemon: DaemonProcess, account: Account) -> None:
    deadline = time.monotonic() + 120
    while any(task["status"] not in ENDED for task in _all_tasks(daemon)):
        assert time.monotonic() < deadline, Counter(t["status"] for t in _all_tasks(daemon))
        time.sleep(0.2)


def _judge(daemon: DaemonProcess, account: Account, effects: Path) -> None:
    tasks = {task["id"]: task for task in _all_tasks(daemon)}
    account.statuses = Counter(task["status"] for task in tasks.values())
    account.lost = [task_id for task_id in account.accepted.values() if task_id not in tasks]
    keys = Counter(task["labels"]["key"] for task in tasks.values())
    account.doubled_tasks = [key for key, count in keys.items() if count > 1]
    lines = [line.split() for line in effects.read_text(encoding="utf-8").splitlines()]
    # `put_again` may come again under its key: whoever receives it knows the key.
    runs = Counter(key for tool, _, key in lines if tool != "put_again")
    account.doubled_effects = [key for key, count in runs.items() if count > 1]
    told: set[str] = set()
    for task_id in tasks:
        for event in daemon.events(task_id):
            if event["type"] == "CallIntended":
                told.add(event["data"]["tool"] + event["data"]["call_id"])
    account.untold = [call for tool, call, _ in lines if tool + call not in told]


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as directory:
        account = kill_under_load(Path(directory), kills=kills)
    print(
        json.dumps(
            {
                "kills": account.kills,
                "accepted": len(account.accepted),
                "statuses": account.statuses,
                "lost": account.lost,
                "doubled_tasks": account.doubled_tasks,
                "doubled_effects": account.doubled_effects,
                "untold": account.untold,
            }
        )
    )
    sys.exit(0 if account.clean else 1)


if __name__ == "__main__":
    main()
