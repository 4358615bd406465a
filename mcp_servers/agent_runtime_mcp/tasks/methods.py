"""The requests about tasks, on both wires, behind the SDK, which knows none of them.

On the stateless wire (2026-07-28) tasks are the extension `io.modelcontextprotocol/tasks`: the
server decides which calls become one, for clients that say that they know it. On the wire with
sessions the client asks for it (`task` beside the arguments), in the form of 2025-11-25; revisions
before that know no tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import anyio
import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types.jsonrpc import CONNECTION_CLOSED, HEADER_MISMATCH
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agent_runtime.errors import AgentRuntimeError
from agent_runtime.types import Json
from agent_runtime_mcp.conversing import Context, Conversation
from agent_runtime_mcp.definitions import (
    McpFault,
    McpServer,
    TaskView,
    ToolDefinition,
    Unsupported,
)
from agent_runtime_mcp.tasks.book import Book, NoTask
from agent_runtime_mcp.tasks.forms import (
    ENDED,
    IMMEDIATE,
    RELATED,
    detailed_task,
    extension_task,
    missing_capability,
    payload,
    session_task,
)
from agent_runtime_mcp.wire import (
    META_CAPABILITIES,
    METHOD_NOT_FOUND,
    TASKS_EXTENSION,
    call_result,
    mapping,
)

log = logging.getLogger(__name__)

SESSION_FORM: Final = "2025-11-25"
"""The only revision with sessions that knows tasks."""
WAIT_SECONDS: Final = 15.0
"""Between two looks at a task whose result is waited for."""

Wire = dict[str, Json]
Handler = Callable[[Context, Any], Awaitable[Wire]]


class UpdateTaskParams(types.GetTaskRequestParams):
    """Of `tasks/update`."""

    input_responses: dict[str, Any]


class TaskNotification(types.Notification[dict[str, Any], str]):
    """`notifications/tasks` and `notifications/tasks/status`: the whole task."""


class TaskMethods:
    """What a server answers about tasks; one for each `SdkServer`."""

    def __init__(
        self, server: McpServer, book: Book, asked: Callable[[Context], Conversation]
    ) -> None:
        self._server = server
        self._book = book
        self._asked = asked
        self._out: set[tuple[str, str]] = set()
        """Questions (of which task, which) that a client is being asked just now."""

    def handlers(self) -> list[tuple[str, type[Any], Handler]]:
        """Method, type of its parameters, and what answers it."""
        return [
            ("tasks/get", types.GetTaskRequestParams, self._get),
            ("tasks/cancel", types.CancelTaskRequestParams, self._cancel),
            ("tasks/update", UpdateTaskParams, self._update),
            ("tasks/result", types.GetTaskPayloadRequestParams, self._result),
            ("tasks/list", types.PaginatedRequestParams, self._list),
        ]

    # ---- calls that become tasks ---------------------------------------------------------

    async def instead(
        self,
        context: Context,
        tool: ToolDefinition,
        arguments: Mapping[str, Json],
        asked: Conversation,
    ) -> Wire | None:
        """The answer to a call that is not simply run; None: it is.

        Raises:
            McpFault: it can only be a task, and its client does not know any.
        """
        if not self._book.may_begin(tool):
            return None
        if not _is_modern(context):
            # A client of this revision asks for a task: `middleware` has looked for that.
            if tool.task_support == "required" and context.protocol_version == SESSION_FORM:
                raise McpFault(
                    METHOD_NOT_FOUND, f"{tool.name} runs only as a task: send `task` with the call"
                )
            return None
        if not _knows_extension(asked):
            if tool.task_support == "required":
                raise missing_capability()
            return None
        begun = await self._book.begin(tool, arguments, asked)
        if isinstance(begun, NoTask):
            return call_result(begun.answer) if begun.answer is not None else None
        return {"resultType": "task", **extension_task(begun)}

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Calls of 2025-11-25 with `task`: the SDK would not let their answers through."""
        params = mapping(ctx.params)
        if (
            ctx.method != "tools/call"
            or ctx.protocol_version != SESSION_FORM
            or not isinstance(params.get("task"), Mapping)
        ):
            return await call_next(ctx)
        name, arguments = params.get("name"), params.get("arguments") or {}
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            return await call_next(ctx)
        asked = self._asked(ctx)
        try:
            tool = await self._server.tool(name, asked)
            if tool is None:
                raise McpFault(McpFault.INVALID_PARAMS, f"there is no tool {name!r}")
            if not self._book.may_begin(tool):
                raise McpFault(
                    METHOD_NOT_FOUND, f"{name} does not run as a task: call it without `task`"
                )
            ttl = mapping(params["task"]).get("ttl")
            ttl_ms = int(ttl) if isinstance(ttl, (int, float)) and 0 < ttl < 1e15 else None
            begun = await self._book.begin(tool, arguments, asked, ttl_ms=ttl_ms)
        except McpFault as fault:
            raise MCPError(code=fault.code, message=fault.message, data=fault.data) from None
        except AgentRuntimeError as error:
            raise MCPError(code=McpFault.INTERNAL, message=str(error)) from None
        if isinstance(begun, NoTask):
            if begun.answer is None:
                plain = {key: value for key, value in params.items() if key != "task"}
                return await call_next(replace(ctx, params=plain))
            # Whoever asks for a task gets one, or an error.
            raise MCPError(code=McpFault.INVALID_PARAMS, message=_text_of(begun))
        now = f"Task {begun.task_id} ({name}) goes on in the background; its result comes later."
        return {"task": session_task(begun), "_meta": {IMMEDIATE: now}}

    # ---- requests ------------------------------------------------------------------------

    async def _get(self, context: Context, params: types.GetTaskRequestParams) -> Wire:
        asked = self._require(context, params.task_id)
        view = await self._book.view(params.task_id, asked)
        return detailed_task(view) if _is_modern(context) else session_task(view)

    async def _cancel(self, context: Context, params: types.CancelTaskRequestParams) -> Wire:
        asked = self._require(context, params.task_id)
        if _is_modern(context):
            await self._book.cancel(params.task_id, asked)
            return {}
        view = await self._book.view(params.task_id, asked)
        if view.status in ENDED:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"Cannot cancel task {view.task_id}: it has ended as {view.status!r} already",
            )
        return session_task(await self._book.cancel(params.task_id, asked))

    async def _update(self, context: Context, params: UpdateTaskParams) -> Wire:
        if not _is_modern(context):
            raise _unknown("tasks/update")
        asked = self._require(context, params.task_id)
        answers = {
            name: answer
            for name, answer in params.input_responses.items()
            if isinstance(answer, Mapping)
        }
        await self._book.answer(params.task_id, answers, asked)
        return {}

    async def _list(self, context: Context, params: types.PaginatedRequestParams) -> Wire:
        if context.protocol_version != SESSION_FORM:
            raise _unknown("tasks/list")
        page = await self._book.page(self._asked(context), params.cursor or "")
        result: Wire = {"tasks": [session_task(view) for view in page.items]}
        if page.next_cursor:
            result["nextCursor"] = page.next_cursor
        return result

    async def _result(self, context: Context, params: types.GetTaskPayloadRequestParams) -> Wire:
        """Wait for the end; meanwhile ask this client what the task asks."""
        if context.protocol_version != SESSION_FORM:
            raise _unknown("tasks/result")
        asked = self._asked(context)
        view = await self._book.view(params.task_id, asked)
        async with anyio.create_task_group() as asking:
            # A fault must come out of the group as itself: so it is looked for, not raised, here.
            while view.status not in ENDED:
                for name, (method, question) in view.questions.items():
                    if (view.task_id, name) not in self._out:
                        asking.start_soon(self._ask, asked, view, name, method, question)
                await self._book.changed(view, WAIT_SECONDS)
                before, found = view, await self._view_again(view, asked)
                if found is None:
                    break
                view = found
                if view.status != before.status:
                    await _tell_status(context, view)
            asking.cancel_scope.cancel()
        if view.status not in ENDED:
            view = await self._book.view(params.task_id, asked)
        return payload(view)

    async def _view_again(self, view: TaskView, asked: Conversation) -> TaskView | None:
        try:
            return await self._book.view(view.task_id, asked)
        except (McpFault, AgentRuntimeError):
            return None  # it is forgotten, or cannot be read just now

    async def _ask(
        self,
        asked: Conversation,
        view: TaskView,
        name: str,
        method: str,
        question: Mapping[str, Json],
    ) -> None:
        key = (view.task_id, name)
        if key in self._out:
            return
        self._out.add(key)
        try:
            meta = {**mapping(question.get("_meta")), RELATED: {"taskId": view.task_id}}
            try:
                answer = await asked.request(method, {**question, "_meta": meta})
            except Unsupported as why:
                cause = why.__cause__
                gone = isinstance(cause, MCPError) and cause.error.code == CONNECTION_CLOSED
                if gone or method != "elicitation/create":
                    return
                # It cannot show the question: as if its person had waved it away.
                answer = {"action": "cancel"}
            await self._book.answer(view.task_id, {name: answer}, asked)
        except (McpFault, AgentRuntimeError) as why:
            log.warning("an answer to %s could not be taken: %s", view.task_id, why)
        finally:
            self._out.discard(key)

    # ---- telling -------------------------------------------------------------------------

    async def followed(
        self, context: Context, wanted: types.SubscriptionFilter, tasks_max: int
    ) -> tuple[types.SubscriptionFilter, list[TaskView]]:
        """Which tasks a client that listens hears of: those of `taskIds` that it may know.

        Raises:
            McpFault: it follows tasks and has not said that it knows them, or follows too many.
        """
        extra = wanted.model_extra or {}
        task_ids = extra.get("taskIds")
        if not isinstance(task_ids, list) or not task_ids:
            return wanted, []
        asked = self._asked(context)
        if not _knows_extension(asked):
            raise missing_capability()
        if len(task_ids) > tasks_max:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"{len(task_ids)} tasks to follow; one client may have {tasks_max}",
            )
        views = []
        for task_id in dict.fromkeys(each for each in task_ids if isinstance(each, str)):
            try:
                views.append(await self._book.view(task_id, asked))
            except McpFault:
                continue  # it is not told of: the acknowledgement leaves it out
        agreed = wanted.model_copy(update={"taskIds": [view.task_id for view in views]})
        return agreed, views

    async def tell(self, context: Context, view: TaskView, meta: Mapping[str, Json]) -> None:
        """How a task stands now, and each time that this changes, until it has ended."""
        asked, seen = self._asked(context), None
        while True:
            if view != seen:
                told = TaskNotification(
                    method="notifications/tasks", params={**detailed_task(view), "_meta": meta}
                )
                await context.session.send_notification(cast(Any, told), context.request_id)
                seen = view
            if view.status in ENDED:
                return
            await self._book.changed(view, WAIT_SECONDS)
            found = await self._view_again(view, asked)
            if found is None:
                return
            view = found

    def _require(self, context: Context, task_id: str) -> Conversation:
        """The request, if its client may speak of tasks.

        Raises:
            McpFault, MCPError: it may not, or its headers say something else than its body.
        """
        asked = self._asked(context)
        if not _is_modern(context):
            if context.protocol_version != SESSION_FORM:
                raise _unknown(context.method)
            return asked
        # What stands between client and server may have sent it here by its header.
        headers = getattr(context.request, "headers", None)
        if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != task_id:
            raise MCPError(
                code=HEADER_MISMATCH,
                message=f"{MCP_NAME_HEADER} header does not match the request body's 'taskId'",
            )
        if not _knows_extension(asked):
            raise missing_capability()
        return asked


async def _tell_status(context: Context, view: TaskView) -> None:
    told = TaskNotification(method="notifications/tasks/status", params=session_task(view))
    await context.session.send_notification(cast(Any, told), context.request_id)


def _is_modern(context: Context) -> bool:
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS


def _knows_extension(asked: Conversation) -> bool:
    said = mapping(asked.meta.get(META_CAPABILITIES))
    return TASKS_EXTENSION in mapping(said.get("extensions"))


def _unknown(method: str) -> McpFault:
    return McpFault(METHOD_NOT_FOUND, "Method not found", method)


def _text_of(refused: NoTask) -> str:
    assert refused.answer is not None
    return "; ".join(str(block.get("text", "")) for block in refused.answer.content)
