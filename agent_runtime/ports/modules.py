"""The ports for modules, which contribute tools and have a life of their own.

A module whose tools are somebody else's asks for consent, and tells what is offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from agent_runtime.ports.sandbox import Sandbox
from agent_runtime.ports.tools import Tool
from agent_runtime.remote_servers import RemoteServer
from agent_runtime.types import Effect


@dataclass(frozen=True, slots=True)
class ModuleContext:
    """What a module may use while it lives."""

    state_dir: str
    """A directory of its own, which exists and outlives the process."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What the installation says about this module; names and values are the module's own."""
    shared_dir: str = ""
    """What every task's tools see read-only, at this path, which `types.SHARED_VARIABLE` tells them
    in their environment. All modules share it: each writes below its name only. Empty if no module
    has settings."""


@runtime_checkable
class Module(Protocol):
    """Contributes tools and has a life of its own.

    It is made and `tools` is called when plug-ins load, before `initialize`, although no task may
    ever need it. `initialize` and `cleanup` may take turns several times, in one task each time.

    A module may also have `source`, a text `"package.module:function"`: a plain function that
    returns its tools and needs no module. Only a module with tools of `where="worker"` needs it:
    the worker in the sandbox imports them there.
    """

    @property
    def name(self) -> str:
        """Unique among modules; lower case, digits and underscores."""

    @property
    def description(self) -> str:
        """One line for people and for the ranking of tools."""

    def tools(self) -> Sequence[Tool]:
        """Its tools, always the same; each has a toolbelt other than `standard`.

        Called once, when nothing of the module has been started: it opens and starts nothing.
        """

    async def initialize(self, context: ModuleContext) -> None:
        """Start, because the first task needs a tool; 30 s. An exception quarantines the module."""

    async def cleanup(self) -> None:
        """Stop, because the last task that used it has ended; 10 s, also while being cancelled."""

    async def health(self) -> str | None:
        """None if well, else what is wrong, within 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTool:
    """A tool of somebody else's as it is offered now. `name` is theirs, `tool` ours."""

    name: str
    tool: str
    description: str
    effect: Effect
    change: Literal["same", "new", "changed", "gone"]
    diff: str = ""
    """What has changed since it was consented to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOffer:
    """What somebody else's server says of itself: claims."""

    server: str
    wire: str
    endpoint: str
    resources: bool
    tools: tuple[OfferedTool, ...]
    definitions: object = None
    """The module's own: goes back to `consent`."""


@runtime_checkable
class ConsentingModule(Protocol):
    """A module whose tools are somebody else's: a person looks at them before anybody uses them."""

    @property
    def endpoint(self) -> str:
        """Where they come from, without secrets."""

    def standing(self) -> str:
        """What a person should do about it; empty: nothing. Opens nothing."""

    async def offered(self) -> RemoteOffer:
        """Ask the server, on a connection of its own.

        Raises:
            PluginError: it cannot be asked; says why.
        """

    def consent(self, offer: RemoteOffer | None) -> None:
        """From the next start on these are the tools; None: none are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a maker of modules (`agent_runtime.module_makers`) is told of the installation.

    A maker is called when plug-ins load and returns modules, none or several; it opens and starts
    nothing.
    """

    state_dir: str
    mcp_servers: Mapping[str, RemoteServer] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Where each is, see `secret_sources`."""
    environ: Mapping[str, str] = field(default_factory=dict)
    sandbox: Sandbox | None = None
    """For programs that a module starts; None: nothing will be started."""
