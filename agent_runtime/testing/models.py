"""A model that says what a test tells it to, by the contract that every model keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent_runtime import model_names
from agent_runtime.messages import Brain, Message, ModelChoice, ModelUsage
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelFaultKind, ModelRequest
from agent_runtime.testing.fakes import Point, checkpoint
from agent_runtime.types import TaskSpec

USAGE = ModelUsage(input=10, output=5)
SAID = ModelChoice(name="said/x", provider="said")


@dataclass
class SaidModel:
    """Says what `say` and `fail` arranged, in that order; the last one again and again."""

    choices: tuple[ModelChoice, ...] = (SAID,)
    requests: list[ModelRequest] = field(default_factory=list)
    point: Point = checkpoint
    _next: list[ModelAnswer | ModelFault] = field(default_factory=list)

    def say(self, *messages: Message, usage: ModelUsage = USAGE) -> None:
        """What it answers next, each with the same usage."""
        self._next = [
            ModelAnswer(
                message=message,
                stop="calls" if message.calls else "end",
                usage=usage,
                model="said",
            )
            for message in messages
        ]

    def fail(self, kind: ModelFaultKind, *, retry_after_seconds: float | None = None) -> None:
        """Why it does not answer next."""
        self._next = [
            ModelFault(kind=kind, message=f"said: {kind}", retry_after_seconds=retry_after_seconds)
        ]

    async def find(self, task: TaskSpec) -> Brain:
        """Itself, for tasks that name none or one of its own."""
        if task.model == model_names.CLIENT:
            return Brain(kind="client", why="the task names it")
        own = tuple(choice for choice in self.choices if choice.name == task.model)
        if task.model is not None and not own:
            return Brain(kind="none", why=f"{task.model!r} says nothing here")
        return Brain(kind="model", models=own or self.choices, why="a test")

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """What was arranged."""
        await self.point("ask model")
        self.requests.append(request)
        assert self._next, "nothing was arranged: call `say` or `fail`"
        result = self._next.pop(0) if len(self._next) > 1 else self._next[0]
        if isinstance(result, ModelAnswer) and request.heard is not None and result.message.text:
            request.heard(result.message.text)
        await self.point("model answered")
        return result
