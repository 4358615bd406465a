"""The runtime, by its command line: `run`, a kill -9, `resume`, for each class of effects.

Tools of the daemon die by themselves. A command in the sandbox cannot end the daemon, so it leaves
a mark in HOME, which outlives its sandbox, and is killed from outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.crashes import outside
from bench.crashes.outside import AFTER, BEFORE, BETWEEN
from bench.runs import ROOT

PLUGIN = Path(__file__).parent / "plugin"
TOOLS = {"read": "look", "idempotent": "put", "probe": "post", "once": "pay"}
CLASSES = ("read", "workspace", "idempotent", "probe", "once")
SECONDS_MAX = 120.0
KILLED = -9
MARK = "was-here"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one life with one kill came to, counted outside and read from the log."""

    runs: int
    effects: int
    reported: bool
    said: str
    status: str

    def kept(self, effect: str) -> bool:
        """The promise: one effect, or at most one and a reported unknown; a read has none."""
        if effect == "read":
            return self.effects == 0 and self.runs > 0
        return self.effects == 1 or (self.effects == 0 and self.reported)


def live(effect: str, place: str, home: Path, *, unknown: str = "ask") -> Seen:
    """One task with one call of that class, killed once at that place, and resumed.

    `unknown` is the policy for an unknown effect: by default the task waits for a person, and
    `resume` gives that person some seconds.
    """
    plan, workspace = _plan(effect, place), None
    if effect == "workspace":
        workspace = {"repo": str(_repo(home / "repo"))}
    task: dict[str, Any] = {
        "goal": "pay once, then close",
        "plan": {"steps": plan},
        "policy": {"tools": sorted({"close", *TOOLS.values()}), "unknown_effect": unknown},
    }
    if workspace is not None:
        task["workspace"] = workspace
    task_file = home / "task.json"
    task_file.write_text(json.dumps(task), encoding="utf-8")
    killed = _run(["run", str(task_file), "--json"], home, place)
    assert killed == KILLED, f"it was to be killed and ended with {killed}"
    task_id = json.loads(_ask(["ps", "--json"], home))[0]["task_id"]
    _run(["resume", task_id, "--json"], home, "")
    return _seen(effect, task_id, home)


def _plan(effect: str, place: str) -> list[dict[str, Any]]:
    if effect != "workspace":
        act: dict[str, Any] = {"id": "act", "tool": TOOLS[effect]}
    else:
        wait = f"test -e ~/{MARK} || {{ touch ~/{MARK}; sleep {SECONDS_MAX:g}; }}"
        write = "echo effect >> lines.txt"
        order = {BEFORE: [wait, write], BETWEEN: [write, wait], AFTER: [write]}[place]
        act = {"id": "act", "tool": "shell", "args": {"command": "; ".join(order)}}
    return [act, {"id": "close", "tool": "close", "needs": ["act"]}]


def _seen(effect: str, task_id: str, home: Path) -> Seen:
    events = [json.loads(line) for line in _ask(["logs", task_id, "--json"], home).splitlines()]
    of = {kind: [e["data"] for e in events if e["type"] == kind] for kind in
          ("CallReturned", "CallResolved", "EffectUnknown")}  # fmt: skip
    state = json.loads(_ask(["show", task_id, "--json"], home))
    resolved = [r for r in of["CallResolved"] if r["call_id"] == "act.1"]
    runs = 1 + sum(r["resolution"] == "rerun" for r in resolved)
    if effect == "workspace":
        patch = _ask(["diff", task_id], home)
        effects = sum(line == "+effect" for line in patch.splitlines())
    else:
        requests = outside.taken(home / "requests")
        runs = len(requests)
        effects = 0 if effect == "read" else len(requests)
        if effect == "idempotent":
            effects = len(set(requests))  # a receiver that knows keys
    said = "; ".join(f"{r['resolution']}: {r['message']}" for r in resolved)
    said = "; ".join(u["message"] for u in of["EffectUnknown"]) or said
    return Seen(runs, effects, bool(of["EffectUnknown"]), said, state["status"])


def _run(words: list[str], home: Path, place: str) -> int:
    """Run a verb to its end; in the sandbox's case, kill it as soon as the mark is there."""
    with open(home / "output", "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            _argv(words), env=_env(home, place), stdout=output, stderr=output
        )
        deadline = time.monotonic() + SECONDS_MAX
        first = place in (BEFORE, BETWEEN)
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise AssertionError(f"{words} did not end in {SECONDS_MAX:g} s")
            if first and _is_marked(home / "state"):
                process.kill()
            time.sleep(0.01)
    return process.returncode


def _is_marked(state: Path) -> bool:
    # A walk passes over directories that vanish meanwhile.
    return any(MARK in names for _, _, names in os.walk(state))


def _ask(words: list[str], home: Path) -> str:
    done = subprocess.run(
        _argv(words), env=_env(home, ""), capture_output=True, text=True, timeout=SECONDS_MAX
    )
    return done.stdout


def _argv(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "agent_runtime", *words]


def _env(home: Path, place: str) -> dict[str, str]:
    return {
        **os.environ,
        "AGENT_RUNTIME_STORE": f"sqlite:///{home / 'state' / 'store.db'}",
        "AGENT_RUNTIME_PLUGINS": "bench-effects",
        "PYTHONPATH": f"{PLUGIN}{os.pathsep}{ROOT}",
        outside.REQUESTS: str(home / "requests"),
        outside.DIE: place,
    }


def _repo(repo: Path) -> Path:
    repo.mkdir()
    (repo / "lines.txt").write_text("first\n", encoding="utf-8")
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.invalid"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(repo), *identity, *words], check=True)
    return repo


def versions() -> dict[str, str]:
    """Ours."""
    return {"agent-runtime": version("agent-runtime")}
