"""`make demo`: a real bug in a real library: reproduced, fixed, killed half-way, resumed, proven.

The bug is the difference between two releases of sqlparse: the source of 0.5.0 with the tests of
0.5.1. The fix is scripted (a playbook): this shows the runtime, not a model. Without a network a
small repository that comes with the examples takes its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "demo"
PACKAGES = "https://files.pythonhosted.org/packages"
OLD = (
    f"{PACKAGES}/50/26/5da251cd090ccd580f5cfaa7d36cdd8b2471e49fffce60ed520afc27f4bc/"
    "sqlparse-0.5.0.tar.gz",
    "714d0a4932c059d16189f58ef5411ec2287a4360f17cdd0edd2d09d4c5087c93",
)
NEW = (
    f"{PACKAGES}/73/82/dfa23ec2cbed08a801deab02fe7c904bfb00765256b155941d789a338c68/"
    "sqlparse-0.5.1.tar.gz",
    "bb6b4df465655ef332548e24f08e205afc81b9ab86cb1c45657a7ff173a3a00e",
)
FETCH_SECONDS = 30
RUNTIME = [sys.executable, "-m", "agent_runtime"]


@dataclass(frozen=True)
class Case:
    """A repository with a bug, what is run to see it, and the patch that mends it."""

    name: str
    repo: Path
    tests: str
    min_passed: int
    patch: str


def main() -> int:
    """Tell the story; exit 0 if it ends certified."""
    shutil.rmtree(CACHE / "run", ignore_errors=True)
    work = CACHE / "run"
    work.mkdir(parents=True)
    say("1. A repository with a real bug")
    try:
        case = release_pair(work)
        tell(
            "The source of sqlparse 0.5.0 with the tests of 0.5.1, both from PyPI: the newer tests "
            "show bugs that the older source has. The fix is scripted (a playbook), so no model is "
            "needed; everything else is what happens with one, too."
        )
    except (urllib.error.URLError, OSError) as error:
        case = small_repository(work)
        tell(
            f"PyPI cannot be reached ({error}), so a small repository that comes with the examples "
            "takes the place of sqlparse. The fix is scripted (a playbook)."
        )
    task_file = write_task(case, work)
    store = f"sqlite:///{work / 'state' / 'store.db'}"
    environment = {**os.environ, "AGENT_RUNTIME_STORE": store}
    before = checksum(case.repo)

    say("2. Run it, and kill it with SIGKILL in the middle")
    task_id = run_and_kill(task_file, environment)

    say("3. Resume")
    tell(
        "The log knows which call had begun and has no result. Its effect stays in the workspace, "
        "so the workspace goes back to the tree from before that call, and the call runs again "
        "under the same id. Calls that had returned are not repeated."
    )
    resumed = subprocess.run([*RUNTIME, "resume", task_id], env=environment, check=False)

    say("4. What the log says")
    events = log_of(task_id, environment)
    summarize(events)
    verified = subprocess.run([*RUNTIME, "verify", task_id], env=environment, check=False)
    same = checksum(case.repo) == before
    tell(f"Your checkout is {'untouched' if same else 'CHANGED, and that is a defect'}.")
    print(f"\n  See it yourself:\n    export AGENT_RUNTIME_STORE={store}")
    for verb in ("show", "logs", "diff", "verify"):
        print(f"    agent-runtime {verb} {task_id}")
    good = resumed.returncode == 0 and verified.returncode == 0 and same
    say("Certified." if good else "This did not end as it should.")
    return 0 if good else 1


# ---- the repository ----------------------------------------------------------------------


def release_pair(work: Path) -> Case:
    """Source of the older release, tests of the newer one; the fix is their difference."""
    old, new = fetch(*OLD), fetch(*NEW)
    repo = work / "sqlparse"
    source, fixed = unpack(old, work / "old"), unpack(new, work / "new")
    shutil.copytree(source, repo)
    shutil.rmtree(repo / "tests")
    shutil.copytree(fixed / "tests", repo / "tests")
    make_repository(repo)
    shutil.rmtree(repo / "sqlparse")
    shutil.copytree(fixed / "sqlparse", repo / "sqlparse")
    git(repo, "add", "-A")
    patch = git(repo, "diff", "--cached")
    git(repo, "reset", "--hard", "--quiet")
    return Case("sqlparse 0.5.0", repo, "tests", 460, patch)


def small_repository(work: Path) -> Case:
    """The example that needs no network."""
    repo = work / "small"
    shutil.copytree(ROOT / "examples" / "small", repo)
    patch = (repo / "fix.patch").read_text(encoding="utf-8")
    (repo / "fix.patch").unlink()
    make_repository(repo)
    return Case("the small example", repo, "tests", 3, patch)


def fetch(url: str, sha256: str) -> bytes:
    """A file by its address, kept in the cache, checked against its SHA-256."""
    kept = CACHE / "files" / sha256
    if not kept.exists():
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise OSError(f"{url} is not the file it should be (SHA-256 differs)")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(data)
    return kept.read_bytes()


def unpack(data: bytes, target: Path) -> Path:
    """Unpack an sdist and return its top directory."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(target, filter="data")
        else:  # Python before 3.11.4; what is in it is known by its hash
            archive.extractall(target)
    return next(target.iterdir())


