"""What a task may use, what its brain sees from the start, and whether a plan fits it. Pure.

How well a tool fits a goal is decided in `ranking`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import msgspec

from agent_runtime import schema
from agent_runtime.loop import approvals, native, ranking
from agent_runtime.loop.events import DiscoveredTool, ToolsDiscovered
from agent_runtime.ports.tools import Toolbox
from agent_runtime.types import Effect, EffectPolicy, Json, StepSpec, TaskSpec, ToolInfo

SCHEMA_BYTES_MAX: Final = 6000
"""Of all schemas that a brain sees from the start, however many tools are installed: they are paid
for with every turn, and each more makes a wrong choice likelier."""

CORE: Final = (
    "shell", "read_file", "write_file", "edit_file", "apply_patch", "grep", "glob",
    "list_directory", "python", "git_status", "git_diff", "update_plan", "find_tools", "recall",
)  # fmt: skip
"""What every brain sees, in this order, so that a provider's cache serves one task after another.
Those of another toolbelt than the standard one switch it on when they are first called."""


def discover(
    task: TaskSpec, toolbox: Toolbox, facts: Mapping[str, Json] | None = None
) -> ToolsDiscovered:
    """Every tool that the task may use, what it sees at first, and what is wrong with its plan."""
    given = [*usable(task, toolbox), *native.NATIVE]
    ranked = [info for info, _ in ranking.rank(task.goal, given, facts)]
    ranked.sort(key=lambda info: info.toolbelt != "standard")
    effects: dict[str, Effect] = {}
    problems = [f"step {id_!r}: {text}" for id_, text in plan_problems(task, toolbox)]
    for step in task.plan.steps if task.plan and not problems else ():
        if step.tool is not None and not has_template(step.args):
            policy = EffectPolicy(network=task.policy.network, stated=step.effect)
            # A plug-in that cannot tell is heard of when its call is prepared.
            with suppress(Exception, SystemExit):
                effects[step.id] = Effect(toolbox.get(step.tool).effect(step.args, policy))
    return ToolsDiscovered(
        tools=[DiscoveredTool(name=t.name, toolbelt=t.toolbelt, where=t.where) for t in ranked],
        visible=visible(ranked, named=task.policy.tools),
        effects=effects,
        problems=problems,
    )


def plan_problems(task: TaskSpec, toolbox: Toolbox) -> list[tuple[str, str]]:
    """What is wrong with the task's plan, given the installed tools: the step's id, and what."""
    steps = task.plan.steps if task.plan else ()
    return [(step.id, text) for step in steps for text in _step_problems(task, step, toolbox)]


def usable(task: TaskSpec, toolbox: Toolbox) -> list[ToolInfo]:
    """What the task may use of all that is installed, sorted by name: `find_tools` looks there."""
    return [info for info in toolbox.all() if refusal(task, info) is None]


def visible(ranked: Sequence[ToolInfo], *, named: Collection[str] = ()) -> list[str]:
    """Names of what a brain sees from the start: the core, then what else there is room for.

    That is what the task's author has `named`, then standard tools, the best ranked first. What
    finds the rest has its room before all. The others are shown sorted by name: the order of what
    is seen tells nothing about the goal, and so never changes.
    """
    by_name = {info.name: info for info in ranked}
    core = [by_name[name] for name in CORE if name in by_name]
    others = [info for info in ranked if info.name in named]
    others += [info for info in ranked if info.toolbelt == "standard"]
    room = SCHEMA_BYTES_MAX
    taken: set[str] = set()
    for info in (*(i for i in core if i.name in native.NAMES), *core, *others):
        needed = schema_bytes(info) + 1  # the comma
        if info.name not in taken and needed <= room:
            taken.add(info.name)
            room -= needed
    first = [info.name for info in core if info.name in taken]
    return [*first, *sorted(taken.difference(first))]


def offered(info: ToolInfo) -> ToolInfo:
    """A tool as brains see it: without what the runtime checks anyway, and tells when it is broken.

    Bounds and closed objects make a third of most schemas, and some providers refuse them.
    """
    return replace(info, parameters=_without_bounds(info.parameters))


def schema_bytes(info: ToolInfo) -> int:
    """How long a tool is as a provider gets it: name, description and parameters, compact."""
    parameters = offered(info).parameters
    sent = {"name": info.name, "description": info.description, "parameters": parameters}
    return len(msgspec.json.encode(sent))


_BOUNDS: Final = frozenset({"minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"})


def _without_bounds(schema: Mapping[str, Json]) -> dict[str, Json]:
    shorter: dict[str, Json] = {}
    for key, value in schema.items():
        match key, value:
            case ("additionalProperties", False) | ("required", []):
                continue
            case "properties", Mapping():
                # Here the keys are arguments, and one may be called "minimum".
                shorter[key] = {name: _subschema(each) for name, each in value.items()}
            case (("items" | "additionalProperties"), _):
                shorter[key] = _subschema(value)
            case (("anyOf" | "oneOf" | "allOf"), list()):
                shorter[key] = [_subschema(each) for each in value]
            case _ if key not in _BOUNDS:
                shorter[key] = value
    return shorter


def _subschema(value: Json) -> Json:
    return _without_bounds(value) if isinstance(value, Mapping) else value


def unknown_names(task: TaskSpec, toolbox: Toolbox) -> list[str]:
    """Names in the policy that mean nothing here: an approval for `shel` would never be asked for.

    Looked at when a task is submitted, and not again: a plug-in may be gone when it goes on.
    """
    policy = task.policy
    if not (policy.toolbelts or policy.tools or policy.approvals):
        return []
    infos = [*toolbox.all(), *native.NATIVE]
    tools = [info.name for info in infos]
    belts = sorted({info.toolbelt for info in toolbox.all()} | {"standard"})
    wrong = [("toolbelts", "toolbelt", name, belts) for name in task.policy.toolbelts or ()]
    given = sorted({info.toolbelt for info in infos if info.where == "daemon"} - {"standard"})
    wrong += [("tools", "tool", name, [*tools, *given]) for name in task.policy.tools]
    found = [
        f"policy.{key}: {approvals.unknown(kind, name, known)}"
        for key, kind, name, known in wrong
        if name not in known
    ]
    rules = approvals.problems(task.policy.approvals, infos, belts)
    return found + [f"policy.approvals: {problem}" for problem in rules]


def refusal(task: TaskSpec, info: ToolInfo) -> str | None:
    """Why a task may not use a tool, with the way out; None if it may."""
    if info.name in native.NAMES:
        return None
    if info.where == "daemon" and not info.open and not _named(info, task.policy.tools):
        return (
            f"tool {info.name!r} runs outside the sandbox and is given to a task only by name: "
            f"add it to policy.tools"
        )
    allowed = task.policy.toolbelts
    if info.toolbelt != "standard" and allowed is not None and info.toolbelt not in allowed:
        return (
            f"tool {info.name!r} belongs to the toolbelt {info.toolbelt!r}, and policy.toolbelts "
            f"allows only {allowed!r}"
        )
    if info.where == "worker" and task.workspace is None:
        return f"tool {info.name!r} needs a workspace: add workspace.repo to the task"
    return None


def _named(info: ToolInfo, names: Sequence[str]) -> bool:
    """Has the task's author named a tool, or all of its toolbelt?"""
    return info.name in names or (info.toolbelt != "standard" and info.toolbelt in names)


def has_template(value: Json) -> bool:
    """Does any string in a JSON value hold a `{{ … }}` expression?"""
    match value:
        case str():
            return "{{" in value or value.lstrip().startswith("{% raw %}")
        case dict():
            return any(has_template(v) for v in value.values())
        case list() | tuple():
            return any(has_template(v) for v in value)
        case _:
            return False


def _step_problems(task: TaskSpec, step: StepSpec, toolbox: Toolbox) -> Iterator[str]:
    ways: Sequence[tuple[str | None, dict[str, Json]]] = [(step.tool, step.args)]
    if step.alternative is not None:
        ways = [*ways, (step.alternative.tool, step.alternative.args)]
    for name, args in ways:
        if name is None:
            continue
        info = toolbox.find(name)
        if info is None:
            yield approvals.unknown("tool", name, _names(toolbox))
        elif why := refusal(task, info):
            yield why
        elif not has_template(args):
            yield from schema.check(args, info.parameters)


def _names(toolbox: Toolbox) -> list[str]:
    return [info.name for info in toolbox.all()]
