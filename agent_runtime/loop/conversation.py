"""The conversation of a task with its brain: append-only, in an order that prompt caches like.

Facts that come while an answer or observations are awaited (a person's message, a lost worker) wait
as notes until the next turn begins: providers want every call's observation right behind it. Only
compaction rewrites what stands there, and the log says when (`HistoryCompacted`). Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from agent_runtime.messages import Message, ToolUse
from agent_runtime.types import Effect

PREFIX_TOKENS = 3_500
"""Estimate of what stands before the messages: the rules, and the schemas of the first tools."""
TOOL_TOKENS = 400
"""Estimate of a tool that is shown later: most have some 150."""
BYTES_PER_TOKEN = 3
"""Of text, on the safe side: English has four, and code somewhat less."""
DENSEST = 4
"""So many times fewer tokens than estimated may a text have: twelve bytes each."""
TRAIL_MAX = 12
"""Observations that `stuck` looks at."""

replace = msgspec.structs.replace
_encode = msgspec.json.encode


class TurnCall(msgspec.Struct, frozen=True, gc=False):
    """One call of a turn, in the order in which the brain asked."""

    use: ToolUse
    begun: bool = False
    answer: str | None = None
    """What the brain is told; None: not known yet."""
    failed: bool = False

    @property
    def reads(self) -> bool:
        """It changes nothing, so that others may run beside it."""
        return self.use.effect is Effect.READ

    @property
    def open(self) -> bool:
        return self.begun and self.answer is None


class Trace(msgspec.Struct, frozen=True, gc=False):
    """What a brain did and what came of it, as two short hashes."""

    did: str
    came: str
    failed: bool = False


class Conversation(msgspec.Struct, frozen=True, gc=False):
    """What was said so far, and what the rules of the loop must remember of it."""

    messages: tuple[Message, ...] = ()
    digest: str = ""
    """Hash over `messages`, each with the hash before it."""
    notes: tuple[str, ...] = ()
    """Said to the brain when its next turn begins."""
    shown: tuple[str, ...] = ()
    """Tools that the brain sees, in the order in which they appeared."""
    shown_first: int = 0
    """So many of them from the start."""
    found: tuple[str, ...] = ()
    """Tools that `find_tools` has found."""
    measured: int = 0
    """So many messages stood in the prompt that a provider counted last…"""
    measured_tools: int = 0
    """…and so many tools before them…"""
    measured_tokens: int = 0
    """…and made so many tokens, with the rules."""
    format_errors: int = 0
    """Answers in a row that could not be used."""
    trail: tuple[Trace, ...] = ()
    nudged: bool = False
    """It was told once that it goes in circles."""
    model: int = 0
    """Which of the brain's models is asked."""
    faults: int = 0
    """Of that model, one after the other."""
    compacted: int = 0
    """`HistoryCompacted` so far."""

    def told(self, note: str) -> Conversation:
        """With something to say at the next turn."""
        return replace(self, notes=(*self.notes, note))

    def with_messages(self, *messages: Message) -> Conversation:
        """With more at the end."""
        digest = self.digest
        for message in messages:
            digest = hashlib.sha256(digest.encode() + _encode(message)).hexdigest()
        return replace(self, messages=(*self.messages, *messages), digest=digest)

    def rewritten(self, messages: Sequence[Message]) -> Conversation:
        """With others in place of all: nothing is measured any more."""
        fresh = replace(
            self, messages=(), digest="", measured=0, measured_tokens=0,
            compacted=self.compacted + 1,
        )  # fmt: skip
        return fresh.with_messages(*messages)

    def asking(self, model: int) -> Conversation:
        """From now on of this model, which may count tokens in another way than the one before."""
        return replace(self, model=model, faults=0, measured=0, measured_tokens=0)

    def turn_begun(self, status: str) -> Conversation:
        """A model is asked: what waited is said, and where the task stands."""
        closing = [
            Message(role="tool", call_id=use.id, text=NOT_RUN, failed=True)
            for use in self._unanswered()
        ]
        notes = [Message(role="user", text=note) for note in self.notes]
        told = replace(self, notes=()).with_messages(*closing, *notes)
        if told.messages and told.messages[-1].ref == "status":
            return told  # the same question again, after a fault or a crash
        return told.with_messages(Message(role="user", text=status, ref="status"))

    def turn_ended(self, prefix: str, calls: Sequence[TurnCall]) -> Conversation:
        """Every call of a turn has its answer; `prefix` names the turn."""
        observed = [
            Message(
                role="tool", call_id=call.use.id, text=call.answer or "", failed=call.failed,
                ref=f"{prefix}.{index}",
            )
            for index, call in enumerate(calls)
        ]  # fmt: skip
        trail = [
            Trace(
                short_hash([call.use.name, call.use.arguments, call.use.raw]),
                short_hash(call.answer or ""),
                call.failed,
            )
            for call in calls
        ]
        kept = (*self.trail, *trail)[-TRAIL_MAX:]
        return replace(self.with_messages(*observed), trail=kept)

    def prompt_tokens(self) -> int:
        """Estimate of the next prompt."""
        known = self.measured_tokens if self.measured else PREFIX_TOKENS
        notes = sum(len(note) for note in self.notes) // BYTES_PER_TOKEN
        tools = len(self.shown) - (self.measured_tools if self.measured else self.shown_first)
        return known + self._new_tokens() + notes + TOOL_TOKENS * max(0, tools)

    def counted(self, tokens: int) -> Conversation:
        """A provider has counted the prompt; 0: it does not say.

        A prompt only grows, and a token has so many bytes at most: a server that counts only what
        it had not cached is not believed.
        """
        if not tokens or tokens < self.measured_tokens + self._new_tokens() // DENSEST:
            return self
        return replace(
            self,
            measured=len(self.messages),
            measured_tools=len(self.shown),
            measured_tokens=tokens,
        )

    def _new_tokens(self) -> int:
        return sum(map(tokens_of, self.messages[self.measured :]))

    def _unanswered(self) -> tuple[ToolUse, ...]:
        last = self.messages[-1] if self.messages else None
        return last.calls if last is not None and last.role == "assistant" else ()


