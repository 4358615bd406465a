"""What both wire formats share: JSON as strict as a log needs it, ids of calls, counts. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import msgspec

from agent_runtime.messages import Message, ModelUsage, ToolUse
from agent_runtime.models.faults import Failed
from agent_runtime.ports.model import ModelRequest
from agent_runtime.types import Json

INVALID: Final = "INVALID_JSON"
"""The key under which arguments that were no JSON object are shown to the model again."""
IDS: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""What most providers take as the id of a call."""
_CACHE_KEY_CHARS_MAX: Final = 64
_BYTES_A_TOKEN: Final = 3
"""Of text and JSON a token has some four; fewer, because an estimate must not be too small."""


def parse(text: str | bytes) -> Json:
    """JSON that a log can hold and give back: no NaN, no number beyond 64 bits, no endless depth.

    Raises:
        ValueError: it is none.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_small)
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return mended(value)
    except (RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return value


def encode(body: Json) -> bytes:
    """A request's body. What is half a character becomes a whole one."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(mended(body))


def whole(text: str) -> str:
    """`text` with halves of UTF-16 pairs put together, or replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def call_of(id_: str, name: str, raw: str) -> ToolUse:
    """A call whose arguments came as text. No text at all means no arguments."""
    try:
        arguments = parse(raw) if raw.strip() else {}
    except ValueError:
        arguments = None
    raw = whole(raw)
    if not isinstance(arguments, dict):
        return ToolUse(id=id_, name=name, arguments=None, raw=raw)
    return ToolUse(id=id_, name=name, arguments=arguments, raw=raw)


def arguments_text(call: ToolUse) -> str:
    """The arguments as JSON text, for a wire that wants it so: verbatim if they were JSON."""
    if call.arguments is None:
        return json.dumps({INVALID: call.raw}, ensure_ascii=False)
    return call.raw if call.raw.strip() else encode(call.arguments).decode()


def arguments_object(call: ToolUse) -> dict[str, Json]:
    """The arguments as an object, for a wire that takes nothing else."""
    return {INVALID: call.raw} if call.arguments is None else call.arguments


def with_unique_ids(calls: Sequence[ToolUse], *, turn: int) -> tuple[tuple[ToolUse, ...], bool]:
    """The calls, each with an id of its own, and whether one had to be changed.

    `turn` is the number of messages before: the same in every repetition, another in each turn.
    """
    taken = {call.id for call in calls}
    seen: set[str] = set()
    unique = []
    for at, call in enumerate(calls):
        id_ = call.id
        if not id_ or id_ in seen:
            id_ = _free(f"{call.id}_{at}" if call.id else f"call_{turn}_{at}", taken | seen)
        seen.add(id_)
        unique.append(call if id_ == call.id else msgspec.structs.replace(call, id=id_))
    return tuple(unique), any(a is not b for a, b in zip(calls, unique, strict=True))


def own_ids(
    messages: Iterable[Message], provider: str, *, allowed: re.Pattern[str] = IDS
) -> list[Message]:
    """The messages, with other ids where a provider would refuse those that they have.

    Providers differ in what an id may be, and want it once in a conversation: nine letters and
    digits are right for all. What was renamed once is renamed so in every later request.
    """
    changed: list[Message] = []
    names: Mapping[str, str] = {}
    seen: set[str] = set()
    count = 0
    for message in messages:
        if message.role == "assistant":
            names = {}
            ids = {call.id for call in message.calls}
            replayed = message.blocks is not None and message.provider == provider
            foreign = message.provider not in ("", provider)
            if (
                ids
                and not replayed
                and (foreign or ids & seen or not all(map(allowed.fullmatch, ids)))
            ):
                names = {call.id: f"call{count + at:05}" for at, call in enumerate(message.calls)}
                count += len(message.calls)
                calls = tuple(msgspec.structs.replace(c, id=names[c.id]) for c in message.calls)
                message = msgspec.structs.replace(message, calls=calls)
            seen |= ids
        elif message.role == "tool" and message.call_id in names:
            message = msgspec.structs.replace(message, call_id=names[message.call_id])
        changed.append(message)
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a provider says about tokens; None: nothing."""

    input: int | None = None
    cached: int = 0
    cache_written: int = 0
    output: int | None = None

    def usage(self, *, asked_bytes: int, answered_bytes: int, output_max: int) -> ModelUsage:
        """The same, with an estimate, never zero, where the provider says nothing."""
        asked = self.input or estimate(asked_bytes)
        return ModelUsage(
            input=asked,
            cached=min(self.cached, asked),
            cache_written=min(self.cache_written, asked),
            output=min(estimate(answered_bytes), output_max)
            if self.output is None
            else self.output,
        )


def charge(
    failed: Failed, counted: Counted, request: ModelRequest, asked_bytes: int, answered_bytes: int
) -> None:
    """Add what a failure cost: a provider charges for an answer that was lost on the way."""
    if failed.usage.total == 0 and (answered_bytes or failed.kind in ("truncated", "too_large")):
        failed.usage = counted.usage(
            asked_bytes=asked_bytes,
            answered_bytes=answered_bytes,
            output_max=request.output_tokens_max,
        )


def estimate(size_bytes: int) -> int:
    """Tokens of a text, rather too many, at least one."""
    return max(1, -(-size_bytes // _BYTES_A_TOKEN))


def count(value: Json) -> int | None:
    """A number of tokens as a provider gives it, else None."""
    return value if type(value) is int and value >= 0 else None


def cache_key(conversation: str) -> str:
    """What OpenAI finds its cache of a conversation by: at most 64 letters."""
    if len(conversation) <= _CACHE_KEY_CHARS_MAX:
        return conversation
    return hashlib.sha256(conversation.encode()).hexdigest()


def record(value: Json) -> dict[str, Json]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(value: Json) -> str:
    """`value` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def answer_object(place: str, body: bytes) -> dict[str, Json]:
    """A whole answer.

    Raises:
        Failed: it is no JSON object: cut, or from something else than a model.
    """
    try:
        value = parse(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        shown = " ".join(body[:80].decode("utf-8", "replace").split())
        raise Failed("truncated", f"{place}: the answer is no whole JSON object: {shown!r}…")
    return value


def chunk_object(place: str, data: str) -> dict[str, Json]:
    """One event's data. Halves of characters stay, for their other halves may come: see `mended`.

    Raises:
        Failed: it is no JSON object.
    """
    try:
        value = json.loads(data, parse_constant=_refuse, parse_float=_finite, parse_int=_small)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        shown = " ".join(data[:80].split())
        raise Failed("truncated", f"{place}: a part of the answer is no JSON object: {shown!r}…")
    return value


def mended(value: Json) -> Json:
    """`value` with every text made `whole`."""
    match value:
        case str():
            return value if value.isascii() else whole(value)
        case list() | tuple():
            return [mended(item) for item in value]
        case dict():
            return {mended(key): mended(item) for key, item in value.items()}
        case _:
            return value


def _free(wish: str, taken: set[str]) -> str:
    while wish in taken:
        wish += "x"
    return wish


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number without an end")
    return number


def _small(text: str) -> int:
    number = int(text)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("a number of more than 64 bits")
    return number
