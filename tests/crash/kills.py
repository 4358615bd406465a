"""Real `kill -9` at random moments, and the account of what happened, taken from outside.

A run is `agent-runtime run --json` in a process of its own, killed after a random time and resumed
until it ends. Every line that a killed process printed is an acknowledged event. The tools write
lines into a workspace file and into a file outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLUGIN = Path(__file__).parent / "plugin"
WRITES = 6
RUN_SECONDS_MAX = 120


@dataclass
class Tally:
    """What all runs came to."""

    kills: int = 0
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    wrong_trees: list[str] = field(default_factory=list)
    unknown: int = 0
    reruns: int = 0
    trees: int = 0
    """Trees of the log that were compared with their neighbour, or with files on the disk."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.repeated or self.unreported or self.wrong_trees)


def kill_many(directory: Path, *, kills: int, seed: int) -> Tally:
    """Run task after task, killing, until `kills` processes have been killed."""
    rng, tally = random.Random(seed), Tally()
    repo = make_repo(directory / "repo")
    while tally.kills < kills:
        tally.tasks += 1
        home = directory / f"task-{tally.tasks}"
        home.mkdir()
        one_task(home, repo, rng, tally, kills)
    return tally


def one_task(home: Path, repo: Path, rng: random.Random, tally: Tally, kills: int) -> None:
    """One task from submission to its end, killed on the way."""
    environment = {
        **os.environ,
        "AGENT_RUNTIME_STORE": f"sqlite:///{home / 'state' / 'store.db'}",
        "AGENT_RUNTIME_PLUGINS": "outside-effects",
        "PYTHONPATH": str(PLUGIN),
        "OUTSIDE_EFFECTS": str(home / "effects.txt"),
    }
    task_file = home / "task.json"
    task_file.write_text(json.dumps(task(repo)), encoding="utf-8")
    acknowledged: dict[int, str] = {}
    task_id, status = "", ""
    for _ in range(60):
        command = ["resume", task_id] if task_id else ["run", str(task_file)]
        moment = random_moment(rng) if tally.kills < kills else None
        rows, killed = run_once(
            [*command, "--json"], environment, moment, max(acknowledged, default=0)
        )
        tally.kills += killed
        if task_id := task_id or task_id_of(rows):
            events = log_of(task_id, environment)
            compare_trees(task_id, events, home, tally)
            if events[-1]["type"] == "TaskEnded":  # killed before it could say so, perhaps
                status = events[-1]["data"]["status"]
        for row in rows:
            if "seq" in row:
                acknowledged[row["seq"]] = row["hash"]
        if status in ("succeeded", "unverified", "failed", "cancelled"):
            break
    judge(task_id, status, environment, home, acknowledged, tally)


def task_id_of(rows: list[dict[str, Any]]) -> str:
    """The task that a process has printed an event of."""
    return next((str(row["task_id"]) for row in rows if "seq" in row), "")


def compare_trees(task_id: str, events: list[dict[str, Any]], home: Path, tally: Tally) -> None:
    """After each process: the log's trees form one chain, and the disk agrees with its end."""
    tree, open_call = "", ""
    for event in events:
        data, seq = event["data"], event["seq"]
        found = ""
        match event["type"]:
            case "WorkspaceOpened":
                tree = data["base_tree"]
            case "CallIntended" if data.get("tree_before"):
                found, open_call = data["tree_before"], data["call_id"]
            case "CallReturned" if data["call_id"] == open_call:
                tree, open_call = data["tree_after"], ""
            case "CallResolved" if data["call_id"] == open_call:
                # Rolled back: the chain still stands at its `tree_before`, whether it runs again.
                open_call = open_call if data["resolution"] == "rerun" else ""
            case "VerificationEnded":
                found = data["tree"]
        if found:
            tally.trees += 1
            if found != tree:
                tally.wrong_trees.append(f"{task_id}:{seq}: {found} follows {tree}")
    # While a writing call is open, its half-done work may lie there until the next owner comes.
    work = home / "state" / "workspaces" / task_id / "work"
    cleaning = any(event["type"] == "TaskConcluded" for event in events)
    if tree and not open_call and not cleaning:
        tally.trees += 1
        if tree_of(work) != tree:
            tally.wrong_trees.append(f"{task_id}: {tree} in the log, {tree_of(work)} on the disk")