NOT_RUN = "It was not run: the work was stopped before."


def stopped(calls: Sequence[TurnCall]) -> tuple[TurnCall, ...]:
    """The calls of a turn that was stopped: what has no answer was not run."""
    return tuple(
        call if call.answer is not None else replace(call, answer=NOT_RUN, failed=True)
        for call in calls
    )


def tokens_of(message: Message) -> int:
    """Estimate, on the safe side."""
    return len(_encode(message)) // BYTES_PER_TOKEN + 8


def short_hash(value: object) -> str:
    """Enough to tell two values apart."""
    return hashlib.sha256(_encode(value, order="sorted")).hexdigest()[:16]


# ---- the calls of a turn -----------------------------------------------------------------


def next_call(calls: Sequence[TurnCall]) -> int | None:
    """Index of the call that may be made ready now.

    Reads run beside each other; whatever else waits until all before it have their answers, and
    those behind it wait for it.
    """
    for index, call in enumerate(calls):
        if call.answer is not None:
            continue
        if not call.begun:
            before = calls[:index]
            alone = not any(earlier.open for earlier in before)
            beside = call.reads and all(earlier.reads for earlier in before if earlier.open)
            return index if alone or beside else None
        if not call.reads:
            return None
    return None


def begun(calls: tuple[TurnCall, ...], index: int) -> tuple[TurnCall, ...]:
    """With the call at `index` under way."""
    return (*calls[:index], replace(calls[index], begun=True), *calls[index + 1 :])


def answered(
    calls: tuple[TurnCall, ...], index: int, text: str, *, failed: bool
) -> tuple[TurnCall, ...]:
    """With an answer for the call at `index`."""
    done = replace(calls[index], answer=text, failed=failed)
    return (*calls[:index], done, *calls[index + 1 :])


def turn_name(step_id: str, turn: int) -> str:
    """How a turn is called; no step can have the name of a turn that asks for a plan."""
    return f"{step_id}.t{turn}" if step_id else f"plan:{turn}"


def index_of(call_id: str) -> int:
    """Which call of its turn a call's id means."""
    return int(call_id.rpartition(".")[2])
