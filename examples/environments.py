"""`make examples`: three real projects, each mended twice; the second start finds its environment.

Only the projects' own files say what they need: a pyproject.toml, a package-lock.json, and an
`.agent-runtime.yaml` with a PostgreSQL. Setup takes packages from pypi.org and registry.npmjs.org.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parent / "environments"
RUNTIME = [sys.executable, "-m", "agent_runtime"]
NEEDS = {
    "python-library": ("git",),
    "node-package": ("git", "node", "npm"),
    "local-service": ("git",),
}
RATIO_MIN = 5.0
"""How many times faster the second start has to be; it is some hundred times."""
RUN_SECONDS_MAX = 2400
HINT = """\
Setup needs pypi.org, files.pythonhosted.org and registry.npmjs.org. It reaches the hosts of the
setting setup_egress, and no private address unless a rule names it. With a mirror of your own, or
where names lead to private addresses, give all rules and the address or its network, such as
AGENT_RUNTIME_SETUP_EGRESS=pypi.org,files.pythonhosted.org,registry.npmjs.org,10.1.2.0/24
(and say PIP_INDEX_URL or npm_config_registry in `environment.env` of the task files, if programs
are to ask another host). HTTPS_PROXY and certificates of your environment are used."""


@dataclass(frozen=True)
class Start:
    """What one run of a task came to."""

    status: str = ""
    reason: str = ""
    grade: str = ""
    source: str = ""
    cached: bool = False
    seconds: float = 0.0
    is_verified: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def is_certified(self) -> bool:
        return self.status == "succeeded" and self.grade == "proven" and self.is_verified


def main(names: list[str]) -> int:
    """Run those named, or all; exit 0 if each is certified twice, the second time from the kept."""
    rows, problems = [], []
    if unknown := sorted(set(names) - set(NEEDS)):
        print(f"no such example: {', '.join(unknown)}; there are {', '.join(NEEDS)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="agent-runtime-examples-") as made:
        work = Path(made)
        store = f"sqlite:///{work / 'state' / 'store.db'}"
        environment = {**os.environ, "AGENT_RUNTIME_STORE": store}
        for name in names or NEEDS:
            missing = [program for program in NEEDS[name] if shutil.which(program) is None]
            if missing:
                problems.append(f"{name}: not on this machine: {', '.join(missing)}")
                continue
            task_file = copied(name, work)
            first = started(name, "first", task_file, environment)
            second = Start(reason="not tried")
            if first.is_certified:
                second = started(name, "second", task_file, environment)
            rows.append(row(name, first, second))
            problems += [f"{name}: {problem}" for problem in judged(first, second)]
    table(rows)
    for problem in problems:
        print(f"\n{problem}")
    if problems:
        print(f"\n{HINT}")
        return 1
    print("\nEach was certified twice; the second time nothing was installed.")
    return 0


def copied(name: str, work: Path) -> Path:
    """A repository of its own with one commit, and the task file beside it."""
    repo = work / name
    shutil.copytree(SOURCES / name, repo, ignore=shutil.ignore_patterns("node_modules", ".venv"))
    git(repo, "init", "--quiet", "--initial-branch=main")
    git(repo, "add", "-A")
    git(repo, "commit", "--quiet", "-m", "A project with a bug")
    return Path(shutil.copy(SOURCES / f"{name}.yaml", work))


def started(name: str, which: str, task_file: Path, environment: dict[str, str]) -> Start:
    """Run the task as a user does, and verify its log."""
    print(f"{name}, {which} start …", end=" ", flush=True)
    done = subprocess.run(
        [*RUNTIME, "run", str(task_file), "--json"],
        env=environment,
        cwd=task_file.parent,  # settings of this checkout are not meant for the examples
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if not lines or lines[-1]["type"] != "result":
        print("no result")
        return Start(reason=done.stderr.strip() or f"exit code {done.returncode}")
    result = lines[-1]
    prepared = data_of(lines, "EnvironmentPrepared")
    verify = [*RUNTIME, "verify", result["task_id"]]
    verified = subprocess.run(
        verify, env=environment, cwd=task_file.parent, capture_output=True, check=False
    )
    print(result["status"])
    return Start(
        status=result["status"],
        reason=result["reason"],
        grade=data_of(lines, "VerificationEnded").get("grade") or "",
        source=prepared.get("environment", {}).get("source", ""),
        cached=prepared.get("cached", False),
        seconds=prepared.get("seconds", 0.0),
        is_verified=verified.returncode == 0,
        notes=prepared.get("notes", []),
    )


def data_of(lines: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The last event of this type, or nothing."""
    found = [line["data"] for line in lines if line["type"] == kind]
    return dict(found[-1]) if found else {}


def judged(first: Start, second: Start) -> list[str]:
    """What is not as it should be."""
    problems = []
    for which, start in (("first", first), ("second", second)):
        if not start.is_certified and (start is first or first.is_certified):
            grade = start.grade or "no grade"
            told = "\n".join([start.reason, *start.notes])
            problems.append(
                f"the {which} start is not certified ({start.status or 'it did not end'}, {grade})"
                f":\n{textwrap.indent(told, '    ')}"
            )
    if problems:
        return problems
    if first.cached or not second.cached:
        problems.append("the first start should set up, and the second should not")
    elif first.seconds < RATIO_MIN * second.seconds:
        problems.append(f"the second start is not {RATIO_MIN:g} times faster")
    return problems


def row(name: str, first: Start, second: Start) -> tuple[str, ...]:
    """A line of the table."""
    ratio = f"{first.seconds / second.seconds:,.0f} x" if first.seconds and second.seconds else "-"
    grades = f"{first.grade or first.status or '-'}, {second.grade or second.status or '-'}"
    return (
        name,
        first.source or "-",
        f"{first.seconds:.2f} s",
        f"{second.seconds:.3f} s{'' if second.cached else ' (not kept)'}",
        ratio,
        grades,
    )


def table(rows: list[tuple[str, ...]]) -> None:
    """Columns that line up."""
    lines = [("project", "told by", "first start", "second", "ratio", "grades"), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\nPreparing the environment:\n")
    for line in lines:
        print("  " + "  ".join(map(str.ljust, line, widths)).rstrip())


def git(repo: Path, *arguments: str) -> None:
    """Run git as a fixed somebody."""
    identity = ["-c", "user.name=example", "-c", "user.email=example@example.invalid"]
    command = ["git", "-C", str(repo), *identity, "-c", "core.autocrlf=false", *arguments]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
