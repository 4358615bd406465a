"""Bad input, as a user meets it: a clear message, the right exit code, and nothing lost.

The files of a gigabyte are smaller ones here; `BAD_INPUT_FILE_BYTES=1073741824` makes them real.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import CommandLine, git
from tests.plugins.installed import install

FILE_BYTES = int(os.environ.get("BAD_INPUT_FILE_BYTES", 80 << 20))
"""Above what file tools change in memory (64 MiB)."""
SANDBOX_FILE_BYTES = 512 << 20
"""The sandbox's limit of one file."""
BUSY_SECONDS = 5
FREED_SECONDS_MAX = 30.0

Events = list[dict[str, Any]]


def stored(cli: CommandLine, directory: str = "state") -> list[str]:
    """The ids of all stored tasks, read past the command line."""
    path = cli.home / directory / "store.db"
    if not path.exists() or not path.stat().st_size:
        return []
    with closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'tasks'").fetchone():
            return []
        return [row[0] for row in db.execute("SELECT task_id FROM tasks")]


def task_of(repo: Path, steps: list[dict[str, Any]], check: str = "true") -> dict[str, Any]:
    return {
        "goal": "Survive",
        "workspace": {"repo": str(repo)},
        "environment": {"python": sys.prefix},
        "plan": {"steps": steps},
        "objectives": [{"id": "check", "check": {"command": check}}],
    }


