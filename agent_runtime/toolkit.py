"""What a tool's author needs: `@tool` makes a tool of one function, `cap` shortens output.

    @tool(
        effect=Effect.READ,
        parameters={"path": {"type": "string", "description": "The file to count."}},
        required=("path",),
    )
    async def word_count(call: ToolCall) -> ToolResult:
        \"\"\"Count the words of a text file.\"\"\"

A plain function will do as well, and runs in a thread. The port is `ports.Tool`; anything that
fits it is a tool, with or without this file. Arguments are checked by `schema`. What a call's
effect means after a crash is in `loop.recovery`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar, cast

from agent_runtime import schema
from agent_runtime.types import Effect, EffectPolicy, Json, ToolCall, ToolResult, Where

OUTPUT_CHARS_MAX: Final = 10_000
"""What a brain is shown of one observation: about 3,000 tokens."""
NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")

T = TypeVar("T")
Execute = Callable[[ToolCall], Awaitable[ToolResult]]
Block = Callable[[ToolCall], ToolResult]
Probe = Callable[[ToolCall], Awaitable[bool | None]]
Preview = Callable[[ToolCall], str]
DecideEffect = Callable[[Mapping[str, Json], EffectPolicy], Effect]


def tool(
    *,
    effect: Effect | DecideEffect,
    parameters: Mapping[str, Json],
    required: Sequence[str] = (),
    name: str | None = None,
    description: str | None = None,
    toolbelt: str = "standard",
    where: Where = "worker",
    probe: Probe | None = None,
    blocking: Block | None = None,
    preview: Preview | None = None,
) -> Callable[[Execute | Block], FunctionTool]:
    """Make a tool of a function that takes a `ToolCall` and returns a `ToolResult`.

    A worker calls a plain function in a thread of its own, without an event loop, which it need not
    load then; `blocking` gives an async function such a twin.

    `parameters` maps argument names to their JSON schemas, or is a whole schema of an object. The
    name and the description default to the function's own. `effect` is fixed, or a pure function
    of arguments and policy; an effect of `probe` needs `probe`, which looks whether the call has
    happened (None: cannot be known). `preview` says what the call would change, as text, and
    changes nothing; a person sees it who is asked whether the call may run.

    Raises:
        ValueError: the definition breaks the port; the message names the tool and the rule.
    """

    def make(function: Execute | Block) -> FunctionTool:
        execute, block = _both_ways(function, blocking)
        kind: Callable[..., FunctionTool] = FunctionTool
        if probe is not None and preview is not None:
            kind = partial(ProbingPreviewingFunctionTool, look=probe, foresee=preview)
        elif probe is not None:
            kind = partial(ProbingFunctionTool, look=probe)
        elif preview is not None:
            kind = partial(PreviewingFunctionTool, foresee=preview)
        made = kind(
            name=name or getattr(function, "__name__", ""),
            description=inspect.cleandoc(description or function.__doc__ or ""),
            parameters=_object_schema(parameters, required),
            toolbelt=toolbelt,
            where=where,
            decide_effect=effect,
            run=execute,
            block=block,
        )
        for problem in _definition_problems(made):
            raise ValueError(f"tool {made.name!r}: {problem}")
        return made

    return make


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FunctionTool:
    """A tool made by `tool`: it fits `ports.Tool`."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    toolbelt: str
    where: Where
    decide_effect: Effect | DecideEffect
    run: Execute
    block: Block | None = None

    def effect(self, arguments: Mapping[str, Json], policy: EffectPolicy) -> Effect:
        """What this very call changes."""
        if isinstance(self.decide_effect, Effect):
            return self.decide_effect
        return self.decide_effect(arguments, policy)

    async def execute(self, call: ToolCall) -> ToolResult:
        """Check the arguments, then run the function; wrong ones are a result."""
        return self._refusal(call) or await self.run(call)

    @property
    def execute_blocking(self) -> Block | None:
        """The same for a caller that has a thread to block; None if there is only the async way."""
        block = self.block
        return None if block is None else lambda call: self._refusal(call) or block(call)

    def _refusal(self, call: ToolCall) -> ToolResult | None:
        problems = schema.check(call.arguments, self.parameters)
        if not problems:
            return None
        return ToolResult(ok=False, kind="bad_input", output=f"{self.name}: {'; '.join(problems)}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbingFunctionTool(FunctionTool):
    """A tool that can look whether a call without a result happened: fits `ports.ProbingTool`."""

    look: Probe

    async def probe(self, call: ToolCall) -> bool | None:
        """True: it happened. False: it did not. None: cannot be known."""
        return await self.look(call)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreviewingFunctionTool(FunctionTool):
    """A tool that can say what a call would change: fits `ports.PreviewingTool`."""

    foresee: Preview

    async def preview(self, call: ToolCall) -> str:
        """What it would change, as text; in a thread, because it reads files."""
        return await _in_thread(self.foresee, call)

    @property
    def preview_blocking(self) -> Preview:
        """The same for a caller that has a thread to block."""
        return self.foresee


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbingPreviewingFunctionTool(ProbingFunctionTool):
    """Both of them."""

    foresee: Preview

    async def preview(self, call: ToolCall) -> str:
        """What it would change, as text; in a thread, because it reads files."""
        return await _in_thread(self.foresee, call)

    @property
    def preview_blocking(self) -> Preview:
        """The same for a caller that has a thread to block."""
        return self.foresee


def changes_workspace_unless_networked(
    arguments: Mapping[str, Json], policy: EffectPolicy
) -> Effect:
    """The effect of running code: what the plan's author states, else what the code can reach.

    Without egress everything it changed is in the workspace, which is rolled back.
    """
    if policy.stated is not None:
        return policy.stated
    return Effect.WORKSPACE if policy.network == "none" else Effect.ONCE


def cap(text: str, limit: int = OUTPUT_CHARS_MAX) -> str:
    """At most `limit` characters of `text`: its head and tail, and a line saying what was cut."""
    if len(text) <= limit:
        return text
    room = max(0, limit - 80)
    head, tail = text[: room // 2], text[len(text) - (room - room // 2) :]
    # Whole lines read better; a text without line breaks nearby is cut where it must be.
    if (end := head.rfind("\n", len(head) * 3 // 4)) != -1:
        head = head[: end + 1]
    if (start := tail.find("\n", 0, len(tail) // 4)) != -1:
        tail = tail[start + 1 :]
    cut = text[len(head) : len(text) - len(tail)]
    note = f"[… {len(cut):,} characters, {cut.count(chr(10)):,} line ends cut …]"
    before = "" if head.endswith("\n") or not head else "\n"
    return f"{head}{before}{note}\n{tail}"[: max(limit, 0)]


def _both_ways(function: Execute | Block, block: Block | None) -> tuple[Execute, Block | None]:
    """The async way and, if there is one, the blocking way of the same tool."""
    called = vars(type(function)).get("__call__")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        return cast(Execute, function), block
    plain = cast(Block, function)

    async def execute(call: ToolCall) -> ToolResult:
        return await _in_thread(plain, call)

    return execute, plain


async def _in_thread(function: Callable[[ToolCall], T], call: ToolCall) -> T:
    # A worker never comes here, and starts faster without anyio.
    from anyio import to_thread

    return await to_thread.run_sync(function, call)


def _object_schema(parameters: Mapping[str, Json], required: Sequence[str]) -> Mapping[str, Json]:
    # An argument that is called "type" has a mapping there, never the word.
    if parameters.get("type") == "object":
        return parameters
    return {
        "type": "object",
        "properties": dict(parameters),
        "required": list(required),
        "additionalProperties": False,
    }


def _definition_problems(made: FunctionTool) -> list[str]:
    problems = []
    properties = made.parameters.get("properties", {})
    if not NAME_PATTERN.fullmatch(made.name):
        problems.append("a name is lower case letters, digits and underscores, at most 64")
    if not made.description:
        problems.append("a brain needs a description: give one, or a docstring")
    if made.parameters.get("additionalProperties") is not False:
        problems.append("the schema must say additionalProperties: false")
    problems += [
        f"required argument {key!r} has no schema"
        for key in made.parameters.get("required", ())
        if key not in properties
    ]
    if made.decide_effect is Effect.PROBE and not isinstance(made, ProbingFunctionTool):
        problems.append("effect probe needs probe=…")
    return problems
