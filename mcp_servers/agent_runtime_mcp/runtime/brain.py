"""The connected client's own model as the brain of a task: it pulls a turn, and answers it.

A turn is named by its task and its number, and is answered once. An answer that comes again,
because the client has lost what it was told, is taken for what it is: the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import msgspec

from agent_runtime.access.callers import TASKS_WRITE
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.hub import EVERYTHING
from agent_runtime.decisions import OpenDecision
from agent_runtime.errors import Conflict, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import turn_name
from agent_runtime.messages import Message, ToolUse
from agent_runtime.types import Json, Status, TaskId, TaskSummary
from agent_runtime_mcp.definitions import Asked, ToolAnswer, ToolDefinition
from agent_runtime_mcp.runtime import wishes
from agent_runtime_mcp.runtime.approvals import Asking
from agent_runtime_mcp.runtime.schemas import answer, make_tool
from agent_runtime_mcp.runtime.telling import told
from agent_runtime_mcp.runtime.waiting import Progress, at_rest

LOOK_SECONDS: Final = 0.2
"""Between two looks at everybody's tasks, however much happens."""
LOOKED_AT_MAX: Final = 100


class CallAsked(msgspec.Struct, frozen=True):
    """A call of the conversation."""

    id: str
    name: str
    arguments: dict[str, Json]


class MessageTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message. Of role `tool`: what the call `call_id` came to."""

    role: str
    text: str = ""
    calls: list[CallAsked] = []
    call_id: str = ""
    failed: bool = False


class ToolTold(msgspec.Struct, frozen=True):
    """A tool that the agent can call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: dict[str, Json]


class DecisionTold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The turn that is open. What was known is left out of `messages` and `tools`."""

    decision_id: str
    task_id: str
    messages: list[MessageTold]
    tools: list[ToolTold]
    messages_count: int
    """Of all: what to give as `known_messages` next time; likewise `tools_count`."""
    tools_count: int
    system: str = ""
    answer_schema: Mapping[str, Json] | None = None
    """Of the text that is wanted; without it, any text, and calls."""


class TurnTold(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that is open, if there is one, and where the task stands."""

    decision: DecisionTold | None = None
    task: dict[str, Json] | None = None
    """As `get_task` gives it."""


class BrainTools:
    """next_decision, submit_decision."""

    def __init__(self, daemon: Daemon, asking: Asking) -> None:
        self._daemon = daemon
        self._asking = asking

    def definitions(self) -> Sequence[ToolDefinition]:
        """In the order in which they are listed."""
        return (
            make_tool(
                self._next, wishes.NextDecision, answers=TurnTold, scope=TASKS_WRITE, reads=True,
                name="next_decision", title="Decide for an agent: what is asked",
                description="The next turn of a task whose brain you are (submitted or resumed with"
                " model `client`): its rules, conversation and tools. Answer it by submit_decision."
                " The tools work in the task's sandbox, not in yours.",
            ),
            make_tool(
                self._submit, wishes.SubmitDecision, answers=TurnTold, scope=TASKS_WRITE,
                repeats=True, name="submit_decision", title="Decide for an agent: answer",
                description="Answer an open decision: some text, and calls of the tools that were "
                "listed; without calls you say that the work is done, and the runtime checks it. "
                "Waits for the next decision and gives it back, or how the task ended.",
            ),
        )  # fmt: skip

    async def _next(self, wish: wishes.NextDecision, asked: Asked) -> ToolAnswer:
        if not wish.task_id:
            found = await self._any(wish, asked)
            if found is None:
                text = (
                    "None of your tasks waits for a client to decide. submit_task or resume_task "
                    'with the model "client" makes one that does.'
                )
                return answer(TurnTold(), text)
            task_id = TaskId(found.task_id)
        else:
            task_id = await self._daemon.runtime.find(wish.task_id)
        return await self._turn(task_id, wish, asked)

    async def _any(self, wish: wishes.NextDecision, asked: Asked) -> OpenDecision | None:
        """The oldest open decision of the caller's own tasks, or None after a while."""
        progress = Progress(asked, wish.wait_seconds)
        known: dict[str, int] = {}
        hub = self._daemon.hub
        if found := await self._oldest(asked, known):
            return found
        with anyio.move_on_after(wish.wait_seconds), hub.follow(EVERYTHING) as topic:
            while not hub.is_closed:
                grown = topic.grown
                if found := await self._oldest(asked, known):
                    return found
                await progress.tell("none of your tasks asks for a decision")
                await grown.wait()
                await anyio.sleep(LOOK_SECONDS)
        return None

    async def _oldest(self, asked: Asked, known: dict[str, int]) -> OpenDecision | None:
        """`known`: tasks that were looked at in vain, and where they were then."""
        runtime = self._daemon.runtime
        waiting = await runtime.tasks(
            statuses=[Status.WAITING], submitted_by=asked.caller.by, limit=LOOKED_AT_MAX
        )
        for summary in reversed(waiting):
            if summary.reason == "brain" and known.get(summary.task_id) != summary.seq:
                found = await runtime.next_decision(TaskId(summary.task_id))
                if found is not None:
                    return found
                known[summary.task_id] = summary.seq
        return None

    async def _submit(self, wish: wishes.SubmitDecision, asked: Asked) -> ToolAnswer:
        name, _, decision_id = wish.decision_id.partition(".")
        if not decision_id:
            raise UsageError(
                f"decision_id: {wish.decision_id!r} is none: next_decision gives it, TASK.TURN"
            )
        task_id = await self._daemon.runtime.find(name)
        calls = [
            ToolUse(id=call.id or f"call-{at}", name=call.name, arguments=call.arguments)
            for at, call in enumerate(wish.calls, 1)
        ]
        try:
            await self._daemon.runtime.submit_decision(
                task_id, decision_id, text=wish.text, calls=calls, by=asked.caller.by
            )
        except Conflict:
            if not await self._said_before(task_id, decision_id, wish.text, calls, asked):
                raise
        return await self._turn(task_id, wish, asked)

    async def _said_before(
        self, task_id: TaskId, decision_id: str, text: str, calls: Sequence[ToolUse], asked: Asked
    ) -> bool:
        """Is exactly this in the log, by the same caller? Clients repeat what they lost."""
        for row in await self._daemon.runtime.rows(task_id):
            if row.type != e.ModelReplied.__name__:
                continue
            said = codec.decode(row)
            assert isinstance(said, e.ModelReplied)
            if turn_name(said.step_id, said.turn) == decision_id:
                same = [(call.id, call.name, call.arguments) for call in said.calls]
                return (said.by, said.text, same) == (
                    asked.caller.by, text, [(c.id, c.name, c.arguments) for c in calls],
                )  # fmt: skip
        return False

    async def _turn(
        self, task_id: TaskId, wish: wishes.NextDecision | wishes.SubmitDecision, asked: Asked
    ) -> ToolAnswer:
        """The decision that is open when the task is at rest, or how it stands then."""
        runtime = self._daemon.runtime
        summary = await at_rest(self._daemon, self._asking, task_id, wish.wait_seconds, asked)
        found = await runtime.next_decision(task_id) if _asks(summary) else None
        if found is not None:
            view = _view(found, wish.known_messages, wish.known_tools)
            return answer(TurnTold(decision=view), _text(view))
        task, text = await told(runtime, summary)
        return answer(TurnTold(task=msgspec.to_builtins(task)), text)