def tried(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same steps, each with a fallback, so that a failure does not end the plan."""
    made = []
    for step in steps:
        other = {"id": f"{step['id']}_instead", "tool": "list_directory"}
        made += [{**step, "fallback": other["id"]}, other]
    return made


def failures(lines: Events) -> dict[str, str]:
    return {e["data"]["step_id"]: e["data"]["reason"] for e in lines if e["type"] == "StepFailed"}


def outputs(lines: Events) -> dict[str, str]:
    returned = [e["data"] for e in lines if e["type"] == "CallReturned"]
    return {data["call_id"].rpartition(".")[0]: data["output"] for data in returned}


def shell(name: str, command: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "tool": "shell", "args": {"command": command}, **more}


def listing(repo: Path) -> list[tuple[str, int, int, int]]:
    """Name, mode, size and time of everything in a checkout, its `.git` too."""
    found = sorted(repo.rglob("*"))
    facts = [(path, path.lstat()) for path in found]
    return [(str(path), f.st_mode, f.st_size, f.st_mtime_ns) for path, f in facts]


# ---- the task file -----------------------------------------------------------------------

STEP = "{id: a, tool: shell, args: {command: 'true'}"
WRONG: dict[str, tuple[str, list[str]]] = {
    "misspelt and unknown keys": (
        "gaol: x\nworkspace: {repo: ./repo, reff: HEAD}\nfrobnicate: 1\n"
        "plan: {steps: [{id: a, toool: shell}]}\n",
        [
            ":1: gaol: unknown key; did you mean 'goal'?",
            ":1: goal: is required",
            ":2: workspace.reff: unknown key; did you mean 'ref'?",
            ":3: frobnicate: unknown key (known: goal,",
            ":4: plan.steps[0].toool: unknown key; did you mean 'tool'?",
        ],
    ),
    "malformed YAML": ("goal: x\nplan: {steps: [\n", [":3:1: malformed YAML: "]),
    "a cycle": (
        f"goal: x\nplan: {{steps: [{STEP}, needs: [c]}},\n"
        "  {id: b, tool: shell, needs: [a]}, {id: c, tool: shell, needs: [b]}]}\n",
        ["plan.steps[0]: steps wait for each other: a → c → b → a; take one of these needs out"],
    ),
    "unknown tools and toolbelts": (
        f"goal: x\nworkspace: {{repo: ./repo}}\nplan: {{steps: [{STEP}}},"
        "  {id: b, tool: reed_file}, {id: c, tool: quux}]}\n"
        "policy: {toolbelts: [gti], tools: [kubectl], approvals: {shel: ask}}\n",
        [
            "step 'b': no tool is called 'reed_file'; did you mean 'read_file'?",
            "step 'c': no tool is called 'quux'; `agent-runtime tools` lists",
            "policy.toolbelts: no toolbelt is called 'gti'; did you mean 'git'?",
            "policy.tools: no tool is called 'kubectl'",
            "policy.approvals: no tool is called 'shel'; did you mean 'shell'?",
        ],
    ),
    "limits": (
        "goal: x\nlimits: {steps: -1, usd: .nan, tokens: 99999999999999999999, seconds: 0}\n"
        f"plan: {{steps: [{STEP}, retry: -1, timeout_seconds: 1.0e+300}}]}}\n",
        [
            "limits.steps: must be from 1 to 100_000, got -1",
            "limits.usd: must be a finite number, got nan",
            "limits.tokens: must fit in 64 bits, got 99999999999999999999",
            "limits.seconds: must be above 0 and at most 2_592_000 s (30 days), got 0",
            "retry: must be from 0 to 100, got -1",
            "timeout_seconds: must be above 0 and at most 86_400 s (a day), got 1e+300",
        ],
    ),
    "a missing repository": (
        "goal: x\nworkspace: {repo: ./nowhere}\n",
        ["workspace.repo: repository '", "nowhere' does not exist; give a path or a git URL"],
    ),
    "no repository": (
        "goal: x\nworkspace: {repo: ./plain}\n",
        ["plain' is not a git repository; run `git init &&"],
    ),
    "a directory of a repository": (
        "goal: x\nworkspace: {repo: ./repo/tests}\n",
        ["repo/tests' lies inside the repository", "use workspace.repo: '"],
    ),
    "a bare repository in place": (
        "goal: x\nworkspace: {repo: ./bare.git, in_place: true}\n",
        ["workspace.in_place needs a checkout", "bare.git' is none; clone it"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_task_is_refused_with_the_way_out_and_stores_nothing(
    cli: CommandLine, repo: Path, name: str
) -> None:
    """Exit code 2: the task file is wrong, nothing was stored."""
    text, expected = WRONG[name]
    (cli.home / "plain").mkdir()
    git(cli.home, "init", "-q", "--bare", "bare.git")
    (cli.home / "task.yaml").write_text(text, encoding="utf-8")
    before = listing(repo)
    done = cli("run", "task.yaml")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert [part for part in expected if part not in done.stderr] == [], done.stderr
    assert stored(cli) == []
    assert not (cli.home / "state" / "workspaces").exists()
    assert listing(repo) == before


def test_a_ref_that_is_not_there_fails_the_task_naming_a_near_one(
    cli: CommandLine, repo: Path
) -> None:
    git(repo, "branch", "develop")
    task = task_of(repo, [shell("a", "true")])
    task["workspace"]["ref"] = "develpo"
    code, lines = cli.run(task)
    assert (code, lines[-1]["status"]) == (1, "failed")
    assert "workspace.ref 'develpo' names no commit" in lines[-1]["reason"]
    assert "develop" in lines[-1]["reason"]


@pytest.mark.long
def test_bare_and_empty_repositories_can_be_worked_on(cli: CommandLine, repo: Path) -> None:
    git(cli.home, "clone", "-q", "--bare", str(repo), "bare.git")
    git(cli.home, "init", "-q", "empty")
    for name in ("bare.git", "empty"):
        steps = [{"id": "a", "tool": "write_file", "args": {"path": "new", "content": "x\n"}}]
        code, lines = cli.run(task_of(cli.home / name, steps, "test -f new"))
        assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]
        assert "+x\n" in Path(lines[-1]["patch"]).read_text(encoding="utf-8")
    refused = cli("apply", lines[-1]["task_id"], "--to", str(cli.home / "bare.git"))
    assert refused.returncode != 0 and "bare.git" in refused.stderr
    assert cli("apply", lines[-1]["task_id"]).returncode == 0
    assert (cli.home / "empty" / "new").read_text(encoding="utf-8") == "x\n"


# ---- the workspace -----------------------------------------------------------------------


def test_no_path_leads_out_of_the_workspace(cli: CommandLine, repo: Path) -> None:
    """Relative, absolute, through links to directories and files; to read and to write."""
    outside = cli.home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("hunter2", encoding="utf-8")
    (repo / "out").symlink_to(outside)
    (repo / "out_file").symlink_to(outside / "secret")
    paths = ["../outside/secret", str(outside / "secret"), "out/secret", "out_file", "/etc/passwd"]
    steps = []
    for index, path in enumerate(paths):
        write = {"path": path, "content": "broken"}
        steps.append({"id": f"r{index}", "tool": "read_file", "args": {"path": path}})
        steps.append({"id": f"w{index}", "tool": "write_file", "args": write})
    steps.append({"id": "cwd", "tool": "shell", "args": {"command": "ls", "cwd": ".."}})
    moved = {"source": "wordwrap.py", "destination": "out/stolen"}
    steps.append({"id": "move", "tool": "move_file", "args": moved})
    code, lines = cli.run(task_of(repo, tried(steps)))
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]
    failed = failures(lines[:-1])
    assert failed.keys() == {step["id"] for step in steps}
    assert {name: why for name, why in failed.items() if "outside" not in why} == {}
    assert "'out' is a link to" in failed["w2"]
    assert "hunter2" not in json.dumps(lines)
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text(encoding="utf-8") == "hunter2"
    assert Path(lines[-1]["patch"]).read_bytes() == b""


def test_pipes_sockets_devices_and_odd_links_hang_nobody_and_are_named(
    cli: CommandLine, repo: Path
) -> None:
    os.mkfifo(repo / "pipe")
    if os.geteuid() == 0:
        os.mknod(repo / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with closing(socket.socket(socket.AF_UNIX)) as unix:
        here = os.getcwd()
        os.chdir(repo)  # the path of a socket has at most 108 bytes
        try:
            unix.bind("socket")
        finally:
            os.chdir(here)
    (repo / "loop").symlink_to("loop")
    (repo / "dangling").symlink_to("nothing")
    before = listing(repo)
    steps: list[dict[str, Any]] = [
        {"id": "read", "tool": "read_file", "args": {"path": "made"}},
        {"id": "write", "tool": "write_file", "args": {"path": "made", "content": "x"}},
        {"id": "search", "tool": "grep", "args": {"pattern": "x", "path": "made"}},
        {"id": "copy", "tool": "copy_file", "args": {"source": "made", "destination": "copy"}},
        {"id": "follow", "tool": "read_file", "args": {"path": "loop"}},
    ]
    steps = tried([{**step, "needs": ["make"]} for step in steps])
    make = shell("make", "mkfifo made && ln -s made link && mknod zero c 1 5; test ! -e zero")
    search = {"id": "all", "tool": "grep", "args": {"pattern": "def wrap"}, "needs": ["make"]}
    code, lines = cli.run(task_of(repo, [make, search, *steps], "test ! -e made -a -L loop"))
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]
    failed = failures(lines[:-1])
    assert all("'made' is a named pipe, not a file" in failed[name] for name in
               ("read", "write", "search", "copy"))  # fmt: skip
    assert "'loop' is a link to 'loop'" in failed["follow"]
    assert "wordwrap.py" in outputs(lines)["all"]
    opened = next(e["data"] for e in lines if e["type"] == "WorkspaceOpened")
    assert opened["carried"] == ["dangling", "loop"]
    assert "pipe" in opened["notes"][0] and "socket" in opened["notes"][0]
    assert listing(repo) == before


@pytest.mark.long
def test_files_of_a_gigabyte_are_searched_cut_or_refused_and_never_held(
    cli: CommandLine, repo: Path
) -> None:
    """A sparse one that is carried over, a text, and one that is larger than a file may be."""
    with open(repo / "sparse.bin", "wb") as file:
        file.truncate(FILE_BYTES)
    text_bytes = min(FILE_BYTES, SANDBOX_FILE_BYTES)
    edit = {"path": "text", "edits": [{"oldText": "a", "newText": "b"}]}
    steps = [
        {"id": "binary", "tool": "read_file", "args": {"path": "sparse.bin"}},
        {"id": "edit", "tool": "edit_file", "args": edit, "needs": ["make"]},
        shell("huge", f"truncate -s {SANDBOX_FILE_BYTES + 1} huge", needs=["make"]),
    ]
    make = shell("make", f"yes needle | head -c {text_bytes} > text")
    read = {"id": "read", "tool": "read_file", "args": {"path": "text"}, "needs": ["make"]}
    search = {"id": "search", "tool": "grep", "args": {"pattern": "needle"}, "needs": ["make"]}
    gone = shell("gone", "rm text; rm -f huge", needs=["read", "search", "edit", "huge"])
    check = f"test $(stat -c %s sparse.bin) = {FILE_BYTES}"
    code, lines = cli.run(task_of(repo, [make, read, search, gone, *tried(steps)], check))
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]
    failed, said = failures(lines[:-1]), outputs(lines)
    assert f"'sparse.bin' is a binary file of {FILE_BYTES:,} bytes" in failed["binary"]
    assert f"'text' has {text_bytes:,} bytes; more than 67,108,864" in failed["edit"]
    assert f"at most {SANDBOX_FILE_BYTES:,} bytes" in said["huge"]
    assert "text:1:needle" in said["search"] and len(said["read"]) <= 10_000
    assert (repo / "sparse.bin").stat().st_blocks == 0


@pytest.mark.skipif(FILE_BYTES < 1 << 30, reason="takes a minute: set BAD_INPUT_FILE_BYTES")
def test_a_patch_that_nobody_could_hold_ends_unverified_naming_the_file(
    cli: CommandLine, repo: Path
) -> None:
    make = shell("make", f"head -c {SANDBOX_FILE_BYTES} /dev/urandom > noise")
    code, lines = cli.run(task_of(repo, [make]))
    assert (code, lines[-1]["status"]) == (1, "unverified")
    assert f"the largest files: 'noise' ({SANDBOX_FILE_BYTES:,} bytes)" in lines[-1]["reason"]


@pytest.mark.long
def test_output_that_is_no_text_is_kept_exactly_and_shown_harmlessly(
    cli: CommandLine, repo: Path
) -> None:
    raw = b"caf\xe9 \0 \x1b[31mred\x1b[0m \xed\xa0\x80 \xe2\x80\xaertl"
    octal = "".join(f"\\{byte:03o}" for byte in raw)
    name = "caf\\351\\033[31m"
    steps = [
        shell("bytes", f"printf '{octal}'"),
        shell("noise", "head -c 100000 /dev/urandom"),
        shell("name", f"printf x > \"$(printf '{name}')\"; printf 'a\\000\\377' > dat"),
        {"id": "list", "tool": "list_directory", "needs": ["name"]},
        *tried([{"id": "read", "tool": "read_file", "args": {"path": "dat"}, "needs": ["name"]}]),
    ]
    code, lines = cli.run(task_of(repo, steps, f"printf '{octal}'"))
    result = lines[-1]
    assert (code, result["status"]) == (0, "succeeded"), result
    said = outputs(lines)
    assert said["bytes"] == raw.decode("utf-8", "replace")
    assert "caf\\xe9\\x1b[31m" in said["list"]
    assert "'dat' is a binary file of 3 bytes" in failures(lines[:-1])["read"]
    returned = next(e["data"] for e in lines if e["type"] == "CallReturned"
                    and e["data"]["call_id"] == "bytes.1")  # fmt: skip
    with closing(sqlite3.connect(cli.home / "state" / "store.db")) as db:
        blob = db.execute("SELECT data FROM blobs WHERE blob_id = ?", (returned["output_blob"],))
        assert blob.fetchone() == (raw,)
    assert b"GIT binary patch" in Path(result["patch"]).read_bytes()
    logs = cli("logs", result["task_id"])
    assert logs.returncode == 0 and "red" in logs.stdout
    assert re.findall(r"[\x00-\x08\x0b-\x1f\u202e]", logs.stdout) == []
    assert cli("verify", result["task_id"]).returncode == 0


@pytest.mark.long
def test_ten_thousand_files_are_versioned_searched_and_listed(cli: CommandLine, repo: Path) -> None:
    commit = "commit refs/heads/many\ncommitter t <t@example.invalid> 0 +0000\ndata 4\nmany\n"
    files = (
        f"M 100644 inline d{n % 100}/f{n}\ndata {len(str(n)) + 6}\nline {n}\n\n"
        for n in range(10_000)
    )
    imported = "".join([commit, "from HEAD^0\n", *files])
    # `git add` would take longer than everything else here.
    subprocess.run(
        ["git", "-C", str(repo), "fast-import", "--quiet"], input=imported.encode(), check=True
    )
    git(repo, "checkout", "-q", "many")
    steps = [
        shell("change", "rm -r d7; echo changed > d8/f8; mkdir new; seq 100 | split -l 1 - new/"),
        {"id": "find", "tool": "grep", "args": {"pattern": "^line 9999$"}, "needs": ["change"]},
        {"id": "all", "tool": "glob", "args": {"pattern": "**/f*"}, "needs": ["change"]},
    ]
    code, lines = cli.run(task_of(repo, steps, "test $(find . -type f | wc -l) -eq 10002"))
    assert (code, lines[-1]["status"]) == (0, "succeeded"), lines[-1]
    said = outputs(lines)
    assert said["find"] == "d99/f9999:1:line 9999"
    assert "only the first 1,000 paths" in said["all"] and len(said["all"]) <= 10_000
    certificate = json.loads(Path(lines[-1]["certificate"]).read_text(encoding="utf-8"))
    assert len(certificate["changed"]) == 201
    assert git(repo, "status", "--porcelain") == ""


# ---- the store ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(where)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.parametrize("filled_by", ["the task", "somebody else"])
@pytest.mark.long
def test_a_full_disk_stops_the_task_and_it_goes_on_when_there_is_room(
    cli: CommandLine, repo: Path, small_disk: Path, filled_by: str
) -> None:
    """Under log and workspace alike: during a call, and while the workspace is opened."""
    cli.extra["AGENT_RUNTIME_STORE"] = f"sqlite:///{small_disk / 'store.db'}"
    fill_bytes = 20_000_000
    fill = f"head -c {fill_bytes} /dev/zero > fill; test $(stat -c %s fill) = {fill_bytes}"
    steps = [shell("fill", fill if filled_by == "the task" else "true"),
             shell("after", "rm -f fill; echo ok > good", needs=["fill"])]  # fmt: skip
    task = cli.write(task_of(repo, steps, "test -f good"))
    before = listing(repo)
    if filled_by == "somebody else":
        assert cli("ps").returncode == 0
        free_bytes = shutil.disk_usage(small_disk).free
        (small_disk / "ballast").write_bytes(b"x" * (free_bytes - 200_000))
    done = cli("run", str(task))
    assert done.returncode == 7, done.stderr
    assert "no room for" in done.stderr and "free some and try again" in done.stderr
    assert "go on with: agent-runtime resume " in done.stderr
    [task_id] = stored(cli, "small")
    assert list((small_disk / "owners").iterdir()) == []
    (small_disk / "ballast").unlink(missing_ok=True)
    subprocess.run(["mount", "-o", "remount,size=120m", str(small_disk)], check=True)
    resumed = cli("resume", task_id, "--json")
    assert resumed.returncode == 0, resumed.stdout[-500:] + resumed.stderr
    assert cli("verify", task_id).returncode == 0
    assert stored(cli, "small") == [task_id]
    assert listing(repo) == before


@pytest.mark.long
def test_a_limit_of_the_files_size_under_the_log_is_named_and_the_task_goes_on_without_it(
    cli: CommandLine, repo: Path
) -> None:
    """`ulimit -f` is what an ordinary user's full disk looks like to SQLite."""
    steps = [shell("talk", "head -c 200000 /dev/urandom"), shell("good", "echo ok > good")]
    task = cli.write(task_of(repo, steps, "test -f good"))
    assert cli("ps").returncode == 0
    limited = f"ulimit -f 240; exec {sys.executable} -m agent_runtime run {task}"
    done = subprocess.run(
        ["/bin/sh", "-c", limited], env=cli.environment, cwd=cli.home, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "`ulimit -f`" in done.stderr and "go on with: agent-runtime resume " in done.stderr
    [task_id] = stored(cli)
    assert cli("resume", task_id, "--json").returncode == 0
    assert cli("verify", task_id).returncode == 0


HOLD = """
import apsw, sys, time
db = apsw.Connection(sys.argv[1])
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
db.execute("ROLLBACK")
"""


def hold(store: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the whole database for a while, as a careless backup does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.long
def test_a_locked_database_is_waited_for_and_then_named(cli: CommandLine, repo: Path) -> None:
    """Before a task is stored: exit code 7 after the busy time-out. In the middle: it goes on."""
    wait = shell("wait", "until test -e go_on; do sleep 0.05; done")
    good = shell("good", "echo ok > good", needs=["wait"])
    in_time = task_of(repo, [wait, good], "test -f good")
    in_time["workspace"]["in_place"] = True
    os.chmod(repo, 0o777)  # as root, the sandbox is another user
    running = cli.start("run", str(cli.write(in_time)), "--json")
    assert running.stdout is not None
    for line in running.stdout:
        if '"type":"CallIntended"' in line:
            break
    locked = hold(cli.home / "state" / "store.db", BUSY_SECONDS + 2)
    (repo / "go_on").touch()
    refused = cli("run", str(cli.write(task_of(repo, [shell("never", "true")]))))
    assert refused.returncode == 7, refused.stderr
    assert "is locked by another process" in refused.stderr
    assert "end what holds it" in refused.stderr and refused.stdout == ""
    out, err = running.communicate(timeout=90)
    assert running.returncode == 0, out[-1000:] + err
    result = json.loads(out.splitlines()[-1])
    assert (result["status"], stored(cli)) == ("succeeded", [result["task_id"]])
    assert cli("verify", result["task_id"]).returncode == 0
    assert locked.wait(FREED_SECONDS_MAX) == 0
    locked.communicate()


NO_LOCKS = """
import ctypes, errno, os, struct, sys
call, command = int(sys.argv[1]), int(sys.argv[2])
# seccomp(2): load the number of the call, and of a second argument; answer ENOLCK to what matches.
step = lambda *fields: struct.pack("HBBI", *fields)
allow, refuse = step(0x06, 0, 0, 0x7FFF0000), step(0x06, 0, 0, 0x00050000 | errno.ENOLCK)
if command < 0:
    program = [step(0x20, 0, 0, 0), step(0x15, 0, 1, call), refuse, allow]
else:
    program = [step(0x20, 0, 0, 0), step(0x15, 0, 3, call), step(0x20, 0, 0, 24),
               step(0x15, 0, 1, command), refuse, allow]
class Filter(ctypes.Structure):
    _fields_ = [("count", ctypes.c_ushort), ("program", ctypes.c_void_p)]
code = ctypes.create_string_buffer(b"".join(program))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(len(program), ctypes.addressof(code))), 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-m", "agent_runtime", *sys.argv[3:]])
"""
CALLS = {"x86_64": {"flock": 73, "fcntl": 72}, "aarch64": {"flock": 32, "fcntl": 25}}
F_SETLK = 6


@pytest.mark.skipif(platform.machine() not in CALLS, reason="numbers of system calls are needed")
@pytest.mark.parametrize("kind", ["flock", "fcntl"])
def test_a_store_where_locks_do_not_work_is_refused_at_once(
    cli: CommandLine, repo: Path, kind: str
) -> None:
    """The kernel answers ENOLCK, as it does for NFS without a lock daemon."""
    call = CALLS[platform.machine()][kind]
    task = cli.write(task_of(repo, [shell("never", "true")]))
    done = subprocess.run(
        [sys.executable, "-c", NO_LOCKS, str(call), str(F_SETLK if kind == "fcntl" else -1),
         "run", str(task)],
        env=cli.environment, cwd=cli.home, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert "file locks do not work in" in done.stderr
    assert "put the store on a local file system (--store)" in done.stderr
    assert stored(cli) == []
    assert list((cli.home / "state" / "owners").iterdir()) == []


# ---- clock and plug-ins ------------------------------------------------------------------

JUMPING = """
import time
real, jumps = time.time_ns, iter(range(1, 1_000_000))
time.time_ns = lambda: real() - next(jumps) * 3_600_000_000_000
def tools():
    return []
"""


@pytest.mark.long
def test_a_clock_that_jumps_back_and_a_plug_in_that_raises_disturb_no_task(
    cli: CommandLine, repo: Path
) -> None:
    """Each look at the clock is an hour earlier; the other plug-in raises at import."""
    site = cli.home / "site"
    group = "agent_runtime.tools"
    install(site, "jumping", {group: {"jumping": "jumping:tools"}}, {"jumping.py": JUMPING})
    raises = "raise RuntimeError('no \\x1b[31mlicence')\n"
    install(site, "acme-boom", {group: {"boom": "boom:tools"}}, {"boom.py": raises})
    cli.extra |= {"PYTHONPATH": str(site), "AGENT_RUNTIME_PLUGINS": "jumping,acme-boom"}
    steps = [shell("one", "echo 1 > one"), shell("two", "echo 2 > two", needs=["one"], retry=1)]
    path = cli.write({**task_of(repo, steps, "test -f two"), "limits": {"seconds": 60}})
    done = cli("run", str(path), "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    times = [row["at_us"] for row in lines[:-1]]
    assert times == sorted(times) and len(set(times)) == 1
    # The log's last moment is what the clock said at first: it has gone back ever since.
    assert times[0] < time.time_ns() // 1000 - 3_000_000_000
    assert cli("verify", lines[-1]["task_id"]).returncode == 0
    assert "quarantined: plug-in 'boom'" in done.stderr
    assert "RuntimeError: no " in done.stderr and "\x1b" not in done.stderr
    assert "update or uninstall acme-boom, or take it off AGENT_RUNTIME_PLUGINS" in done.stderr
    told = json.loads(cli("tools", "--json").stdout)
    assert "importing 'boom' raised RuntimeError" in json.dumps(told["quarantined"])
    assert "shell" in {each["name"] for each in told["tools"]}
