"""All ports of one installation together, as the loop and the runtime get them."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_runtime.ports.bus import Bus, Listeners
from agent_runtime.ports.clock import Clock
from agent_runtime.ports.egress import EgressFiles
from agent_runtime.ports.environment import Environment
from agent_runtime.ports.model import Model
from agent_runtime.ports.publisher import Publisher
from agent_runtime.ports.sandbox import Sandbox, SandboxCeiling, SandboxLimits
from agent_runtime.ports.store import Store
from agent_runtime.ports.tools import Toolbox
from agent_runtime.ports.uploads import Uploads
from agent_runtime.ports.verifier import Verifier
from agent_runtime.ports.workspaces import ArtifactLimits, Workspaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything the loop may touch, put together in `app`."""

    store: Store
    clock: Clock
    bus: Bus
    toolbox: Toolbox
    sandbox: Sandbox
    workspaces: Workspaces
    verifier: Verifier
    environment: Environment
    model: Model | None = None
    plugin_paths: tuple[str, ...] = ()
    """What every worker must be able to import; see `SandboxSpec.plugin_paths`."""
    shared_dir: str = ""
    """What modules hand to the tools' sandboxes; see `ModuleContext.shared_dir`."""
    sandbox_limits: SandboxLimits = field(default_factory=SandboxLimits)
    """Of every sandbox of a task, its checks included."""
    sandbox_ceiling: SandboxCeiling = field(default_factory=SandboxCeiling)
    """What no task may ask more of."""
    listeners: Listeners | None = None
    egress_files: EgressFiles | None = None
    artifact_limits: ArtifactLimits = field(default_factory=ArtifactLimits)
    publisher: Publisher | None = None
    uploads: Uploads | None = None
