"""Answers from a record, and a record of answers: evaluations and tests without a provider.

A record is JSON lines, one for each turn in the order in which it was asked: what was asked, as
hashes and short beginnings, and what came back. Playing is strict: a turn that was asked otherwise
than when it was recorded is a fault that names the first difference, never another turn's answer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import msgspec

from agent_runtime.messages import Brain, ModelChoice, ModelUsage
from agent_runtime.models.cache import decode_answer, encode_answer, hash_of, request_json
from agent_runtime.ports.model import Model, ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import Json, TaskSpec

_SHOWN_CHARS: Final = 60


class Part(msgspec.Struct, frozen=True):
    """A part of a request: its name, its hash, and how it begins, for people."""

    name: str
    hash: str
    begins: str


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a record. Of `answer` and `fault` one is there."""

    asked: tuple[Part, ...]
    choice: ModelChoice
    answer: dict[str, Json] | None = None
    fault: dict[str, Json] | None = None


class Recorder:
    """Asks another model, and adds each turn to a file."""

    def __init__(self, model: Model, path: str) -> None:
        self._model = model
        self._path = path

    async def find(self, task: TaskSpec) -> Brain:
        """As the model behind it."""
        return await self._model.find(task)

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """Ask once, and write down what came."""
        result = await self._model.complete(request)
        fault = None
        if isinstance(result, ModelFault):
            fault = {
                "kind": result.kind,
                "message": result.message,
                "retry_after_seconds": result.retry_after_seconds,
                "usage": msgspec.to_builtins(result.usage),
                "usd": result.usd,
            }
        turn = Turn(
            asked=parts_of(request),
            choice=request.model,
            answer=encode_answer(result) if isinstance(result, ModelAnswer) else None,
            fault=fault,
        )
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(msgspec.json.encode(turn) + b"\n")
        return result


class RecordedModel:
    """Plays a record. Equal turns are played in the order in which they were recorded."""

    def __init__(self, path: str) -> None:
        """Read a record.

        Raises:
            OSError, msgspec.ValidationError: it cannot be read, or is none.
        """
        with open(path, "rb") as file:
            lines = [line for line in file if line.strip()]
        self._left = [msgspec.json.decode(line, type=Turn) for line in lines]
        self._choices = tuple({turn.choice.name: turn.choice for turn in self._left}.values())

    def skip(self, count: int) -> None:
        """Leave out the first turns: a task that goes on has had them."""
        del self._left[:count]

    async def find(self, task: TaskSpec) -> Brain:
        """The models that were recorded, the task's own first."""
        if not self._choices:
            return Brain(kind="none", offers=("record something: this record is empty",))
        first = [choice for choice in self._choices if choice.name == task.model]
        rest = [choice for choice in self._choices if choice not in first]
        return Brain(kind="model", models=(*first, *rest), why="a record")

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """What was recorded for this very request."""
        asked = parts_of(request)
        for at, turn in enumerate(self._left):
            if turn.asked == asked:
                del self._left[at]
                result = _result(turn)
                if isinstance(result, ModelAnswer) and request.heard is not None:
                    if result.message.text:
                        request.heard(result.message.text)
                return result
        return ModelFault(kind="bad_request", message=self._difference(asked))

    def _difference(self, asked: Sequence[Part]) -> str:
        if not self._left:
            return "the record is at its end: this turn was not recorded"
        near = max(self._left, key=lambda turn: _common(turn.asked, asked))
        at = _common(near.asked, asked)
        told = [
            f"{part.name} {part.begins!r}" if part is not None else "nothing"
            for part in (_part(near.asked, at), _part(asked, at))
        ]
        return (
            "this turn was not recorded; the first difference to the nearest one: recorded was "
            f"{told[0]}, asked is {told[1]}"
        )


def parts_of(request: ModelRequest) -> tuple[Part, ...]:
    """A request in pieces, in the order in which a model reads it. Who listens is no part."""
    whole = request_json(request)
    pieces: list[tuple[str, Json]] = [
        ("model", whole["model"]),
        ("output_tokens_max", whole["output_tokens_max"]),
        ("answer_schema", whole["answer_schema"]),
        *((f"tool {tool[0]}", tool) for tool in whole["tools"]),
        ("system", whole["system"]),
        *(
            (f"message {at} ({message['role']})", message)
            for at, message in enumerate(whole["messages"], 1)
        ),
    ]
    return tuple(Part(name, hash_of(value), _begins(value)) for name, value in pieces)


def _begins(value: Json) -> str:
    if isinstance(value, dict) and value.get("text"):
        value = value["text"]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text[:_SHOWN_CHARS]


def _common(one: Sequence[Part], other: Sequence[Part]) -> int:
    """How many parts are the same from the beginning."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _part(parts: Sequence[Part], at: int) -> Part | None:
    return parts[at] if at < len(parts) else None


def _result(turn: Turn) -> ModelAnswer | ModelFault:
    if turn.answer is not None:
        return decode_answer(turn.answer)
    fault = turn.fault or {}
    return ModelFault(
        kind=fault["kind"],
        message=fault["message"],
        retry_after_seconds=fault["retry_after_seconds"],
        usage=msgspec.convert(fault["usage"], ModelUsage),
        usd=fault["usd"],
    )
