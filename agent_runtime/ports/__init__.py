"""Every port between the loop and the world: what an adapter promises, and what its caller does.

One file for each noun. Reading order: `store` (the log), `tools` and `modules`, `sandbox` with
`egress`, `workspaces`, `environment`, `verifier`, `model`, `publisher`, `uploads`, `clock` and
`bus`; `everything` is all of them as the loop gets them.

Each has a fake in `testing` and one contract suite under `tests/contracts` that every adapter runs.
Adapters know these files and the pure loop, never each other.

Plug-ins import every name from here: in which file it is, is not theirs to know. The runtime itself
imports from the file that it means.
"""

# ruff: noqa: F403 - what a file defines is public here; what it imports itself is not.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent_runtime.ports.bus import *
    from agent_runtime.ports.clock import *
    from agent_runtime.ports.egress import *
    from agent_runtime.ports.environment import *
    from agent_runtime.ports.everything import *
    from agent_runtime.ports.model import *
    from agent_runtime.ports.modules import *
    from agent_runtime.ports.publisher import *
    from agent_runtime.ports.sandbox import *
    from agent_runtime.ports.store import *
    from agent_runtime.ports.tools import *
    from agent_runtime.ports.uploads import *
    from agent_runtime.ports.verifier import *
    from agent_runtime.ports.workspaces import *

_NAMES: Final = {
    "bus": "Bus Listeners",
    "clock": "Clock",
    "egress": "EgressFiles EgressRecord",
    "environment": "Environment Furnishing Preparation",
    "everything": "Ports",
    "model": "Model ModelAnswer ModelFault ModelFaultKind ModelRequest",
    "modules": "ConsentingModule Installation Module ModuleContext OfferedTool RemoteOffer",
    "publisher": "OpenedRequest PreparedBranch PublishOrder Publisher",
    "sandbox": "Attaches ExecResult Layer Prestarts Probe "
    "Sandbox SandboxCeiling SandboxLimits SandboxSession SandboxSpec",
    "store": "NewTask Store",
    "tools": "AttachingTool PreviewingTool ProbingTool Tool Toolbox",
    "uploads": "Uploads",
    "verifier": "CheckOutcome Furnished Verification Verifier",
    "workspaces": "ArtifactLimits Change DiskQuota FoundFile "
    "FoundFiles LeftWork OpenedWorkspace Workspaces",
}
"""What each file has for others."""

_PLACES: Final = {name: file for file, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # for a type checker, a name that is not there is a mistake

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # A worker in the sandbox that needs `Tool` must not pay for what is said about stores.
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
