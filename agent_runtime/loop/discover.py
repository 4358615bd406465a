"""Ranking registered tools against a goal, and checking a given plan against them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from agent_runtime import schema
from agent_runtime.loop.events import DiscoveredTool, ToolsDiscovered
from agent_runtime.ports import Toolbox
from agent_runtime.types import Effect, EffectPolicy, Json, StepSpec, TaskSpec, ToolInfo

VISIBLE_MAX = 40
"""Tools that a brain sees from the start: more of them costs tokens and wrong choices."""


def discover(task: TaskSpec, toolbox: Toolbox) -> ToolsDiscovered:
    """Every tool that the task may use, what it sees at first, and what is wrong with its plan."""
    given = [info for info in toolbox.all() if refusal(task, info) is None]
    wanted = set(_words(task.goal))
    ranked = sorted(given, key=lambda t: (t.toolbelt != "standard", -_score(t, wanted), t.name))
    visible = [t.name for t in ranked if t.toolbelt == "standard"][:VISIBLE_MAX]
    effects: dict[str, Effect] = {}
    problems: list[str] = []
    for step in task.plan.steps if task.plan else ():
        problems += _plan_problems(task, step, toolbox)
        if not problems and step.tool is not None and not has_template(step.args):
            policy = EffectPolicy(network=task.policy.network, stated=step.effect)
            # A plug-in that cannot tell is heard of when its call is prepared.
            with suppress(Exception, SystemExit):
                effects[step.id] = Effect(toolbox.get(step.tool).effect(step.args, policy))
    return ToolsDiscovered(
        tools=[DiscoveredTool(name=t.name, toolbelt=t.toolbelt, where=t.where) for t in ranked],
        visible=visible,
        effects=effects,
        problems=problems,
    )


def unknown_names(task: TaskSpec, toolbox: Toolbox) -> list[str]:
    """Names in the policy that mean nothing here: an approval for `shel` would never be asked for.

    Looked at when a task is submitted, and not again: a plug-in may be gone when it goes on.
    """
    tools = _names(toolbox)
    belts = sorted({info.toolbelt for info in toolbox.all()} | {"standard"})
    wrong = [("toolbelts", "toolbelt", name, belts) for name in task.policy.toolbelts or ()]
    wrong += [("tools", "tool", name, tools) for name in task.policy.tools]
    wrong += [("approvals", "tool", name, tools) for name in task.policy.approvals]
    return [
        f"policy.{key}: {_unknown(kind, name, known)}"
        for key, kind, name, known in wrong
        if name not in known
    ]


def refusal(task: TaskSpec, info: ToolInfo) -> str | None:
    """Why a task may not use a tool, with the way out; None if it may."""
    if info.where == "daemon" and info.name not in task.policy.tools:
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


def _plan_problems(task: TaskSpec, step: StepSpec, toolbox: Toolbox) -> list[str]:
    problems: list[str] = []
    ways: Sequence[tuple[str | None, dict[str, Json]]] = [(step.tool, step.args)]
    if step.alternative is not None:
        ways = [*ways, (step.alternative.tool, step.alternative.args)]
    for name, args in ways:
        if name is None:
            continue
        info = toolbox.find(name)
        if info is None:
            problems.append(f"step {step.id!r}: {_unknown('tool', name, _names(toolbox))}")
            continue
        if why := refusal(task, info):
            problems.append(f"step {step.id!r}: {why}")
        if not has_template(args):
            problems += [f"step {step.id!r}: {p}" for p in schema.check(args, info.parameters)]
    return problems


def _names(toolbox: Toolbox) -> list[str]:
    return [info.name for info in toolbox.all()]


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = schema.nearest(name, known)
    way_out = f"did you mean {near!r}?" if near else "`agent-runtime tools` lists what is installed"
    return f"no {kind} is called {name!r}; {way_out}"


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", text.lower())


def _score(info: ToolInfo, wanted: set[str]) -> int:
    return len(wanted & set(_words(f"{info.name.replace('_', ' ')} {info.description}")))
