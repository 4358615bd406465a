"""The server `runtime`: agents that are handed tasks, watched, answered and driven over MCP.

It does what HTTP's operations do, on the same `Runtime`, by the same rules (`agent_runtime.api`).
Reading order: `server` (what it offers), `tasks` and `control` (the tools), `waiting` and
`approvals` (until something happens, and who is asked then), `brain` (the client's own model
decides), `telling` (what a client's model is told), `documents` and `changes` (resources),
`prompts`, `schemas` (how a tool is made of a Struct). That its tasks are MCP tasks is in
`tasks.of_runtime`.
"""

from agent_runtime_mcp.runtime.server import RuntimeServer

__all__ = ["RuntimeServer"]
