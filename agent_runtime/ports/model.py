"""The port for whoever thinks: one turn is asked, and an answer or a fault comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from agent_runtime.messages import NO_USAGE, Brain, Message, ModelChoice, ModelUsage
from agent_runtime.types import Json, TaskSpec, ToolInfo

ModelFaultKind = Literal[
    "rate", "overload", "transport", "truncated", "auth", "not_found", "bad_request", "context",
    "filter", "too_large", "internal",
]  # fmt: skip
"""Why there is no answer; see `loop.recovery` for what follows.

rate: too many requests or too much spent per minute; overload: the provider cannot just now;
transport: no connection, time-out, TLS; truncated: the answer ended before its finish marker, or is
none; auth: no key, or it is refused; not_found: no such model or address; bad_request: refused as
malformed; context: the prompt is too long; filter: the provider refuses to answer this;
too_large: an answer of absurd size; internal: a fault of the adapter.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One turn. Everything in it is without secrets, and in an order that never changes: `system`,
    `tools`, `messages` only ever grow at their ends, so that a provider's prompt cache holds."""

    model: ModelChoice
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolInfo, ...] = ()
    answer_schema: Mapping[str, Json] | None = None
    """JSON schema of the text that is wanted; None: free text and calls."""
    output_tokens_max: int = 8_192
    """Reserved for the answer, thinking included: an adapter never asks for more."""
    conversation: str = ""
    """The same for all turns of a task: helps a provider to find its cache. Tells nothing."""
    heard: Callable[[str], None] | None = None
    """Gets the text as it comes; None: nobody watches, and nothing is streamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """What a model said. `message.role` is assistant."""

    message: Message
    stop: Literal["end", "calls", "length"] = "end"
    usage: ModelUsage = NO_USAGE
    usd: float = 0.0
    model: str = ""
    """As the provider names what answered."""
    cached: bool = False
    """It comes from the runtime's own cache of exact repetitions, and cost nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFault:
    """Why there is no answer. `message` is for people and without secrets."""

    kind: ModelFaultKind
    message: str
    retry_after_seconds: float | None = None
    usage: ModelUsage = NO_USAGE
    """What it cost all the same, as far as that is known."""
    usd: float = 0.0


class Model(Protocol):
    """Decides the next call. Never retries and never falls over to another model: the loop does
    both, by its table, and each attempt is in the log."""

    async def find(self, task: TaskSpec) -> Brain:
        """Who can think for this task: what it names, else what the installation has a key for.

        Never raises for what is missing: `Brain(kind="none")` says what would serve.
        """

    async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
        """Ask once. Whatever goes wrong comes back as a fault."""
