"""One connection that stands: what the server is, its tools, and calls.

Everything the SDK does is done here. Its checks of structured results are switched off: somebody's
schema may hold a pattern that takes years to match.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import anyio
from mcp import Client
from mcp.client._transport import TransportStreams
from mcp.client.session import ElicitationFnT, IncomingMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    CallToolResult,
    Implementation,
    ReadResourceResult,
    ToolListChangedNotification,
)

from agent_runtime import __version__
from agent_runtime.types import Json
from agent_runtime_mcp.client import kept, remote_tasks
from agent_runtime_mcp.client.guard import Guard, sent

AnswerT = TypeVar("AnswerT")

TOOLS_MAX: Final = 500
PAGES_MAX: Final = 50
RESOURCES_MAX: Final = 200
MODERN: Final = "2026-07-28"
_LOST: Final = frozenset((CONNECTION_CLOSED, REQUEST_TIMEOUT, PARSE_ERROR, INTERNAL_ERROR))
"""Codes that the SDK itself makes of a broken stream; a server's own look the same over HTTP."""


class Gone(Exception):
    """The connection broke under a call: nobody knows what became of it."""


class NeverSent(Exception):
    """The connection broke before the server got the call, or it was turned away unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a connection is made with, besides its transport."""

    wire: str = "auto"
    remote: bool = False
    ask: ElicitationFnT | None = None
    """Answers what a server wants to know of a person; None: it hears that there is none."""
    changed: Callable[[], None] | None = None
    """Called when the server says that its tools have changed."""


