"""The ports for tools: what the agent calls, and the box that all of them are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall, ToolInfo, ToolResult, Where


@runtime_checkable
class Tool(Protocol):
    """What the agent calls. `where="worker"`: runs inside the sandbox, importable there."""

    @property
    def name(self) -> str:
        """Unique; lower case, digits and underscores."""

    @property
    def description(self) -> str:
        """One paragraph for the brain."""

    @property
    def parameters(self) -> Mapping[str, Json]:
        """JSON schema of the arguments: an object, `additionalProperties: false`."""

    @property
    def toolbelt(self) -> str:
        """`standard` is always on; any other is activated when a step needs it."""

    @property
    def where(self) -> Where:
        """`daemon` tools hold credentials and are given to a task only by name."""

    def effect(self, arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
        """What this very call changes; pure and fast."""

    async def execute(self, call: ToolCall) -> ToolResult:
        """Do it. `ToolRefused` is turned into data; any other exception is kind `internal`."""


@runtime_checkable
class ProbingTool(Protocol):
    """A tool of effect `probe` can look whether a call without a result happened."""

    async def probe(self, call: ToolCall) -> bool | None:
        """True: it happened. False: it did not. None: cannot be known."""


@runtime_checkable
class AttachingTool(Protocol):
    """A tool of effect `task` knows which task of somebody else a call has become."""

    async def attached(self, call: ToolCall) -> bool:
        """Can a call without a result be run again, to attach to its task, or because it was never
        sent? False: it may be running somewhere, and nobody knows under which id."""


@runtime_checkable
class PreviewingTool(Protocol):
    """A tool that can say what a call would change, for the person who is asked to allow it."""

    async def preview(self, call: ToolCall) -> str:
        """As text, best a unified diff; changes nothing. Asked where the call would run.

        `ToolRefused` and other exceptions are told to the person in its place. A tool may have a
        `preview_blocking` as well, a plain function: a worker runs that without an event loop.
        """


class Toolbox(Protocol):
    """Every registered tool, local or remote, behind one door."""

    def find(self, name: str) -> ToolInfo | None:
        """The tool's face, or None."""

    def all(self) -> Sequence[ToolInfo]:
        """Sorted by name."""

    def get(self, name: str) -> Tool:
        """The tool itself. `NotFound` names the nearest."""

    async def activate(self, toolbelt: str) -> Sequence[str]:
        """Initialise the modules behind a toolbelt and return its tools' names, sorted.

        Raises:
            NotFound: nobody contributes it.
            PluginError: its module did not start; it is quarantined.
        """

    async def deactivate(self, toolbelt: str) -> None:
        """Undo one `activate`; the last one cleans the modules up."""
