"""Other people's MCP servers as modules: their tools are found, ranked, allowed and logged as ours.

Reading order: `kept` (what a server's tools are, and what the operator has consented to), `names`,
`schemas` and `effects` (how a definition becomes a tool of ours), `module` (the module and its
tools), `link` (one server's connection: made, lost, made again, quarantined), `live` (one
connection: calls), `guard` (what a server may send), `pipes` and `web` (programs and addresses),
`remote_tasks` (tasks of the server's own), `results` (what the brain is shown).

Only `live`, `guard`, `pipes`, `web`, `results` and `remote_tasks` import the SDK; they are imported
when the first task needs a server.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.ports import Installation, Module
from agent_runtime_mcp.client.module import RemoteModule

__all__ = ["RemoteModule", "modules"]


def modules(installation: Installation) -> Sequence[Module]:
    """One module for each server of the setting `mcp_servers` that is switched on."""
    return [
        RemoteModule(name, server, installation)
        for name, server in sorted(installation.mcp_servers.items())
        if server.enabled
    ]
