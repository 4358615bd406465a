"""What the filesystem server offers, and on which way a call runs.

Every tool is one plain function. The short way (`now`) runs it where it is, as long as it is quick:
a small file from the page cache takes less time than handing it to a thread. A function that sees
more work before it (a large file, a long directory, somebody else's lock) says `NotNow` before it
has done anything, and `run` does the same in a worker thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agent_runtime.access.callers import TASKS_WRITE
from agent_runtime_mcp.definitions import (
    Asked,
    Change,
    McpFault,
    McpServer,
    Page,
    ResourceDefinition,
    ToolAnswer,
    ToolDefinition,
    Unsupported,
    failed,
)
from agent_runtime_mcp.filesystem.calls import Call
from agent_runtime_mcp.filesystem.locks import Locks
from agent_runtime_mcp.filesystem.refusals import ALONE, SHARED, NotNow, Refused, Turn, of_os
from agent_runtime_mcp.filesystem.roots import NO_ROOTS, Roots
from agent_runtime_mcp.filesystem.schemas import TOOLS, Tool, Work, input_schema, work_of

if TYPE_CHECKING:
    import anyio

    from agent_runtime.types import Json

THREADS_MAX: Final = 16
"""Of this server: a disk that hangs must not take the threads of the whole process."""
ROOTS_SECONDS: Final = 10.0
"""So long a client's roots are believed before it is asked again."""

ResultT = TypeVar("ResultT")


