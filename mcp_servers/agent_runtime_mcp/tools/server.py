"""What clients of *tools* see: every registered tool, or two that find and call the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from agent_runtime import schema
from agent_runtime.access.callers import TASKS_WRITE
from agent_runtime.api.daemon import Daemon
from agent_runtime.types import Json, TaskSpec, ToolInfo, WorkspaceSpec
from agent_runtime_mcp.definitions import (
    Asked,
    BackedTasks,
    BeginTask,
    McpServer,
    RunTool,
    ToolAnswer,
    ToolDefinition,
    failed,
)
from agent_runtime_mcp.tools import outputs
from agent_runtime_mcp.tools.call_tasks import CallTasks, id_of
from agent_runtime_mcp.tools.calls import Calls
from agent_runtime_mcp.tools.catalogue import Catalogue, as_text, listed, make
from agent_runtime_mcp.tools.sessions import IDLE_SECONDS, Sessions, policy_of

SEARCH: Final = "search"
"""Value of the option `mode` for clients that cannot hold every schema."""
_CATALOGUES_MAX: Final = 64

_SEARCH_SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {"query": {"type": "string", "minLength": 1, "description": "What to do."}},
    "required": ["query"],
    "additionalProperties": False,
}
_CALL_SCHEMA: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "As search_tools named it."},
        "arguments": {"type": "object", "description": "By the tool's inputSchema."},
    },
    "required": ["name"],
    "additionalProperties": False,
}


class ToolsServer(McpServer):
    """Every registered tool, as the loop calls it; see docs/mcp-tools.md."""

    name = "tools"
    title = "agent-runtime: tools"
    instructions = (
        "Tools that work on one checkout, in a sandbox. Every call is recorded before it runs; one "
        "that was interrupted says whether its effect is known. A call that needs an approval says "
        "who can give it: make the same call again afterwards."
    )
    scope = TASKS_WRITE
    has_tasks = True

    def __init__(self, daemon: Daemon, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._runtime = daemon.runtime
        self._toolbox = daemon.runtime.ports.toolbox
        self._sessions = Sessions(daemon, idle_seconds=idle_seconds)
        self._calls = Calls(daemon, self._sessions)
        self._seen: Sequence[ToolInfo] = ()
        self._catalogues: dict[tuple[str, str], Catalogue] = {}
        self._search = (
            ToolDefinition(
                name="search_tools",
                description="Find tools by what they do. Returns names, descriptions and schemas "
                "of the best hits, to be called with call_tool.",
                input_schema=_SEARCH_SCHEMA,
                annotations={"readOnlyHint": True, "openWorldHint": False},
                run=self._find,
            ),
            ToolDefinition(
                name="call_tool",
                description="Call a tool that search_tools has found.",
                input_schema=_CALL_SCHEMA,
                annotations={"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True},
                run=self._call_named,
                task_support="optional",
                begin=self._begin_named,
            ),
        )
        self._tasks = CallTasks(self._runtime, self._calls, self._sessions)
        self._search_by_name = {each.name: each for each in self._search}

    async def run(self) -> None:
        """Ends sessions that nobody uses."""
        await self._sessions.reap()

    async def tools(self, asked: Asked) -> Sequence[ToolDefinition]:
        """All of them, or the two."""
        if asked.query.get("mode") == SEARCH:
            return self._search
        return self._catalogue(asked).definitions

    async def tool(self, name: str, asked: Asked) -> ToolDefinition | None:
        """By name, at the same cost however many there are. The two are known in both modes."""
        return self._catalogue(asked).by_name.get(name) or self._search_by_name.get(name)

    def input_schema(self, name: str) -> Mapping[str, Json] | None:
        """As the tool has registered it."""
        info = self._toolbox.find(name)
        return info.parameters if info is not None else None

    def backed_tasks(self) -> BackedTasks:
        """Calls are steps of their sessions, and live there."""
        return self._tasks

    def _catalogue(self, asked: Asked) -> Catalogue:
        """Of the policy that the client's address names. `UsageError`: it names none."""
        infos = self._toolbox.all()
        if infos is not self._seen:
            # A toolbox gives the same list until it has other tools.
            self._catalogues.clear()
            self._seen = infos
        key = (asked.query.get("policy", ""), asked.query.get("network", ""))
        found = self._catalogues.get(key)
        if found is None:
            if len(self._catalogues) >= _CATALOGUES_MAX:
                self._catalogues.clear()
            # What is listed does not hang on the workspace: calls say if there is none.
            task = TaskSpec(
                goal="-", workspace=WorkspaceSpec(repo="/"), policy=policy_of(asked.query)
            )
            more = [outputs.definition(self._read)]
            found = self._catalogues[key] = make(
                task, self._toolbox, self._runner, self._beginner, more
            )
        return found

    def _beginner(self, name: str) -> BeginTask:
        return partial(self._begin, name)

    async def _begin(self, name: str, arguments: Mapping[str, Json], asked: Asked) -> str:
        return id_of(await self._calls.begin(name, arguments, asked))

    async def _begin_named(self, arguments: Mapping[str, Json], asked: Asked) -> str | None:
        tool = self._catalogue(asked).by_name.get(arguments["name"])
        given = arguments.get("arguments", {})
        if tool is None or tool.begin is None or schema.check(given, tool.input_schema):
            return None  # nothing long: `_call_named` answers, or says what is wrong
        return await self._begin(tool.name, given, asked)

    def _runner(self, name: str) -> RunTool:
        return partial(self._call, name)

    async def _call(self, name: str, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        return await self._calls.call(name, arguments, asked)

    async def _read(self, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        return await outputs.read(self._runtime, arguments, asked)

    async def _find(self, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        query, catalogue = arguments["query"], self._catalogue(asked)
        hits = [listed(each, self._toolbox.find(each.name)) for each in catalogue.search(query)]
        if not hits:
            belts = sorted({info.toolbelt for info in catalogue.infos})
            return failed(
                f"No installed tool fits {query!r}. Try other words. Toolbelts: "
                f"{', '.join(belts) or 'none'}."
            )
        found = {"tools": hits}
        return ToolAnswer([{"type": "text", "text": as_text(found)}], found)

    async def _call_named(self, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        name, catalogue = arguments["name"], self._catalogue(asked)
        tool = catalogue.by_name.get(name)
        if tool is None:
            near = schema.nearest(name, catalogue.by_name)
            hint = f"did you mean {near!r}?" if near else "search_tools finds them"
            return failed(f"no tool is called {name!r}; {hint}")
        given = arguments.get("arguments", {})
        if problems := schema.check(given, tool.input_schema):
            return failed(f"{name}: {'; '.join(problems)}")
        return await tool.run(given, asked)
