"""Registered tools as clients see them: definitions, annotations, and the search among them.

Made once for each policy and kept until the toolbox has other tools: neither a list nor a call goes
through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from agent_runtime.loop.discover import offered, refusal
from agent_runtime.loop.ranking import rank, strongest
from agent_runtime.ports import Tool, Toolbox
from agent_runtime.types import Effect, EffectPolicy, Json, TaskSpec, ToolInfo
from agent_runtime_mcp.definitions import BeginTask, RunTool, ToolDefinition

_READS: Final[Mapping[str, Json]] = {
    "readOnlyHint": True, "destructiveHint": False, "idempotentHint": True,
}  # fmt: skip
_WRITES: Final[Mapping[str, Json]] = {
    "readOnlyHint": False, "destructiveHint": True, "idempotentHint": False,
}  # fmt: skip

HINTS: Final[Mapping[Effect, Mapping[str, Json]]] = {
    Effect.READ: _READS,
    Effect.WORKSPACE: {**_WRITES, "openWorldHint": False},
    Effect.IDEMPOTENT: {**_WRITES, "idempotentHint": True, "openWorldHint": True},
    Effect.PROBE: {**_WRITES, "openWorldHint": True},
    Effect.TASK: {**_WRITES, "openWorldHint": True},
    Effect.ONCE: {**_WRITES, "openWorldHint": True},
}
"""The table of the docs: effect class -> annotations. A read is open to the world where it runs
outside of the sandbox or may use the network."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What one policy lets a client use, sorted by name."""

    infos: tuple[ToolInfo, ...]
    definitions: tuple[ToolDefinition, ...]
    by_name: Mapping[str, ToolDefinition]

    def search(self, query: str) -> list[ToolDefinition]:
        """The best hits, as `find_tools` would name them to a model."""
        return [self.by_name[info.name] for info in strongest(rank(query, self.infos))]


def make(
    task: TaskSpec,
    toolbox: Toolbox,
    run: Callable[[str], RunTool],
    begin: Callable[[str], BeginTask],
    more: Sequence[ToolDefinition] = (),
) -> Catalogue:
    """Every tool that such a task may use, and `more` behind them."""
    infos = tuple(info for info in toolbox.all() if refusal(task, info) is None)
    own = {each.name for each in more}
    found = tuple(
        _definition(
            info, toolbox.get(info.name), task.policy.network, run(info.name), begin(info.name)
        )
        for info in infos
        if info.name not in own
    )
    definitions = (*found, *more)
    return Catalogue(infos, definitions, {each.name: each for each in definitions})


def _definition(
    info: ToolInfo, tool: Tool, network: str, run: RunTool, begin: BeginTask
) -> ToolDefinition:
    # What runs code or reaches outside may take long. File tools do not, and to ask for their
    # answer a second time would only cost a round.
    long = info.where == "daemon" or _fixed_effect(tool) is None
    return ToolDefinition(
        name=info.name,
        description=info.description,
        input_schema=info.parameters,
        annotations=hints(info, tool, network),
        run=run,
        task_support="optional" if long else "forbidden",
        begin=begin if long else None,
    )


def hints(info: ToolInfo, tool: Tool, network: str) -> Mapping[str, Json]:
    """What may be promised about every call of a tool.

    One whose effect hangs on its arguments is promised to be nothing better than `once`, or than a
    writer of the workspace if it is that without arguments: clients let a reader run unasked.
    """
    effect = _fixed_effect(tool)
    if effect is None:
        try:
            said = tool.effect({}, EffectPolicy(network=network))
            effect = Effect.ONCE if said is Effect.READ else Effect(said)
        except (Exception, SystemExit):  # noqa: BLE001 - a plug-in: the most careful promise
            effect = Effect.ONCE
    said_of_all = HINTS[effect]
    if effect is Effect.READ:
        return {**said_of_all, "openWorldHint": info.where == "daemon" or network != "none"}
    return said_of_all


def _fixed_effect(tool: Tool) -> Effect | None:
    """Of every call; None: it hangs on the arguments, or nobody says."""
    for name in ("decide_effect", "fixed_effect"):
        fixed = getattr(tool, name, None)
        if isinstance(fixed, Effect):
            return fixed
    return None


def listed(definition: ToolDefinition, info: ToolInfo | None) -> dict[str, Json]:
    """A hit of a search: enough to call it."""
    schema = offered(info).parameters if info is not None else definition.input_schema
    return {
        "name": definition.name,
        "description": definition.description,
        "inputSchema": dict(schema),
        "annotations": dict(definition.annotations),
    }


def as_text(value: Json) -> str:
    """JSON, compact: it is read by models, and paid for by the token."""
    return msgspec.json.encode(value).decode()
