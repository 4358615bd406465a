"""What a brain or its adapter says, made so that a log can hold it and any provider take it back.

An adapter may be a plug-in, a provider may lie, a client is any program: halves of characters, NaN,
costs below zero, objects that are no JSON and endless answers end here, as data, and not in the
fold, which has no way out. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, get_args

import msgspec

from agent_runtime.messages import (
    NO_USAGE,
    Brain,
    BrainKind,
    ModelChoice,
    ModelUsage,
    ToolUse,
)
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelFaultKind
from agent_runtime.toolkit import cap
from agent_runtime.types import Json

CALLS_MAX: Final = 100
"""Of one turn: more are no work, but a model that has lost its way."""
ANSWER_CHARS_MAX: Final = 1_000_000
"""Text and arguments together. No model writes so much in one turn, and all of it is sent again."""
DEPTH_MAX: Final = 64
"""Of JSON in JSON: what is deeper cannot be read again wherever the stack is not empty."""
FAULT_CHARS_MAX: Final = 2_000
ID_CHARS_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every provider takes as a tool's name; a name that is none comes back with the history."""
_TOKENS_MAX: Final = 1 << 53
_STOPS: Final = ("end", "calls", "length")
_replace = msgspec.structs.replace


class NotStorable(ValueError):
    """No log can hold this value; says why."""


def answered(
    said: ModelAnswer | ModelFault, *, turn: int, reserved: tuple[ModelUsage, float]
) -> ModelAnswer | ModelFault:
    """What an adapter has answered, as it can be stored.

    Costs that are no numbers are taken to be what was `reserved`: nobody knows better.
    """
    try:
        if not isinstance(said, ModelAnswer | ModelFault):
            raise NotStorable(f"{type(said).__name__} is neither an answer nor a fault")
        usage, usd = _costs(said.usage, said.usd, reserved)
        if isinstance(said, ModelFault):
            return ModelFault(
                kind=said.kind if said.kind in get_args(ModelFaultKind) else "internal",
                message=cap(text_of(said.message), FAULT_CHARS_MAX),
                retry_after_seconds=_seconds(said.retry_after_seconds),
                usage=usage,
                usd=usd,
            )
        message = said.message
        calls, changed = calls_of(message.calls, turn=turn)
        text, left_out = text_of(message.text), len(message.calls) - len(calls)
        if left_out:
            text += f"\n[{left_out} more calls of this answer are left out: a turn has {CALLS_MAX}]"
        chars = len(text) + sum(map(_chars, calls))
        if chars > ANSWER_CHARS_MAX:
            words = f"the answer has {chars:,} characters, and {ANSWER_CHARS_MAX:,} are taken"
            return ModelFault(kind="too_large", message=words, usage=usage, usd=usd)
        return ModelAnswer(
            message=_replace(
                message, text=text, calls=calls, blocks=None if changed else _own(message.blocks)
            ),
            stop=said.stop if said.stop in _STOPS else "calls" if calls else "end",
            usage=usage,
            usd=usd,
            model=text_of(said.model)[:ID_CHARS_MAX],
            cached=said.cached is True,
        )
    except Exception as error:  # noqa: BLE001 - a plug-in's object: whatever it does is its answer
        why = str(error) if isinstance(error, NotStorable) else f"{type(error).__name__}: {error}"
        words = f"the adapter's answer cannot be used: {why}"
        return ModelFault(
            kind="internal",
            message=cap(words, FAULT_CHARS_MAX),
            usage=reserved[0],
            usd=reserved[1],
        )


def calls_of(uses: Sequence[ToolUse], *, turn: int) -> tuple[tuple[ToolUse, ...], bool]:
    """The calls of a turn, each with an id of its own; was anything changed?

    Arguments that no log can hold are no JSON object, and the brain hears why.
    """
    calls: list[ToolUse] = []
    ids: set[str] = set()
    changed = len(uses) > CALLS_MAX
    for number, use in enumerate(uses[:CALLS_MAX]):
        id_ = text_of(use.id)
        if not id_ or len(id_) > ID_CHARS_MAX or id_ in ids:
            id_ = f"call_{turn}_{number}"
        while id_ in ids:
            id_ += "x"
        ids.add(id_)
        arguments, raw = use.arguments, text_of(use.raw)
        try:
            stored = None if arguments is None else json_of(arguments)
            if stored is not None and not isinstance(stored, dict):
                raise NotStorable(f"it is {type(arguments).__name__}")
        except NotStorable as error:
            stored, raw, changed = None, raw or f"[{error}]", True
        name = _name(text_of(use.name))
        changed = changed or (id_, name) != (use.id, use.name)
        calls.append(ToolUse(id=id_, name=name, arguments=stored, raw=raw, effect=use.effect))
    return tuple(calls), changed


