"""Making a long conversation shorter without losing what binds: outputs first, turns second.

What a person or the runtime said (goal, rules, plan, obligations, reasons of a failed verification)
stays byte for byte; what is cut out has a name, and `recall` shows it from the log. No model writes
the summary: it is the list of calls, made by code, so it costs nothing and cannot be wrong. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile, zip_longest
from typing import Literal

import msgspec

from agent_runtime.loop.conversation import Conversation, tokens_of
from agent_runtime.loop.events import HistoryCompacted
from agent_runtime.messages import Message

Level = Literal["outputs", "turns"]

FULL_PART = 0.75
"""Of a model's context: a longer prompt is compacted before the next turn."""
SHRINK_PART = 0.8
"""What is left after a compaction must be less than this, or the next level follows."""
TURNS_KEPT = 6
"""The newest turns stay as they are."""
CLEARED_CHARS_MIN = 300
"""A shorter output is not worth a placeholder."""
ARGUMENTS_CHARS_MAX = 120

replace = msgspec.structs.replace


def compacted(conversation: Conversation, level: Level) -> Conversation:
    """With old outputs cleared, or with old turns folded as well."""
    border = _border(conversation.messages)
    old, new = conversation.messages[:border], conversation.messages[border:]
    shorter = _without_outputs(old) if level == "outputs" else _folded(old)
    return conversation.rewritten((*shorter, *new))


def choose(conversation: Conversation) -> tuple[Level, Conversation] | None:
    """The first level that makes the messages really shorter; None: neither does."""
    before = size(conversation)
    levels: tuple[Level, ...] = ("outputs", "turns")
    for level in levels:
        shorter = compacted(conversation, level)
        if size(shorter) < before * SHRINK_PART:
            return level, shorter
    return None


def event_of(before: Conversation, level: Level, shorter: Conversation) -> HistoryCompacted:
    """What the log is told of it."""
    return HistoryCompacted(
        level=level,
        tokens_before=before.prompt_tokens(),
        tokens_after=shorter.prompt_tokens(),
    )


def size(conversation: Conversation) -> int:
    """Tokens of the messages alone, estimated."""
    return sum(map(tokens_of, conversation.messages))


def _border(messages: Sequence[Message]) -> int:
    """Index of the message with which the newest turns begin."""
    turns = [n for n, message in enumerate(messages) if message.role == "assistant"]
    return turns[-TURNS_KEPT] if len(turns) > TURNS_KEPT else 0


def _without_outputs(messages: Sequence[Message]) -> list[Message]:
    return [
        replace(message, text=_placeholder(message))
        if message.role == "tool" and len(message.text) > CLEARED_CHARS_MIN and message.ref
        else message
        for message in messages
    ]


def _placeholder(message: Message) -> str:
    return (
        f"[cleared to save room: {len(message.text):,} characters; "
        f'recall{{"ref": "{message.ref}"}} shows them]'
    )


def _folded(messages: Sequence[Message]) -> list[Message]:
    """What was said to the brain, and one summary of what it did."""
    said = [m for m in messages if m.role == "user" and m.ref != "status"]
    lines = [line for m in said if m.ref == "summary" for line in m.text.splitlines()[1:]]
    said = [m for m in said if m.ref != "summary"]
    for at, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if message.text.strip():
            name = f" ({message.ref})" if message.ref else ""
            lines.append(f"- said{name}: {_short(message.text)}")
        # By its place, and not by its id: servers give the same ids in every turn.
        behind = islice(messages, at + 1, at + 1 + len(message.calls))
        answers = takewhile(lambda m: m.role == "tool", behind)
        for use, answer in zip_longest(message.calls, answers):
            how = "no answer" if answer is None else "failed" if answer.failed else "ok"
            name = f" ({answer.ref})" if answer is not None and answer.ref else ""
            arguments = msgspec.json.encode(use.arguments).decode() if use.arguments else use.raw
            lines.append(f"- {use.name} {_short(arguments)}: {how}{name}")
    if not lines:
        return said
    head = "Earlier turns in short; recall shows in full what has a name in brackets:"
    return [*said, Message(role="user", text="\n".join([head, *lines]), ref="summary")]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= ARGUMENTS_CHARS_MAX else f"{line[:ARGUMENTS_CHARS_MAX]}…"
