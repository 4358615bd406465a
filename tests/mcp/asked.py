"""A request as servers see it, without a wire: what a test says, and what was told and asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_runtime.access.callers import SCOPES, Caller
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import McpServer, ToolAnswer, Unsupported
from agent_runtime_mcp.wire import refusal

OWNER = Caller("local", frozenset(SCOPES), "token")


class Asks(Exception):
    """The request ends here, as on the stateless wire; it comes again with the answers."""

    def __init__(self, questions: Mapping[str, Any], state: str) -> None:
        super().__init__(f"asks {', '.join(questions)}")
        self.questions = questions
        self.state = state


@dataclass
class FakeAsked:
    """One request. `says` answers questions at once, by method; `answers` came with the request."""

    caller: Caller = OWNER
    client: str = "test 1"
    meta: Mapping[str, Json] = field(default_factory=dict)
    state: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    capabilities: frozenset[str] = frozenset()
    says: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    answers: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    told: list[tuple[float, str]] = field(default_factory=list)
    asked: list[tuple[str, Mapping[str, Json]]] = field(default_factory=list)

    def can(self, capability: str) -> bool:
        return capability in self.capabilities

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        self.told.append((progress, message or ""))

    async def log(self, level: str, data: Json, logger: str | None = None) -> None:
        self.told.append((0, f"{level}: {data}"))

    async def ask(
        self, questions: Mapping[str, tuple[str, Mapping[str, Json]]], *, state: str = ""
    ) -> Mapping[str, Mapping[str, Json]]:
        if not self.capabilities:
            raise Unsupported("it can be asked nothing")
        self.asked += list(questions.values())
        if all(name in self.answers for name in questions):
            return {name: self.answers[name] for name in questions}
        if all(method in self.says for method, _ in questions.values()):
            return {name: self.says[method] for name, (method, _) in questions.items()}
        raise Asks(questions, state)


async def call(
    server: McpServer, name: str, asked: FakeAsked | None = None, /, **arguments: Any
) -> ToolAnswer:
    """Call a tool as a wire does, its scope and its schema looked at first."""
    asked = asked or FakeAsked()
    tool = await server.tool(name, asked)
    assert tool is not None, f"there is no tool {name!r}"
    refused = refusal(tool, arguments, asked)
    return refused if refused is not None else await tool.run(arguments, asked)


def text_of(answer: ToolAnswer) -> str:
    """All its texts."""
    return "\n".join(block["text"] for block in answer.content if block["type"] == "text")
