"""Which Python a task's commands run with: the task's, the repository's, the caller's, ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from agent_runtime.errors import WorkspaceError
from agent_runtime.types import TaskSpec


class LocalEnvironment:
    """Implements `ports.Environment`. `environ` is the caller's environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def python(self, task: TaskSpec) -> tuple[str, str]:
        """A venv and where it was found.

        Raises:
            WorkspaceError: `environment.python` names something that is no venv.
        """
        named = task.environment.python
        if named is not None:
            if not _is_python(named):
                raise WorkspaceError(
                    f"environment.python {named!r} is no Python environment: it has no bin/python; "
                    "make one with `python3 -m venv`, and install there what the checks need"
                )
            return os.path.abspath(named), "environment.python"
        repo = task.workspace.repo if task.workspace else ""
        if os.path.isabs(repo) and _is_python(os.path.join(repo, ".venv")):
            return os.path.join(repo, ".venv"), "the repository's .venv"
        active = self._environ.get("VIRTUAL_ENV", "")
        if _is_python(active):
            return os.path.abspath(active), "$VIRTUAL_ENV"
        return sys.prefix, "the runtime's own environment"


def _is_python(prefix: str) -> bool:
    return bool(prefix) and os.path.isfile(os.path.join(prefix, "bin", "python"))
