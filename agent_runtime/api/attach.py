"""A WebSocket on a task: its events as they come, and what its person says to it, on one line.

Both sides send JSON texts. The server: `{"type": "event", "event": {…}}` (as the log has it),
`{"type": "output", "text"}` (a model's words as they come; stored nowhere), `{"type": "done", "id",
"task"}` or `{"type": "problem", "id", "problem": {…}}` for what was asked. The client: `{"type":
"steer", "message"}`, `{"type": "pause" | "resume" | "cancel"}`, `{"type": "approve" | "deny",
"approval_id", "message", "scope", "arguments"}`, each with an `id` of its own choice, if it wants
to know.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import anyio
import msgspec
from msgspec import Meta

from agent_runtime.access.callers import APPROVALS_DECIDE, TASKS_READ, TASKS_WRITE, Caller
from agent_runtime.api.answers import Receive, Scope, Send
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.problems import problem, problem_of
from agent_runtime.api.recording import record, refused
from agent_runtime.api.streams import OUTPUT_CHARS_MAX, OUTPUT_SECONDS
from agent_runtime.api.views import view_of
from agent_runtime.errors import AgentRuntimeError, Fault, NotFound, UsageError
from agent_runtime.loop import events as e
from agent_runtime.types import TERMINAL_STATUSES, TaskId

GOING_AWAY: Final = 1001
POLICY: Final = 1008
TRY_AGAIN: Final = 1013
NOT_FOUND: Final = 4404
"""Codes for applications begin with 4 (RFC 6455, 7.4.2); the rest is HTTP's."""


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person says."""

    type: Literal["steer", "pause", "resume", "cancel", "approve", "deny"]
    id: str | int | None = None
    message: Annotated[str, Meta(max_length=100_000)] = ""
    approval_id: str | None = None
    scope: Literal["once", "task"] = "once"
    arguments: dict[str, Any] | None = None


_read = msgspec.json.Decoder(Said).decode


class Attach:
    """`/v1/tasks/{task_id}/attach?after=N`, as an ASGI application."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Until the task ends, one side goes, or the daemon stops."""
        caller: Caller = scope["caller"]
        await receive()  # the wish to connect
        if TASKS_READ not in caller.scopes:
            await send({"type": "websocket.close", "code": POLICY})
            return
        task_id = TaskId(scope["path_params"]["task_id"])
        try:
            summary = await self._daemon.runtime.ports.store.summary(task_id)
        except NotFound:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": NOT_FOUND, "reason": "no such task"})
            return
        except AgentRuntimeError:
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": TRY_AGAIN, "reason": "try again"})
            return
        await send({"type": "websocket.accept"})
        line = _Line(self._daemon, task_id, scope, receive, send)
        after = _after(scope["query_string"])
        async with anyio.create_task_group() as tg:

            async def hear() -> None:
                await line.hear()
                tg.cancel_scope.cancel()

            tg.start_soon(hear)
            tg.start_soon(line.say_output)
            ended = summary.status in TERMINAL_STATUSES and after >= summary.seq
            await line.follow(min(after, summary.seq), ended=ended)
            tg.cancel_scope.cancel()
        if line.is_open:
            await send({"type": "websocket.close", "code": line.code})


class _Line:
    """One connection."""

    def __init__(
        self, daemon: Daemon, task_id: TaskId, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._daemon = daemon
        self._task_id = task_id
        self._scope = scope
        self._caller: Caller = scope["caller"]
        self._receive = receive
        self._send = send
        self.is_open = True
        self.code = 1000

    async def follow(self, cursor: int, *, ended: bool) -> None:
        hub = self._daemon.hub
        with hub.follow(self._task_id) as topic:
            while not hub.is_closed:
                grown = topic.grown
                try:
                    news = await hub.news(topic, cursor)
                except NotFound:
                    return
                except AgentRuntimeError:
                    self.code = TRY_AGAIN
                    return
                for event in news:
                    cursor = event.cursor
                    # The frame's data line, without asking the store again.
                    data = event.frame.partition(b"\ndata: ")[2][:-2]
                    await self._tell(b'{"type":"event","event":%b}' % data)
                if not news:
                    if ended:
                        return
                    await grown.wait()
                # A page may end where a task ended that was continued since: look once more.
                ended = bool(news) and news[-1].type == e.TaskEnded.__name__
        self.code = GOING_AWAY

    async def say_output(self) -> None:
        words: list[str] = []
        said = anyio.Event()

        def heard(text: str) -> None:
            words.append(text)
            said.set()

        stop = self._daemon.runtime.listen(self._task_id, heard)
        try:
            while True:
                await said.wait()
                await anyio.sleep(OUTPUT_SECONDS)
                said = anyio.Event()
                text = "".join(words)[-OUTPUT_CHARS_MAX:]
                words.clear()
                await self._tell(msgspec.json.encode({"type": "output", "text": text}))
        finally:
            stop()

    async def hear(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self.is_open = False
                return
            if message["type"] == "websocket.receive":
                text = message.get("text")
                raw = text.encode() if text is not None else message.get("bytes") or b""
                await self._tell(msgspec.json.encode(await self._answer(raw)))

    async def _answer(self, raw: bytes) -> dict[str, Any]:
        try:
            said = _read(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            detail = f"the message is not valid: {error}"
            wrong = problem(422, "invalid-input", "The input is not valid", detail)
            return {"type": "problem", "id": None, "problem": msgspec.Raw(wrong.body)}
        needed = APPROVALS_DECIDE if said.type in ("approve", "deny") else TASKS_WRITE
        if needed not in self._caller.scopes:
            refused(self._daemon, self._scope, needed)
            detail = f"{said.type} needs the scope {needed!r}"
            wrong = problem(403, "forbidden", "Your key does not allow this", detail)
            return {"type": "problem", "id": said.id, "problem": msgspec.Raw(wrong.body)}
        try:
            await self._do(said)
            decides = needed == APPROVALS_DECIDE
            action = "approval.decide" if decides else f"task.{said.type}"
            detail = said.type if decides else ""
            await record(self._daemon, self._scope, action, self._task_id, detail=detail)
            summary = await self._daemon.runtime.ports.store.summary(self._task_id)
        except AgentRuntimeError as error:
            body = problem_of(error).body
            return {"type": "problem", "id": said.id, "problem": msgspec.Raw(body)}
        return {"type": "done", "id": said.id, "task": view_of(summary)}

    async def _do(self, said: Said) -> None:
        runtime, task_id, by = self._daemon.runtime, self._task_id, self._caller.by
        match said.type:
            case "steer" if not said.message:
                raise UsageError("steer needs a message", faults=[Fault(("message",), "is empty")])
            case "steer":
                await runtime.steer(task_id, said.message, by=by)
            case "pause":
                await runtime.pause(task_id, by=by)
            case "resume":
                await runtime.resume(task_id, by=by)
            case "cancel":
                await runtime.cancel(task_id, by=by, reason=said.message)
            case "approve" | "deny":
                await runtime.decide_approval(
                    task_id,
                    said.approval_id,
                    said.type,
                    by=by,
                    message=said.message,
                    scope=said.scope,
                    arguments=said.arguments,
                )

    async def _tell(self, body: bytes) -> None:
        await self._send({"type": "websocket.send", "text": body.decode()})


def _after(query: bytes) -> int:
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"after" and value.isdigit() and len(value) <= 18:
            return int(value)
    return 0