def _asks(summary: TaskSummary) -> bool:
    return summary.status == Status.WAITING and summary.reason == "brain"


def _view(found: OpenDecision, known_messages: int, known_tools: int) -> DecisionTold:
    # A history that was compacted is shorter than what is known of it: it is told anew.
    messages = known_messages if known_messages <= len(found.messages) else 0
    tools = known_tools if known_tools <= len(found.tools) else 0
    return DecisionTold(
        decision_id=f"{found.task_id}.{found.decision_id}",
        task_id=found.task_id,
        system="" if messages else found.system,
        messages=[_message(each) for each in found.messages[messages:]],
        tools=[
            ToolTold(each.name, each.description, dict(each.parameters))
            for each in found.tools[tools:]
        ],
        messages_count=len(found.messages),
        tools_count=len(found.tools),
        answer_schema=found.answer_schema,
    )


def _message(message: Message) -> MessageTold:
    return MessageTold(
        role=message.role, text=message.text, call_id=message.call_id, failed=message.failed,
        calls=[CallAsked(call.id, call.name, call.arguments or {}) for call in message.calls],
    )  # fmt: skip


def _text(view: DecisionTold) -> str:
    """All of it: a client that shows its model no more than this can decide, too."""
    parts = [f"Decision {view.decision_id} is open: you decide the agent's next turn."]
    if view.system:
        parts.append(f"## Rules\n\n{view.system}")
    if view.tools:
        lines = [
            f"- {tool.name}: {tool.description}\n  arguments: {_json(tool.parameters)}"
            for tool in view.tools
        ]
        parts.append("\n".join(["## Tools of the agent", "", *lines]))
    if view.messages:
        parts.append("## Conversation" + "".join(f"\n\n{_said(each)}" for each in view.messages))
    wanted = ""
    if view.answer_schema is not None:
        wanted = f" `text` must be JSON by this schema, without calls: {_json(view.answer_schema)}"
    parts.append(
        f'## Answer\n\nsubmit_decision {{"decision_id": "{view.decision_id}", "text": "…", "calls":'
        f' [{{"name": "…", "arguments": {{…}}}}], "known_messages": {view.messages_count}, '
        f'"known_tools": {view.tools_count}}}; without calls you say that you are done.{wanted}'
    )
    return "\n\n".join(parts)


def _said(message: MessageTold) -> str:
    who = {"tool": f"result of {message.call_id}{', which failed' if message.failed else ''}"}
    lines = [f"[{who.get(message.role, message.role)}]", *([message.text] if message.text else [])]
    lines += [f"calls {call.name} as {call.id}: {_json(call.arguments)}" for call in message.calls]
    return "\n".join(lines)


def _json(value: Json) -> str:
    return msgspec.json.encode(value).decode()