def make_repository(repo: Path) -> None:
    """A git repository with one commit."""
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "add", "-A")
    git(repo, "commit", "--quiet", "-m", "The source of one release, the tests of the next")


def git(repo: Path, *arguments: str) -> str:
    """Run git as a fixed somebody and return what it prints."""
    identity = ["-c", "user.name=demo", "-c", "user.email=demo@example.invalid"]
    command = ["git", "-C", str(repo), *identity, "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def checksum(repo: Path) -> str:
    """Of every file of the checkout, `.git` included."""
    found = hashlib.sha256()
    for path in sorted(repo.rglob("*")):
        if path.is_file():
            found.update(str(path.relative_to(repo)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def write_task(case: Case, work: Path) -> Path:
    """The task file. JSON is YAML, and needs no library here."""
    pytest = f"python -m pytest -q -p no:cacheprovider {case.tests}"
    task = {
        "goal": f"Make the failing tests of {case.name} pass without touching the tests",
        "workspace": {"repo": str(case.repo)},
        "environment": {"python": sys.prefix},
        "plan": {
            "steps": [
                {
                    "id": "reproduce",
                    "tool": "shell",
                    "args": {"command": pytest},
                    "expect": {"exit": 1},
                    "effect": "read",
                },
                {"id": "state", "tool": "git_status", "needs": ["reproduce"]},
                {
                    "id": "fix",
                    "tool": "apply_patch",
                    "args": {"patch": case.patch},
                    "needs": ["state"],
                },
                {
                    "id": "retest",
                    "tool": "shell",
                    "args": {"command": pytest},
                    "needs": ["fix"],
                    "retry": 1,
                },
            ]
        },
        "objectives": [
            {"id": "tests", "check": {"command": pytest, "exit": 0, "min_passed": case.min_passed}}
        ],
    }
    path = work / "task.yaml"
    path.write_text(json.dumps(task, indent=2), encoding="utf-8")
    tell(f"The task file is {path.relative_to(ROOT)}: reproduce, look, fix, test again.")
    return path


# ---- run, kill, look ---------------------------------------------------------------------


def run_and_kill(task_file: Path, environment: dict[str, str]) -> str:
    """Run until the re-test has begun, then SIGKILL. Returns the task's id."""
    tell("Below is the runtime's own output, until it dies.")
    command = [*RUNTIME, "run", str(task_file)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    task_id = ""
    watcher: threading.Thread | None = None
    for line in process.stdout:
        print("   │ " + line.rstrip(), flush=True)
        found = next((word for word in line.split() if word.startswith("task_")), "")
        if found and not task_id:
            task_id = found.strip(".,:;")
            watcher = threading.Thread(
                target=kill_at_retest, args=(task_id, environment, process), daemon=True
            )
            watcher.start()
    process.wait()
    if watcher is not None:
        watcher.join(timeout=10)
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"the run ended before it could be killed (exit {process.returncode})")
    tell(f"Killed: process {process.pid} is gone in the middle of the re-test (SIGKILL).")
    return task_id


def kill_at_retest(
    task_id: str, environment: dict[str, str], process: subprocess.Popen[str]
) -> None:
    """Follow the log from another process; kill when the re-test's intent is durable."""
    command = [*RUNTIME, "logs", task_id, "--follow", "--json"]
    logs = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert logs.stdout is not None
    for line in logs.stdout:
        event = json.loads(line)
        if event["type"] == "CallIntended" and event["data"]["step_id"] == "retest":
            process.kill()
            break
    logs.kill()
    logs.wait()


def log_of(task_id: str, environment: dict[str, str]) -> list[dict[str, object]]:
    """The task's stored events."""
    command = [*RUNTIME, "logs", task_id, "--json"]
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def summarize(events: list[dict[str, object]]) -> None:
    """Owners, calls and how often each ran."""
    leases = [e for e in events if e["type"] == "LeaseTaken"]
    intents = [e for e in events if e["type"] == "CallIntended"]
    reruns = [e for e in events if e["type"] == "CallResolved"]
    tell(
        f"{len(events)} events; {len(leases)} owners; {len(intents)} calls intended; "
        f"{len(reruns)} settled after the kill and run again; every other call ran once."
    )


def say(title: str) -> None:
    """A heading."""
    print(f"\n== {title}", flush=True)


def tell(text: str) -> None:
    """A paragraph."""
    print(textwrap.fill(text, width=96, initial_indent="   ", subsequent_indent="   "), flush=True)


if __name__ == "__main__":
    sys.exit(main())