def brain_of(found: Brain) -> Brain:
    """Who thinks, as an adapter has found; none if nobody can be asked."""
    try:
        kind = found.kind
        if kind not in get_args(BrainKind):
            raise NotStorable(f"{kind!r} is no kind of brain")
        why, offers = text_of(found.why), tuple(map(text_of, found.offers))
        broken = [text_of(str(m.name)) for m in found.models if not _can_be_asked(m)]
        models = tuple(m for m in found.models if _can_be_asked(m))
        if kind == "model" and not models:
            said = "; ".join(f"what is known of {name!r} makes no sense" for name in broken)
            return Brain(kind="none", why=why, offers=(said or "no model was found", *offers))
        return Brain(kind=kind, models=models, why=why, offers=offers)
    except Exception as error:  # noqa: BLE001 - a plug-in's object, as above
        words = f"looking for a model brought nothing that can be used: {error}"
        return Brain(kind="none", offers=(cap(words, FAULT_CHARS_MAX),))


def json_of(value: Json, depth: int = 0) -> Json:
    """`value`, with whole characters. Raises `NotStorable`."""
    if depth > DEPTH_MAX:
        raise NotStorable(f"it is nested more than {DEPTH_MAX} levels deep")
    match value:
        case None | bool():
            return value
        case str():
            return text_of(value)
        case int() if -(1 << 63) <= value < 1 << 64:
            return value
        case float() if math.isfinite(value):
            return value
        case list() | tuple():
            return [json_of(item, depth + 1) for item in value]
        case Mapping():
            return {text_of(key): json_of(item, depth + 1) for key, item in value.items()}
        case int() | float():
            raise NotStorable("a number in it has more than 64 bits, or is none")
        case _:
            raise NotStorable(f"{type(value).__name__} is no JSON")


def text_of(value: str) -> str:
    """`value` with halves of UTF-16 pairs put together, or replaced."""
    if not isinstance(value, str):
        raise NotStorable(f"{type(value).__name__} is no text")
    return (
        value
        if value.isascii()
        else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _name(name: str) -> str:
    if _NAME.fullmatch(name):
        return name
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name[:200])[:64] or "unnamed"


def _own(blocks: Json) -> Json:
    """A provider's own form of a message; it can be done without."""
    try:
        return json_of(blocks)
    except NotStorable:
        return None


def _chars(use: ToolUse) -> int:
    return len(use.raw) or len(msgspec.json.encode(use.arguments))


def _costs(
    usage: ModelUsage, usd: float, reserved: tuple[ModelUsage, float]
) -> tuple[ModelUsage, float]:
    counts = msgspec.structs.astuple(usage)
    if not all(type(count) is int and 0 <= count < _TOKENS_MAX for count in counts):
        usage = reserved[0]
    return usage, float(usd) if _is_amount(usd) else reserved[1]


def _is_amount(value: float) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _seconds(value: float | None) -> float | None:
    return float(value) if value is not None and _is_amount(value) else None


def _can_be_asked(model: ModelChoice) -> bool:
    counts = (model.context_tokens, model.output_tokens_max)
    return (
        all(type(count) is int and 0 < count < _TOKENS_MAX for count in counts)
        and _is_amount(model.input_usd_per_mtok)
        and _is_amount(model.output_usd_per_mtok)
        and text_of(model.name) == model.name
        and text_of(model.provider) == model.provider
    )


def reserved_usage(tokens: int, output_tokens: int) -> ModelUsage:
    """A reservation in the form of a usage."""
    return ModelUsage(input=tokens - output_tokens, output=output_tokens) if tokens else NO_USAGE
