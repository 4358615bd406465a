"""Calls that can be made ready, or settled after a crash, without waiting for anything.

Their intent joins the append of what came before: one durable write a step instead of two, and the
same events in the same order. What needs the world (a condition, a template, a tree) and whatever
is wrong with a call is left to `calls.prepare`, which can wait and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent_runtime import schema
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import Action, PrepareCall, ResolveCall
from agent_runtime.loop.discover import has_template, refusal
from agent_runtime.loop.outcomes import CallPrepared
from agent_runtime.loop.recovery import OWNER_DIED
from agent_runtime.loop.state import State, StepState
from agent_runtime.ports.tools import Toolbox
from agent_runtime.types import Effect, EffectPolicy, Phase


def ready_call(state: State, wanted: Iterable[Action], toolbox: Toolbox) -> CallPrepared | None:
    """The first call that `state` wants prepared and needs nothing for it; None: there is none."""
    if state.stage is not Phase.EXECUTION:
        return None
    for action in wanted:
        if isinstance(action, PrepareCall):
            step = state.steps[action.step_id]
            prepared = _prepared(state, step, action.call_id, toolbox)
            if prepared is not None:
                return prepared
    return None


def ready_resolution(
    state: State, wanted: Iterable[Action], toolbox: Toolbox
) -> e.CallResolved | None:
    """What is known at once about a call whose owner died: one that only read, in that process.

    Whatever ran in a sandbox, or changed something, is for `calls.resolve`.
    """
    for action in wanted:
        if not isinstance(action, ResolveCall):
            continue
        call = state.calls[action.call_id]
        info = toolbox.find(call.intent.tool)
        here = info is not None and info.where == "daemon"
        if here and call.intent.effect is Effect.READ and not call.lost:
            resolution: e.Resolution = "rerun" if action.again else "dropped"
            return e.CallResolved(call_id=action.call_id, resolution=resolution, message=OWNER_DIED)
    return None


def _prepared(state: State, step: StepState, call_id: str, toolbox: Toolbox) -> CallPrepared | None:
    if step.spec.tool is None or step.spec.when is not None:
        return None
    name = step.tool
    info = toolbox.find(name) if name is not None else None
    if name is None or info is None or refusal(state.task, info) is not None:
        return None
    if (has_template(step.args) and not step.requested) or schema.check(step.args, info.parameters):
        return None
    stated = None if step.alternative else step.spec.effect
    policy = EffectPolicy(network=state.task.policy.network, stated=stated)
    try:
        effect = stated or Effect(toolbox.get(name).effect(dict(step.args), policy))
    except (Exception, SystemExit):  # noqa: BLE001 - a plug-in; `calls.prepare` tells of it
        return None
    if effect is not Effect.READ and info.where == "worker":
        return None  # a tree is taken first
    return CallPrepared(
        step_id=step.spec.id,
        call_id=call_id,
        tool=name,
        arguments=dict(step.args),
        effect=effect,
    )
