"""A server as the SDK serves it: every method, every revision, whatever the transport.

The short way (`direct`) answers the hot methods without it; what that leaves comes here, so this
file alone must already be a complete server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.abc
import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
    event_matches,
    event_to_notification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent_runtime.access.callers import Caller
from agent_runtime.errors import AgentRuntimeError, UsageError
from agent_runtime.types import Json
from agent_runtime_mcp.conversing import Context, Conversation, InputNeeded
from agent_runtime_mcp.definitions import Change, McpFault, McpServer, TaskView
from agent_runtime_mcp.tasks.book import Book
from agent_runtime_mcp.tasks.methods import TaskMethods
from agent_runtime_mcp.wire import (
    LIST_SECONDS,
    call_result,
    capabilities,
    prompt_entry,
    refusal,
    resource_entry,
    server_info,
    told,
    tool_entry,
)

log = logging.getLogger(__name__)

Wire = dict[str, Json]

STATE_SECONDS: Final = 3600.0
"""How long a client may take to answer what it was asked."""
LISTENERS_MAX: Final = 1024
URIS_MAX: Final = 256
"""That one client may follow at a time."""
COMPLETIONS_MAX: Final = 100
OVERLAP_SECONDS: Final = 1.2
"""So long a client that follows one more document is told by the old and by the new look."""

_EVENTS: Final[Mapping[str, Callable[[], ServerEvent]]] = {
    "tools": ToolsListChanged,
    "resources": ResourcesListChanged,
    "prompts": PromptsListChanged,
}


@dataclass(frozen=True, slots=True)
class Who:
    """Whose request it is, and the options of the address that they use."""

    caller: Caller
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Following:
    """Which documents a client with a session follows."""

    uris: set[str] = field(default_factory=set)
    scope: anyio.CancelScope | None = None


class SdkServer(Server[anyio.abc.TaskGroup]):
    """One `McpServer` behind the SDK's server. Its lifespan is the task group of the listeners."""

    def __init__(
        self,
        server: McpServer,
        who: Callable[[Context], Who],
        secret: bytes,
        book: Book | None = None,
    ) -> None:
        """`who` tells whose request a context is; `secret` (32 bytes or more) seals what clients
        carry for us between two rounds, so it must outlive the process. `book` has its tasks;
        None: no call becomes one."""
        info = server_info(server)
        listing = CacheHint(ttl_ms=LIST_SECONDS * 1000, scope="private")
        super().__init__(
            info["name"],
            version=info["version"],
            title=info["title"],
            instructions=server.instructions,
            lifespan=_listeners,
            cache_hints={
                "tools/list": listing,
                "prompts/list": listing,
                "resources/list": CacheHint(),
                "resources/templates/list": listing,
                "resources/read": CacheHint(),
            },
        )
        self._server = server
        self._who = who
        self._listening = 0
        security = RequestStateSecurity(
            keys=[secret], ttl=STATE_SECONDS, bind_principal=lambda context: who(context).caller.by
        )
        self.middleware.append(RequestStateBoundary(security, default_audience=server.name))
        self._tasks = TaskMethods(server, book, self.asked) if book is not None else None
        if self._tasks is not None:
            self.middleware.append(self._tasks.middleware)
        handlers: list[tuple[str, Any, Any]] = [
            ("tools/list", types.PaginatedRequestParams, self._list_tools),
            ("tools/call", types.CallToolRequestParams, self._call_tool),
            ("logging/setLevel", types.SetLevelRequestParams, _set_level),
            ("subscriptions/listen", types.SubscriptionsListenRequestParams, self._listen),
        ]
        if server.has_resources:
            handlers += [
                ("resources/list", types.PaginatedRequestParams, self._list_resources),
                ("resources/templates/list", types.PaginatedRequestParams, self._list_templates),
                ("resources/read", types.ReadResourceRequestParams, self._read_resource),
                ("resources/subscribe", types.SubscribeRequestParams, self._subscribe),
                ("resources/unsubscribe", types.UnsubscribeRequestParams, self._unsubscribe),
            ]
        if server.has_prompts:
            handlers += [
                ("prompts/list", types.PaginatedRequestParams, self._list_prompts),
                ("prompts/get", types.GetPromptRequestParams, self._get_prompt),
            ]
        if server.has_completion:
            handlers.append(("completion/complete", types.CompleteRequestParams, self._complete))
        if self._tasks is not None:
            handlers += self._tasks.handlers()
        for method, params, handler in handlers:
            self.add_request_handler(method, params, _told_as_faults(handler))
        self.add_notification_handler(
            "notifications/initialized", types.NotificationParams, self._initialized
        )
        self.add_notification_handler(
            "notifications/roots/list_changed", types.NotificationParams, self._roots_changed
        )
        # Without it the SDK lists all tools again for each call that has arguments.
        self.get_tool_input_schema = server.input_schema

    def get_capabilities(
        self, *_: Any, protocol_version: str | None = None, **__: Any
    ) -> types.ServerCapabilities:
        """Every list may change while somebody listens, whatever the revision."""
        found = capabilities(
            self._server,
            modern=protocol_version in MODERN_PROTOCOL_VERSIONS,
            tasks=self._tasks is not None,
        )
        return types.ServerCapabilities.model_validate(found)

    def asked(self, context: Context) -> Conversation:
        """The request as servers see it."""
        who = self._who(context)
        return Conversation(context, who.caller, who.query)

    # ---- tools ---------------------------------------------------------------------------

    async def _list_tools(self, context: Context, _: Any) -> Wire:
        asked = self.asked(context)
        tools = await self._server.tools(asked)
        return {
            "tools": [
                tool_entry(each, tasks=self._tasks is not None)
                for each in tools
                if not each.scope or asked.caller.may(each.scope)
            ]
        }

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> Wire:
        asked, name, arguments = self.asked(context), params.name, params.arguments or {}
        tool = await self._server.tool(name, asked)
        if tool is None:
            raise McpFault(McpFault.INVALID_PARAMS, f"there is no tool {name!r}")
        if self._tasks is not None and tool.task_support != "forbidden":
            result = await self._tasks.instead(context, tool, arguments, asked)
            if result is not None:
                return result
        answer = refusal(tool, arguments, asked)
        if answer is None:
            try:
                answer = tool.now(arguments, asked) if tool.now is not None else None
                if answer is None:
                    answer = await tool.run(arguments, asked)
            except (McpFault, InputNeeded):
                raise
            except Exception as error:  # noqa: BLE001 - a call ends with an answer, never a crash
                answer = told(tool.name, error)
        return call_result(answer)

    # ---- resources -----------------------------------------------------------------------

    async def _list_resources(self, context: Context, params: types.PaginatedRequestParams) -> Wire:
        page = await self._server.resources(self.asked(context), params.cursor or "")
        result: Wire = {"resources": [resource_entry(each) for each in page.items]}
        if page.next_cursor:
            result["nextCursor"] = page.next_cursor
        return result

    async def _list_templates(self, context: Context, _: Any) -> Wire:
        found = await self._server.resource_templates(self.asked(context))
        return {"resourceTemplates": [resource_entry(each) for each in found]}

    async def _read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> Wire:
        contents = await self._server.read_resource(str(params.uri), self.asked(context))
        return {"contents": [dict(each) for each in contents]}

    # ---- prompts -------------------------------------------------------------------------

    async def _list_prompts(self, context: Context, _: Any) -> Wire:
        return {
            "prompts": [prompt_entry(p) for p in await self._server.prompts(self.asked(context))]
        }

    async def _get_prompt(self, context: Context, params: types.GetPromptRequestParams) -> Wire:
        answer = await self._server.prompt(params.name, params.arguments or {}, self.asked(context))
        result: Wire = {"messages": [dict(each) for each in answer.messages]}
        if answer.description:
            result["description"] = answer.description
        return result

    async def _complete(self, context: Context, params: types.CompleteRequestParams) -> Wire:
        reference = params.ref.model_dump(by_alias=True, mode="json", exclude_none=True)
        known = (params.context.arguments or {}) if params.context else {}
        values = await self._server.complete(
            reference, params.argument.name, params.argument.value, known, self.asked(context)
        )
        shown = list(values[:COMPLETIONS_MAX])
        more = len(values) > len(shown)
        return {"completion": {"values": shown, "total": len(values), "hasMore": more}}

    # ---- changes -------------------------------------------------------------------------

    async def _listen(
        self, context: Context, params: types.SubscriptionsListenRequestParams
    ) -> Wire:
        """The stateless wire: the answer to this request is the stream of changes."""
        if self._listening >= LISTENERS_MAX:
            raise McpFault(McpFault.INTERNAL, f"{LISTENERS_MAX} clients listen already; try later")
        wanted = params.notifications
        uris = frozenset(wanted.resource_subscriptions or ())
        _require_few(len(uris))
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: context.request_id}
        told: Sequence[TaskView] = ()
        if self._tasks is not None:
            wanted, told = await self._tasks.followed(context, wanted, URIS_MAX)
        acknowledged = types.SubscriptionsAcknowledgedNotification(
            params=types.SubscriptionsAcknowledgedNotificationParams(
                notifications=wanted, _meta=meta
            )
        )
        self._listening += 1
        try:
            changes = self._server.changes(sorted(uris), self.asked(context))
            await context.session.send_notification(acknowledged, context.request_id)
            async with anyio.create_task_group() as following:
                for view in told:
                    assert self._tasks is not None
                    following.start_soon(self._tasks.tell, context, view, meta)
                async for change in changes:
                    event = _event(change)
                    if event_matches(wanted, uris, event):
                        await context.session.send_notification(
                            event_to_notification(event, meta), context.request_id
                        )
                following.cancel_scope.cancel()
        finally:
            self._listening -= 1
        return {"_meta": meta}

    async def _roots_changed(self, context: Context, _: Any) -> None:
        self._server.roots_changed()

    async def _initialized(self, context: Context, _: Any) -> None:
        await self._follow(context)

    async def _subscribe(self, context: Context, params: types.SubscribeRequestParams) -> Wire:
        uris = _following(context).uris
        uri = str(params.uri)
        _require_few(len(uris | {uri}))
        # One that cannot be followed would end the telling of all others.
        await self._server.may_follow(uri, self.asked(context))
        uris.add(uri)
        await self._follow(context)
        return {}

    async def _unsubscribe(self, context: Context, params: types.UnsubscribeRequestParams) -> Wire:
        _following(context).uris.discard(str(params.uri))
        await self._follow(context)
        return {}

    async def _follow(self, context: Context) -> None:
        """Tell a client with a session of changes, from now on of the documents it follows."""
        following = _following(context)
        before, following.scope = following.scope, anyio.CancelScope()
        if before is not None:
            # It may be about to see what the new one takes for how things were: better told twice.
            before.deadline = anyio.current_time() + OVERLAP_SECONDS
        session, scope, asked = context.session, following.scope, self.asked(context)
        uris = sorted(following.uris)

        async def tell(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            with scope:
                changes = self._server.changes(uris, asked)
                task_status.started()
                try:
                    async for change in changes:
                        if change.kind == "resource" and change.uri not in following.uris:
                            continue
                        notification = event_to_notification(_event(change), {})
                        await session.send_notification(notification)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return  # the client has gone
                except Exception:
                    log.exception("changes of %s are not told any more", self._server.name)

        await context.lifespan_context.start(tell)


@asynccontextmanager
async def _listeners(_: Server[Any]) -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


def _following(context: Context) -> _Following:
    """Of this session. It is kept at the connection, which the SDK hides, and ends with it."""
    connection = context.session._connection
    found: _Following | None = connection.state.get("following")
    if found is None:
        found = connection.state["following"] = _Following()

        def stop() -> None:
            if found.scope is not None:
                found.scope.cancel()

        connection.exit_stack.callback(stop)
    return found


def _event(change: Change) -> ServerEvent:
    if change.kind == "resource":
        return ResourceUpdated(uri=change.uri)
    return _EVENTS[change.kind]()


def _require_few(uris: int) -> None:
    if uris > URIS_MAX:
        raise McpFault(
            McpFault.INVALID_PARAMS, f"{uris} resources to follow; one client may have {URIS_MAX}"
        )


async def _set_level(context: Context, params: types.SetLevelRequestParams) -> Wire:
    """Levels are the client's to filter by: it gets every line of its own calls."""
    return {}


def _told_as_faults(
    handler: Callable[[Context, Any], Awaitable[Wire]],
) -> Callable[[Context, Any], Awaitable[Wire]]:
    async def run(context: Context, params: Any) -> Wire:
        try:
            result = await handler(context, params)
            if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
                result.setdefault("resultType", "complete")
            return result
        except InputNeeded as needed:
            return needed.result
        except McpFault as fault:
            raise MCPError(code=fault.code, message=fault.message, data=fault.data) from None
        except AgentRuntimeError as error:
            mistaken = isinstance(error, UsageError)
            code = McpFault.INVALID_PARAMS if mistaken else McpFault.INTERNAL
            raise MCPError(code=code, message=str(error)) from None

    return run
