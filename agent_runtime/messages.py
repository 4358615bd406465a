"""What a brain and the runtime say to each other, whatever the provider's wire format is.

Pure data, stored inside events. A provider's own blocks (thinking and its signatures) travel along
and are given back verbatim to the provider that they came from, and to no other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_runtime.types import Effect, Json


class ToolUse(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One call that a brain asks for."""

    id: str
    """The provider's, unique in its message; echoed back with the observation."""
    name: str
    arguments: dict[str, Json] | None = None
    """None: what came is no JSON object; `raw` has it, for the brain to repair."""
    raw: str = ""
    """The arguments as the provider sent them, where it sends a text; empty: see `arguments`."""
    effect: Effect | None = None
    """What it will change, where that is known when it is asked for; read-only calls of one turn
    run at the same time. Filled in by the runtime, never by an adapter."""


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One message of a conversation. `user` is also the runtime's own voice."""

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    """Of an assistant."""
    call_id: str = ""
    """Of an observation (`tool`): the `ToolUse.id` that it answers. All observations of a turn
    follow its assistant message directly, in the order of its calls."""
    failed: bool = False
    """Of an observation: the call did not work."""
    blocks: Json = None
    """Of an assistant: the provider's own form of this message, complete; None: there is none."""
    provider: str = ""
    """Whose form `blocks` is: replayed only to a model with the same `ModelChoice.provider`."""
    ref: str = ""
    """The runtime's own name for it, no adapter's business: the call or turn that `recall` shows;
    `status` for a line about phase and budget."""


class ModelUsage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Tokens of one answer. `input` is the whole prompt, of which `cached` were read from the
    provider's cache and `cache_written` written to it; `output` includes thinking."""

    input: int = 0
    cached: int = 0
    cache_written: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """What counts against a budget in tokens."""
        return self.input + self.output


NO_USAGE = ModelUsage()


class ModelChoice(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A model that can be asked, and what the loop must know to reserve before it asks."""

    name: str
    """As in a task file: `anthropic/claude-…`, `openai/…`, `http://host/v1#name`."""
    provider: str = ""
    """Wire format and place, such as `anthropic:https://api.anthropic.com`."""
    context_tokens: int = 128_000
    """Prompt and answer together."""
    output_tokens_max: int = 8_192
    input_usd_per_mtok: float = 0.0
    output_usd_per_mtok: float = 0.0
    """The dearest price that applies, cache writes included: a reservation must not be too small.
    Zero: it costs nothing, or nobody knows (`priced`)."""
    priced: bool = True
    """False: no price is known, and a budget in money cannot hold."""


BrainKind = Literal["model", "client", "harness", "none"]


class Brain(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Who decides the next call of a task, as far as it needs one.

    model: the `models`, in the order in which they are tried; client: a connected program asks for
    the next decision and answers it; harness: an external agent inside the sandbox (not there yet);
    none: nobody, and `offers` says what would serve, each in a sentence. A plan without gaps needs
    no brain at all.
    """

    kind: BrainKind
    models: tuple[ModelChoice, ...] = ()
    why: str = ""
    """Who chose it, in words: the task, a setting, a key in the environment."""
    offers: tuple[str, ...] = ()
