"""The port for what a task's commands run with, beyond the repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from agent_runtime.ports.egress import EgressRecord
from agent_runtime.ports.sandbox import Layer, Sandbox, SandboxLimits
from agent_runtime.ports.workspaces import OpenedWorkspace
from agent_runtime.types import PreparedEnvironment, TaskId, TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How a task's environment was prepared."""

    environment: PreparedEnvironment
    cached: bool = False
    seconds: float = 0.0
    output: bytes = b""
    """What setup's commands printed, without secrets."""
    notes: tuple[str, ...] = ()
    """What a user should know: ignored keys, missing tools, files that were not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Furnishing:
    """The environment's files, ready for one sandbox."""

    layers: tuple[Layer, ...] = ()
    home: str | None = None


class Environment(Protocol):
    """What a task's commands run with, beyond the repository."""

    def check(self, task: TaskSpec) -> None:
        """Refuse what no `prepare` could use.

        Raises:
            UsageError: it names a secret that the installation does not know.
        """

    async def prepare(
        self,
        task_id: TaskId,
        task: TaskSpec,
        opened: OpenedWorkspace,
        sandbox: Sandbox,
        *,
        limits: SandboxLimits,
        heard: Callable[[EgressRecord], None] | None = None,
    ) -> Preparation:
        """Run the setup, or find what an earlier one left. The workspace is as it was afterwards.

        No sandbox of the task may be alive. Safe to repeat.

        Raises:
            SetupFailed: a command failed; says which, and what it printed.
            WorkspaceError: the named venv is none, or the files cannot be kept.
        """  # fmt: skip

    async def furnish(self, task_id: TaskId, prepared: PreparedEnvironment) -> Furnishing:
        """The files for the tools' sandbox; copies are made once a task. HOME is the task's own.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    async def adopt(self, task_id: TaskId, prepared: PreparedEnvironment) -> None:
        """Put into a new working copy and HOME what `prepare` had put into those of another task.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    def fresh(
        self, task_id: TaskId, prepared: PreparedEnvironment, checkout: str
    ) -> AbstractAsyncContextManager[Furnishing]:
        """The files as setup left them, for one check in `checkout`; copies are removed at the end.

        Raises:
            WorkspaceError: the kept files are gone.
        """

    def secrets(self, task: TaskSpec) -> Mapping[str, str]:
        """Every secret that the task names, by name; empty where none is named.

        Raises:
            WorkspaceError: one cannot be read just now; names it and says why.
        """
