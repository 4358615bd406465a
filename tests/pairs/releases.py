"""From two releases of a package to a repository with bugs and the patch that mends them.

The sdists come by `pip download` with their hashes, once: they and the environment that the tests
run in are kept in the user's cache directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "pairs.toml"
_LEFT_BY_BUILDS = re.compile(r"(^|/)([^/]+\.egg-info|__pycache__)(/|$)|^PKG-INFO$")


class Unreachable(Exception):
    """PyPI does not answer, or not with these files."""


@dataclass(frozen=True)
class Release:
    """One sdist of a package."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Pair:
    """An older release whose bugs the tests of a newer one show."""

    old: Release
    new: Release
    tests: str
    source: tuple[str, ...]
    path: str
    """Where the package is imported from, below the repository; mostly its top."""
    half: str
    """"first" or "second": the half of the fix that does not make the tests pass."""

    @property
    def name(self) -> str:
        return self.old.name

    @property
    def command(self) -> str:
        """What decides."""
        path = f"PYTHONPATH={self.path} " if self.path else ""
        return f"{path}python -m pytest -q -p no:cacheprovider {self.tests}"


@dataclass(frozen=True)
class Case:
    """A pair on the disk."""

    pair: Pair
    repo: Path
    python: Path
    """The environment that its tests run in."""
    fix: str
    """Takes the source to the newer release, and nothing else."""


def all_pairs() -> list[Pair]:
    """What the data file lists."""
    return [_pair(item) for item in _data()["pair"]]


def _pair(item: dict[str, Any]) -> Pair:
    return Pair(
        old=Release(item["name"], **item["old"]),
        new=Release(item["name"], **item["new"]),
        tests=item["tests"],
        source=tuple(item["source"]),
        path=item.get("path", ""),
        half=item["half"],
    )


def _data() -> dict[str, Any]:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


def cache() -> Path:
    """Of this user; what is in it can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "agent-runtime" / "pairs"


# ---- what comes from elsewhere -----------------------------------------------------------


def fetch(pairs: Sequence[Pair]) -> Path:
    """Have the sdists of these pairs and the environment; return the environment.

    Raises:
        Unreachable: something is missing, and PyPI does not give it.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = _environment()
        # Both releases of a package in one call would contradict each other.
        for releases in ([pair.old for pair in pairs], [pair.new for pair in pairs]):
            if missing := [r for r in releases if _sdist(r) is None]:
                _download(missing, python)
    return python


def _environment() -> Path:
    wanted = "\n".join(_data()["environment"])
    kind = f"{sys.version}{sys.base_prefix}{wanted}"
    where = cache() / f"venv-{hashlib.sha256(kind.encode()).hexdigest()[:12]}"
    if not (where / ".ready").exists():
        shutil.rmtree(where, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(where)])
        _pip(where, "install", *wanted.split())
        (where / ".ready").touch()
    return where


def _download(releases: Sequence[Release], python: Path) -> None:
    arriving = cache() / f"arriving-{os.getpid()}"
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(parents=True)
    wanted = arriving / "wanted.txt"
    wanted.write_text(
        "".join(f"{r.name}=={r.version} --hash=sha256:{r.sha256}\n" for r in releases),
        encoding="utf-8",
    )
    names = ",".join(release.name for release in releases)
    try:
        _pip(python, "download", "--no-deps", "--no-binary", names, "--require-hashes",
             "--dest", str(arriving), "--requirement", str(wanted))  # fmt: skip
        _sdists().mkdir(exist_ok=True)
        for release in releases:
            found = next(f for f in arriving.glob("*.tar.gz") if _sha256(f) == release.sha256)
            found.replace(_sdists() / f"{release.sha256}.tar.gz")
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _pip(python: Path, *arguments: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--retries", "2", "--timeout", "20"]
    done = _run([str(python / "bin" / "pip"), *arguments, *options], check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise Unreachable(
            f"`pip {arguments[0]}` cannot get what the release pairs need: {said[-1][:300]}; they"
            f" need PyPI (or a mirror that pip knows) once, and are then kept in {cache()}"
        )


def _sdists() -> Path:
    return cache() / "sdists"


def _sdist(release: Release) -> Path | None:
    kept = _sdists() / f"{release.sha256}.tar.gz"
    return kept if kept.exists() and _sha256(kept) == release.sha256 else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- repositories ------------------------------------------------------------------------


def make_case(pair: Pair, work: Path, python: Path) -> Case:
    """A repository below `work`: old source, new tests, one commit."""
    old, new = _unpack(pair.old, work / "old"), _unpack(pair.new, work / "new")
    repo = work / pair.name
    old.rename(repo)
    # Tests may lie inside of the source.
    _take(repo, new, pair.tests)
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "add", "--all", "--force")
    git(repo, "commit", "--quiet", "--message", "Source of one release, tests of the next")
    for path in pair.source:
        _take(repo, new, path)
    _take(repo, new, pair.tests)
    git(repo, "add", "--all", "--force")
    fix = git(repo, "diff", "--cached", "--no-renames")
    git(repo, "reset", "--quiet", "--hard")
    return Case(pair, repo, python, fix)


def _unpack(release: Release, target: Path) -> Path:
    sdist = _sdist(release)
    assert sdist is not None, f"{release} was not fetched"
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    top = next(target.iterdir())
    for path in sorted(top.rglob("*"), reverse=True):
        if _LEFT_BY_BUILDS.search(str(path.relative_to(top))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return top


def _take(repo: Path, new: Path, name: str) -> None:
    """Make `name` of the repository what it is in the newer release."""
    there, here = new / name, repo / name
    if here.is_dir():
        shutil.rmtree(here)
    else:
        here.unlink(missing_ok=True)
    if there.is_dir():
        shutil.copytree(there, here, symlinks=True)
    elif there.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there, here)


def half_of(case: Case) -> str:
    """Half of the fix's hunks: by the data file the half that is not enough."""
    files = re.split(r"(?m)^(?=diff --git )", case.fix)[1:]
    hunks = [
        (head, hunk)
        for head, *found in (re.split(r"(?m)^(?=@@ )", file) for file in files)
        for hunk in found
    ]
    middle = (len(hunks) + 1) // 2
    kept = hunks[:middle] if case.pair.half == "first" else hunks[middle:]
    patch, last = "", ""
    for head, hunk in kept:
        patch += hunk if head == last else head + hunk
        last = head
    return patch


def comment_of(case: Case) -> str:
    """A change of the first file of the fix that changes nothing."""
    name = next(
        name
        for name in re.findall(r"(?m)^diff --git a/(\S+)", case.fix)
        if name.endswith(".py") and (case.repo / name).exists()
    )
    path = case.repo / name
    text = path.read_text(encoding="utf-8")
    path.write_text(f"# Touched.\n{text}", encoding="utf-8")
    patch = git(case.repo, "diff")
    git(case.repo, "checkout", "--quiet", "--", name)
    return patch


def git(repo: Path, *arguments: str) -> str:
    """Run git as a fixed somebody, deaf to the user's configuration."""
    settings = ["-c", "user.name=pairs", "-c", "user.email=pairs@example.invalid"]
    settings += ["-c", "core.autocrlf=false", "-c", "core.safecrlf=false"]
    return _run(["git", "-C", str(repo), *settings, *arguments]).stdout


def _run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, capture_output=True, text=True, encoding="utf-8")
