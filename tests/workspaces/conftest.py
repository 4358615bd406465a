import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_runtime.types import TaskId
from agent_runtime.workspaces import LocalWorkspaces

TASK = TaskId("task_1")


def git(*arguments: str | bytes, cwd: str | Path, stdin: bytes = b"", check: bool = True) -> bytes:
    """Git as a user would run it, but deaf to the machine's own configuration."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.environ.get("TEST_GIT_CONFIG", "/dev/null"),
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
        "GIT_ALLOW_PROTOCOL": "file",
    }
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", *arguments],
        cwd=cwd, env=env, input=stdin, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr.decode()
    return done.stdout


@dataclass
class Repo:
    """A user's repository."""

    path: Path

    def write(self, name: str | bytes, data: bytes, *, mode: int = 0o644) -> None:
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)

    def git(self, *arguments: str | bytes, stdin: bytes = b"") -> str:
        return git(*arguments, cwd=self.path, stdin=stdin).decode().strip()

    def commit(self, message: str = "work") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


def make_repo(path: Path) -> Repo:
    path.mkdir(parents=True)
    repo = Repo(path)
    repo.git("init", "--quiet", "--template=", "--initial-branch=main")
    return repo


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repository with one commit: `a.py`, `run.sh` (executable), `docs/guide.md`, a link."""
    repo = make_repo(tmp_path / "project")
    repo.write("a.py", b"one\ntwo\nthree\n")
    repo.write("run.sh", b"#!/bin/sh\n", mode=0o755)
    repo.write("docs/guide.md", b"# Guide\n")
    os.symlink("a.py", repo.path / "link")
    repo.commit("start")
    return repo


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def workspaces(state_dir: Path) -> LocalWorkspaces:
    return LocalWorkspaces(str(state_dir))


def contents(path: str | Path) -> dict[bytes, tuple[str, bytes]]:
    """Path -> (kind, bytes) of every file and link but those in `.git`."""
    found: dict[bytes, tuple[str, bytes]] = {}
    top = os.fsencode(path)
    for parent, directories, files in os.walk(top):
        if b".git" in directories:
            directories.remove(b".git")
        for name in [*files, *(d for d in directories if os.path.islink(os.path.join(parent, d)))]:
            full = os.path.join(parent, name)
            key = os.path.relpath(full, top)
            if os.path.islink(full):
                found[key] = ("link", os.readlink(full))
            elif os.path.isfile(full):
                with open(full, "rb") as file:
                    data = file.read()
                found[key] = ("exec" if os.stat(full).st_mode & 0o100 else "file", data)
            else:
                found[key] = ("special", b"")
    return found


def fingerprint(path: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of a directory, `.git` included, with its stamps: nothing may have moved."""
    return {
        str(entry): (entry.lstat().st_mtime_ns, entry.lstat().st_ctime_ns, entry.lstat().st_size)
        for entry in sorted(path.rglob("*"))
    }