class FilesystemServer(McpServer):
    """Files below `roots`. Several clients may use one at once.

    `read_only` leaves out the tools that change something. `alone`: one client has started it for
    itself (stdio), whose user may reach everything anyway. Then, without `roots`, those that the
    client names are taken; if it names none, `default_root`. `openat2` False: as on a kernel
    without that call.
    """

    name = "filesystem"
    title = "Files"
    instructions = (
        "Files below the allowed directories (list_allowed_directories). Paths are absolute, or "
        "relative to the first of them."
    )
    # Who may submit tasks may have files below workspace_roots read and changed by them.
    scope = TASKS_WRITE
    has_resources = True
    has_completion = True

    def __init__(
        self,
        roots: Sequence[str] = (),
        *,
        read_only: bool = False,
        alone: bool = False,
        default_root: str = "",
        openat2: bool | None = None,
    ) -> None:
        self._openat2 = openat2
        self._client_roots = alone and not roots
        self._default_root = default_root
        self._short = ALONE if alone else SHARED
        self._roots = Roots(roots, openat2=openat2)
        self._roots_until: float | None = None
        self._locks = Locks()
        self._limiter: anyio.CapacityLimiter | None = None
        tools = [self._definition(tool, read_only=read_only) for tool in TOOLS]
        self._by_name = {tool.name: tool for tool in tools}
        self._tools = [tool for tool in tools if not read_only or tool.annotations["readOnlyHint"]]

    def faults(self) -> list[str]:
        """What is wrong with its roots now, for whoever starts it; it works without those."""
        return [fault for root in self._roots.roots if (fault := root.fault())]

    def roots_changed(self) -> None:
        """The client says that it has other roots: it is asked before the next call."""
        self._roots_until = None

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        return self._tools

    async def tool(self, name: str, asked: Asked) -> ToolDefinition | None:
        return self._by_name.get(name)

    async def resources(self, asked: Asked, cursor: str) -> Page[ResourceDefinition]:
        from agent_runtime_mcp.filesystem import documents

        roots = await self._roots_or_fault(asked)
        return await self._in_thread(lambda turn: documents.page(roots, cursor, turn))

    async def resource_templates(self, asked: Asked) -> Sequence[ResourceDefinition]:
        from agent_runtime_mcp.filesystem import documents

        return [documents.template()]

    async def read_resource(self, uri: str, asked: Asked) -> Sequence[Mapping[str, Json]]:
        from agent_runtime_mcp.filesystem import documents

        roots = await self._roots_or_fault(asked)
        return await self._in_thread(lambda turn: documents.read(roots, uri, turn))

    async def complete(
        self, reference: Mapping[str, Json], name: str, value: str,
        known: Mapping[str, str], asked: Asked,
    ) -> Sequence[str]:  # fmt: skip
        from agent_runtime_mcp.filesystem import documents

        if name != "path" or reference.get("uri") != documents.TEMPLATE:
            return ()
        roots = await self._roots_or_fault(asked)
        return await self._in_thread(lambda turn: documents.completions(roots, value))

    async def may_follow(self, uri: str, asked: Asked) -> None:
        from agent_runtime_mcp.filesystem import documents

        roots = await self._roots_or_fault(asked)
        await self._in_thread(lambda turn: documents.versions(roots, [uri], first=True))

    async def changes(self, uris: Sequence[str], asked: Asked) -> AsyncIterator[Change]:
        """Raises `McpFault` at the first look: an address is outside, or there are too many."""
        from anyio import sleep, sleep_forever

        from agent_runtime_mcp.filesystem import documents

        if not uris:
            # Lists of this server never change.
            await sleep_forever()
        roots = await self._roots_or_fault(asked)
        seen = await self._in_thread(lambda turn: documents.versions(roots, uris, first=True))
        while True:
            await sleep(documents.LOOK_SECONDS)
            now = await self._in_thread(lambda turn: documents.versions(roots, uris, first=False))
            for uri in uris:
                if now[uri] != seen[uri]:
                    yield Change("resource", uri)
            seen = now

    def _definition(self, tool: Tool, *, read_only: bool) -> ToolDefinition:
        reads = bool(tool.annotations["readOnlyHint"])
        now, run = self._ways(tool, reads=reads)
        if read_only and not reads:
            now, run = _refusing(tool.name)
        return ToolDefinition(
            name=tool.name,
            title=tool.title,
            description=tool.description,
            input_schema=input_schema(tool),
            output_schema=tool.output,
            annotations=tool.annotations,
            run=run,
            now=now,
        )

    def _ways(self, tool: Tool, *, reads: bool) -> tuple[Any, Any]:
        work: Work | None = None

        def done(roots: Roots, arguments: Mapping[str, Json], turn: Turn) -> ToolAnswer:
            nonlocal work
            if work is None:
                work = work_of(tool)
            try:
                return work(Call(roots, self._locks, arguments, turn))
            except Refused as refused:
                return failed(str(refused))
            except OSError as error:
                return failed(of_os(error))

        def now(arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer | None:
            if self._client_roots and not self._roots_known():
                return None
            try:
                return done(self._roots, arguments, self._short)
            except NotNow:
                return None

        async def run(arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
            try:
                roots = await self._roots_of(asked)
            except Refused as refused:
                return failed(str(refused))
            return await self._in_thread(
                lambda turn: done(roots, arguments, turn), may_be_left=reads
            )

        return now, run

    async def _in_thread(
        self, work: Callable[[Turn], ResultT], *, may_be_left: bool = True
    ) -> ResultT:
        """Do it in a thread. What changes something is waited for, also when it is cancelled."""
        # Not on the way of a start: only long calls come here.
        from anyio import CapacityLimiter, to_thread

        if self._limiter is None:
            self._limiter = CapacityLimiter(THREADS_MAX)
        turn = Turn()
        try:
            return await to_thread.run_sync(
                work, turn, abandon_on_cancel=may_be_left, limiter=self._limiter
            )
        finally:
            turn.stopped = True

    async def _roots_or_fault(self, asked: Asked) -> Roots:
        """As `_roots_of`, for what is no tool. Raises `McpFault`."""
        try:
            return await self._roots_of(asked)
        except Refused as refused:
            raise McpFault(McpFault.INVALID_PARAMS, str(refused)) from None

    def _roots_known(self) -> bool:
        return self._roots_until is not None and time.monotonic() < self._roots_until

    async def _roots_of(self, asked: Asked) -> Roots:
        """The roots for this client. Raises `Refused`: it has none to give, and nor have we."""
        if not self._client_roots or self._roots_known():
            return self._roots
        try:
            answers = await asked.ask({"roots": ("roots/list", {})})
        except Unsupported as why:
            if asked.can("roots"):
                raise Refused(f"no directory is allowed: {why}") from None
            if not self._default_root:
                raise Refused(f"{NO_ROOTS}, or use a client that names its own (roots)") from None
            self._roots = Roots([self._default_root], openat2=self._openat2)
            self._roots_until = math.inf
            return self._roots
        from agent_runtime_mcp.filesystem.naming import named_roots

        self._roots = named_roots(answers["roots"], openat2=self._openat2)
        self._roots_until = time.monotonic() + ROOTS_SECONDS
        return self._roots


def _refusing(name: str) -> tuple[Any, Any]:
    def now(arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        return failed(f"{name} is refused: this server was started read-only")

    async def run(arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        return now(arguments, asked)

    return now, run