def tree_of(directory: Path) -> str:
    """Git's id of a directory without `.git`, computed here: the check shares no code with it."""
    entries = []
    for path in directory.iterdir():
        if path.name == ".git":
            continue
        if path.is_dir():
            mode, oid, key = "40000", tree_of(path), path.name + "/"
        else:
            data = path.read_bytes()
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            oid, key = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), path.name
        entries.append((key, f"{mode} {path.name}".encode() + b"\0" + bytes.fromhex(oid)))
    body = b"".join(entry for _, entry in sorted(entries))
    return hashlib.sha1(b"tree %d\0" % len(body) + body).hexdigest()


def ask(environment: dict[str, str], *arguments: str) -> str:
    """What a verb prints; it must succeed."""
    return subprocess.run(
        [sys.executable, "-m", "agent_runtime", *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def log_of(task_id: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    """All events of a task."""
    lines = ask(environment, "logs", task_id, "--json").splitlines()
    return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Moment:
    """When to kill: so many seconds after the process has printed so many lines."""

    lines: int
    seconds: float


def random_moment(rng: random.Random) -> Moment:
    """Mostly in the work, sometimes while the process starts or recovers."""
    if rng.random() < 0.2:
        return Moment(0, rng.uniform(0.05, 1.0))
    return Moment(rng.randint(1, 25), rng.uniform(0.0, 0.2))


def run_once(
    arguments: list[str], environment: dict[str, str], moment: Moment | None, known: int
) -> tuple[list[dict[str, Any]], bool]:
    """Run the command line, kill it at that moment; what it printed, and whether it died.

    Only events after number `known` count for the moment.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "agent_runtime", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    bound = threading.Timer(RUN_SECONDS_MAX, process.kill)
    bound.start()
    timers = [bound]

    def arm() -> None:
        assert moment is not None
        timers.append(threading.Timer(moment.seconds, process.kill))
        timers[-1].start()

    if moment is not None and moment.lines == 0:
        arm()
    rows: list[dict[str, Any]] = []
    news = 0
    with process:
        for line in process.stdout:
            if line.endswith(b"\n"):  # else the kill cut it off
                rows.append(json.loads(line))
                news += rows[-1].get("seq", 0) > known
                if moment is not None and news == moment.lines:
                    arm()
        error = process.stderr.read().decode()
    for timer in timers:
        timer.cancel()
    killed = process.returncode == -9
    if not killed and process.returncode not in (0, 1):
        raise AssertionError(f"exit {process.returncode}: {error}")
    if killed and moment is None:
        raise AssertionError(f"stuck for {RUN_SECONDS_MAX} s: {arguments} {error}")
    return rows, killed


def judge(
    task_id: str,
    status: str,
    environment: dict[str, str],
    home: Path,
    acknowledged: dict[int, str],
    tally: Tally,
) -> None:
    """Compare the log with what was seen and with what is outside."""
    events = log_of(task_id, environment)
    hashes = {event["seq"]: event["hash"] for event in events}
    tally.lost += [f"{task_id}:{s}" for s, h in acknowledged.items() if hashes.get(s) != h]
    ask(environment, "verify", task_id)
    effects = home / "effects.txt"
    lines = effects.read_text(encoding="utf-8").splitlines() if effects.exists() else []
    runs = Counter(tuple(line.split()[:2]) for line in lines)
    intents = [e["data"] for e in events if e["type"] == "CallIntended"]
    returned = {e["data"]["call_id"] for e in events if e["type"] == "CallReturned"}
    unknown = {e["data"]["call_id"] for e in events if e["type"] == "EffectUnknown"}
    settled = {
        e["data"]["call_id"]
        for e in events
        if e["type"] == "CallResolved" and e["data"]["resolution"] != "rerun"
    }
    tally.unknown += len(unknown)
    tally.reruns += sum(
        1 for e in events if e["type"] == "CallResolved" and e["data"]["resolution"] == "rerun"
    )
    for intent in intents:
        call_id = intent["call_id"]
        if intent["effect"] in ("once", "probe") and runs[intent["tool"], call_id] > 1:
            tally.repeated.append(f"{task_id}:{call_id}")
        if call_id not in returned | unknown | settled:
            tally.unreported.append(f"{task_id}:{call_id}")
    keys = {tuple(line.split()[1:]) for line in lines if line.startswith("put_again")}
    if len(keys) > len({call_id for call_id, _ in keys}):
        tally.repeated.append(f"{task_id}: several idempotency keys of one call")
    denied = {
        e["data"]["call_id"]
        for e in events
        if e["type"] == "CallResolved" and e["data"]["resolution"] in ("dropped", "not_happened")
    }
    happened = {call_id for tool, call_id in runs if tool in ("pay_once", "post_probed")}
    tally.unreported += [f"{task_id}:{call_id} had happened" for call_id in denied & happened]
    if status != "succeeded":
        tally.wrong_trees.append(f"{task_id} ended {status}: {events[-1]['data']}")
        return
    # Every write happened exactly once, in order, and the workspace was what the log says.
    patch = ask(environment, "diff", task_id)
    added = [line[1:] for line in patch.splitlines() if line.startswith("+w")]
    if added != [f"w{i}" for i in range(WRITES)]:
        tally.wrong_trees.append(f"{task_id}: {added}")


def make_repo(repo: Path) -> Path:
    """A small repository."""
    repo.mkdir()
    (repo / "lines.txt").write_text("first\n", encoding="utf-8")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid"]
        subprocess.run(["git", "-C", str(repo), *identity, *arguments], check=True)
    return repo


def task(repo: Path) -> dict[str, object]:
    """Writes in two halves, and outside effects of every class between them."""
    steps: list[dict[str, object]] = []

    def add(step: dict[str, object]) -> None:
        if steps:
            step["needs"] = [steps[-1]["id"]]
        steps.append(step)

    outside = ["pay_once", "put_again", "post_probed"]
    for i in range(WRITES):
        half = f"printf w >> lines.txt; sleep 0.1; echo {i} >> lines.txt"
        add({"id": f"write{i}", "tool": "shell", "args": {"command": half}})
        tool = outside[i % len(outside)]
        add({"id": f"{tool}{i}", "tool": tool})
    check = f"test $(grep -c w lines.txt) = {WRITES}"
    return {
        "goal": "write every line once",
        "workspace": {"repo": str(repo)},
        "plan": {"steps": steps},
        "objectives": [{"id": "lines", "check": {"command": check}}],
        "policy": {"tools": outside, "unknown_effect": "continue"},
    }


def main() -> int:
    """`python -m tests.crash.kills [KILLS [SEED]]`: print the tally."""
    import tempfile

    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        tally = kill_many(Path(directory), kills=kills, seed=seed)
    print(
        f"{tally.kills} kills, {tally.tasks} tasks: {len(tally.lost)} acknowledged events lost, "
        f"{len(tally.repeated)} once effects repeated, {len(tally.unreported)} calls unreported, "
        f"{len(tally.wrong_trees)} wrong trees of {tally.trees} compared; "
        f"{tally.unknown} unknowns reported, {tally.reruns} calls run again"
    )
    for problem in tally.lost + tally.repeated + tally.unreported + tally.wrong_trees:
        print("  " + problem)
    return 0 if tally.clean else 1


if __name__ == "__main__":
    sys.exit(main())
