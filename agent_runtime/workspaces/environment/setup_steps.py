"""The part of a `copilot-setup-steps.yml` workflow that can be done here. Pure.

The format is GitHub's: a workflow with one job of that name. Its `run` steps become commands; an
action (`uses`) is a program of GitHub's runner and is named as ignored.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from agent_runtime.documents import load
from agent_runtime.errors import UsageError
from agent_runtime.types import Command
from agent_runtime.workspaces.environment.said import Said

PLACES: Final = (
    ".github/workflows/copilot-setup-steps.yml",
    ".github/workflows/copilot-setup-steps.yaml",
)
_JOB: Final = "copilot-setup-steps"
_NOTHING_TO_DO: Final = ("actions/checkout@", "actions/cache@")
_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_SHELLS: Final = ("bash", "sh")


def read_setup_steps(text: str, name: str) -> Said:
    """What its steps say, as far as it can be done here.

    Raises:
        UsageError: it is no YAML, or has no such job.
    """
    document = load(text, name=name).value
    jobs = document.get("jobs") if isinstance(document, dict) else None
    job = jobs.get(_JOB) if isinstance(jobs, dict) else None
    if not isinstance(job, dict) or not isinstance(job.get("steps"), list):
        raise UsageError(f"it has no job {_JOB!r} with steps")
    ignored = [f"jobs.{_JOB}.{key}" for key in ("services", "container", "if") if key in job]
    env = _variables(document.get("env"), ignored) | _variables(job.get("env"), ignored)
    setup: list[Command] = []
    for number, step in enumerate(job["steps"], start=1):
        if isinstance(step, dict):
            command = _command(step, number, ignored)
            if command:
                setup.append(command)
    notes = [f"{name}: ignored {', '.join(ignored)}"] if ignored else []
    return Said(setup=tuple(setup), env=env, notes=tuple(notes))


def _command(step: Mapping[str, Any], number: int, ignored: list[str]) -> Command | None:
    told = str(step.get("name") or f"step {number}")
    if isinstance(uses := step.get("uses"), str):
        if not uses.startswith(_NOTHING_TO_DO):
            ignored.append(f"{told!r} (uses {uses})")
        return None
    run = step.get("run")
    if not isinstance(run, str) or not run.strip():
        return None
    if "if" in step or _EXPRESSION.search(run):
        ignored.append(f"{told!r} (an expression decides about it)")
        return None
    shell = str(step.get("shell") or "bash").split()[0]
    if shell not in _SHELLS:
        ignored.append(f"{told!r} (shell {shell})")
        return None
    lines = [
        f"export {name}={shlex.quote(value)}"
        for name, value in _variables(step.get("env"), ignored).items()
    ]
    if isinstance(directory := step.get("working-directory"), str):
        lines.append(f"cd {shlex.quote(directory)}")
    # As GitHub's runner does: the first command that fails ends the step.
    options = ["-e", "-o", "pipefail"] if shell == "bash" else ["-e"]
    return [shell, *options, "-c", "\n".join([*lines, run])]


def _variables(value: Any, ignored: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, said in (value if isinstance(value, dict) else {}).items():
        text = str(said).lower() if isinstance(said, bool) else str(said)
        if _EXPRESSION.search(text) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            ignored.append(f"env.{name}")
        else:
            found[str(name)] = text
    return found