class Live:
    """A connection. Use from any task; it ends with `connected`."""

    def __init__(self, client: Client, guard: Guard, options: Options) -> None:
        self.client = client
        self.guard = guard
        self._options = options
        self._busy = 0
        self._idle = anyio.Event()

    @property
    def modern(self) -> bool:
        """Does it speak the wire of 2026?"""
        return self.client.protocol_version == MODERN

    async def definitions(self) -> kept.Definitions:
        """Ask for all tools. Raises `Gone`, `MCPError`."""
        tools: list[Mapping[str, Json]] = []
        capabilities = self.client.server_capabilities
        cursor: str | None = None
        for _ in range(PAGES_MAX if capabilities.tools is not None or self.modern else 0):
            page = await self._asked(self.client.list_tools(cursor=cursor))
            for tool in page.tools:
                raw = tool.model_dump(by_alias=True, mode="json", exclude_none=True)
                tools.append(kept.compared(raw))
            cursor = page.next_cursor
            if cursor is None or len(tools) > TOOLS_MAX:
                break
        if len(tools) > TOOLS_MAX or cursor is not None:
            self.guard.cut(f"it offers more than {TOOLS_MAX} tools")
            raise Gone(self.guard.reason)
        named = {str(tool["name"]): tool for tool in tools}
        info = self.client.server_info
        return kept.Definitions(
            tools=tuple(named[name] for name in sorted(named)),
            resources=capabilities.resources is not None,
            tasks=self._tasks(),
            server=f"{info.name} {info.version}"[:200] if info else "",
            wire=self.client.protocol_version,
        )

    def _tasks(self) -> Literal["", "2025-11-25", "2026-07-28"]:
        capabilities = self.client.server_capabilities
        if self.modern:
            return MODERN if remote_tasks.IDENTIFIER in (capabilities.extensions or {}) else ""
        requests = capabilities.tasks.requests if capabilities.tasks is not None else None
        tools = requests.tools if requests is not None else None
        return "2025-11-25" if tools is not None and tools.call is not None else ""

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Json],
        *,
        meta: Mapping[str, Json],
        as_task: bool = False,
        ttl_ms: int = 0,
        begun: Callable[[str], None] | None = None,
    ) -> CallToolResult:
        """Call a tool; `begun` gets the id if it becomes a task.

        Raises:
            MCPError: the server says that it did not do it.
            Gone: nothing is known. NeverSent: it did not get it.
        """
        token = remote_tasks.told.set(begun)
        try:
            if as_task and not self.modern:
                return await self._asked(
                    remote_tasks.called_as_task(
                        self.client.session, name, arguments, meta, ttl_ms=ttl_ms
                    )
                )
            return await self._asked(
                self.client.call_tool(name, dict(arguments), meta=dict(meta) or None)  # type: ignore[arg-type]
            )
        finally:
            remote_tasks.told.reset(token)

    async def attach(self, task_id: str) -> CallToolResult:
        """Wait for a task that an earlier call has become. Raises as `call`."""
        return await self._asked(
            remote_tasks.finished(self.client.session, task_id, modern=self.modern)
        )

    async def stop_task(self, task_id: str) -> None:
        """Ask the server to stop a task. Raises as `call`."""
        await self._asked(remote_tasks.cancelled(self.client.session, task_id))

    async def resources(self) -> str:
        """The resources it lists, a line each. Raises as `call`."""
        lines: list[str] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await self._asked(self.client.list_resources(cursor=cursor))
            for each in page.resources:
                about = " ".join((each.description or each.title or "").split())[:200]
                lines.append(f"{each.uri}  {each.name}  {about}".rstrip())
            cursor = page.next_cursor
            if cursor is None or len(lines) >= RESOURCES_MAX:
                break
        more = ["[there are more]"] if cursor is not None else []
        return "\n".join([*lines[:RESOURCES_MAX], *more]) or "there are none"

    async def read(self, uri: str) -> ReadResourceResult:
        """One resource. Raises as `call`."""
        return await self._asked(self.client.read_resource(uri))

    async def _asked(self, request: Awaitable[AnswerT]) -> AnswerT:
        ids: list[str | int] = []
        token = sent.set(ids)
        self._busy += 1
        try:
            return await request
        except MCPError as error:
            raise self._judged(error, ids) from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, RuntimeError) as error:
            # The SDK says RuntimeError of a session that is closed, and of a result it cannot read.
            if ids and ids[-1] in self.guard.unsent:
                raise NeverSent(self._why(str(error))) from error
            raise Gone(self._why(f"what it sent cannot be read: {error}")) from error
        except ValueError as error:  # pydantic's: an answer that breaks the protocol
            self.guard.no_message(str(error))
            raise Gone(self._why("its answer breaks the protocol")) from error
        finally:
            sent.reset(token)
            self._busy -= 1
            self._idle.set()
            if ids:
                self.guard.took_back(ids[-1])

    def _judged(self, error: MCPError, ids: list[str | int]) -> Exception:
        code, message = error.error.code, error.error.message
        last = ids[-1] if ids else None
        if last is None or last in self.guard.unsent:
            return NeverSent(self._why(message))
        if (status := self.guard.refused.get(last)) is not None and code in (
            INTERNAL_ERROR, INVALID_REQUEST,
        ):  # fmt: skip
            if message == "Session terminated":
                self.guard.cut("it has ended the session", breach=False)
                return NeverSent(message)
            return MCPError(code, f"{message} (HTTP {status})")
        if code == CONNECTION_CLOSED or (self._options.remote and code in _LOST):
            return Gone(self._why(message))
        if (
            self._options.remote
            and code == INVALID_REQUEST
            and message.startswith(
                ("Unexpected content type", "server answered a request with 202")
            )
        ):
            return Gone(self._why(message))
        return error

    async def idle(self) -> None:
        """Return when nobody is in the middle of a call: whoever was answered has read it then."""
        while self._busy:
            self._idle = anyio.Event()
            await self._idle.wait()

    def _why(self, said: str) -> str:
        return self.guard.reason or said

    async def watch(self) -> None:
        """Hear of changed tools on the wire of 2026, where the server offers to tell."""
        tools = self.client.server_capabilities.tools
        if not self.modern or tools is None or not tools.list_changed:
            return
        try:
            async with self.client.listen(tools_list_changed=True) as subscription:
                async for _ in subscription:
                    if self._options.changed is not None:
                        self._options.changed()
        except Exception:  # noqa: BLE001 - a stranger's server; nothing depends on it
            pass  # the tools are asked for again from time to time all the same


@asynccontextmanager
async def connected(
    transport: AbstractAsyncContextManager[TransportStreams], guard: Guard, options: Options
) -> AsyncIterator[Live]:
    """A connection on a transport; it ends when the guard cuts it, too.

    Raises:
        Exception: whatever the transport and the SDK raise; `guard.reason` says it better.
    """

    for name in ("client", "mcp.client", "httpx2", "httpcore2"):
        # They log headers, session ids and bodies; what matters stands in the guard's reason.
        logging.getLogger(name).setLevel(logging.CRITICAL)

    async def heard(message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification) and options.changed is not None:
            options.changed()

    client = Client(
        guard.around(transport),
        message_handler=heard,
        elicitation_callback=options.ask,
        client_info=Implementation(name="agent-runtime", version=__version__),
        mode={"auto": "auto", "2025": "legacy"}.get(options.wire, options.wire),
        extensions=[remote_tasks.Tasks()],
        cache=None,
    )
    async with client:
        client.session.validate_tool_result = _believed  # type: ignore[method-assign]
        live = Live(client, guard, options)
        guard.modern = live.modern
        async with anyio.create_task_group() as tg:
            tg.start_soon(live.watch)
            try:
                yield live
            finally:
                tg.cancel_scope.cancel()


async def _believed(name: str, result: CallToolResult) -> None:
    """In place of the SDK's check."""
