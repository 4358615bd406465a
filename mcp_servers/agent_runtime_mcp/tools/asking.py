"""Asking the person at the client whether a call may run: elicitation, where that can be done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import anyio
import msgspec

from agent_runtime.access.callers import APPROVALS_DECIDE
from agent_runtime.loop.events import ApprovalRequested
from agent_runtime.toolkit import cap
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import Asked, Unsupported

PREVIEW_CHARS_MAX: Final = 4000
_ONCE, _ALWAYS, _NO = "approve", "approve all of this kind", "deny"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decided:
    """What a person said."""

    decision: Literal["approve", "deny"]
    scope: Literal["once", "task"] = "once"
    message: str = ""


def may_ask(asked: Asked) -> bool:
    """Is there a person at the client who may decide?"""
    return asked.caller.may(APPROVALS_DECIDE) and asked.can("elicitation")


def name_of(request: ApprovalRequested) -> str:
    """Of the question about it: never used for another one of the same call."""
    return f"approval_{request.approval_id}"


async def decision(request: ApprovalRequested, asked: Asked, state: str) -> Decided | None:
    """Ask; None: nobody decided. On the stateless wire the request ends here and comes again."""
    name = name_of(request)
    try:
        answers = await asked.ask({name: ("elicitation/create", question(request))}, state=state)
    except Unsupported:
        return None
    return read(answers.get(name, {}))


def question(request: ApprovalRequested) -> dict[str, Json]:
    """Params of the elicitation."""
    arguments = msgspec.json.format(msgspec.json.encode(request.arguments), indent=2).decode()
    # In full, however long: what is allowed is what was shown.
    text = f"May {request.tool} be called with these arguments?\n\n{arguments}"
    if request.preview:
        text += f"\n\nWhat it would change:\n{cap(request.preview, PREVIEW_CHARS_MAX)}"
    choices = [_ONCE, _ALWAYS, _NO] if request.rule else [_ONCE, _NO]
    return {
        "mode": "form",
        "message": text,
        "requestedSchema": {
            "type": "object",
            "properties": {
                "decision": {"type": "string", "title": "Decision", "enum": choices},
                "message": {"type": "string", "title": "What the client's model is told if not"},
            },
            "required": ["decision"],
        },
    }


def read(answer: Mapping[str, Json]) -> Decided | None:
    """Result of the elicitation; None: nobody decided."""
    content = answer.get("content")
    given = content if isinstance(content, Mapping) else {}
    message = given.get("message")
    said = message if isinstance(message, str) else ""
    match answer.get("action"), given.get("decision"):
        case "accept", str(choice) if choice == _ONCE:
            return Decided("approve", message=said)
        case "accept", str(choice) if choice == _ALWAYS:
            return Decided("approve", "task", said)
        case ("accept", str(choice)) if choice == _NO:
            return Decided("deny", message=said)
        case "decline", _:
            return Decided("deny", message=said or "the person at the client declined")
        case _:
            return None  # closed without an answer: it can still be given elsewhere


async def beside(
    main: Callable[[], Awaitable[T]],
    *others: Callable[[anyio.CancelScope], Coroutine[None, None, None]],
) -> T | None:
    """The result of `main`; `others` run until then. None: one of them cancelled the scope.

    What `main` raises comes out as it is: an exception may be how a wire ends a request.
    """
    done: T | None = None
    fault: Exception | None = None
    async with anyio.create_task_group() as tasks:
        for other in others:
            tasks.start_soon(other, tasks.cancel_scope)
        try:
            done = await main()
        except Exception as error:  # noqa: BLE001 - raised again below
            fault = error
        tasks.cancel_scope.cancel()
    if fault is not None:
        raise fault
    return done
