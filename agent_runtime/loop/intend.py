"""Whether a call that was made ready may begin: lane, budget, policy and the approval it needs."""

from __future__ import annotations

from agent_runtime.loop import approvals, budget, native
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import in_conversation, lane_is_taken
from agent_runtime.loop.outcomes import CallPrepared
from agent_runtime.loop.state import State, StepState
from agent_runtime.types import Effect, Policy, StepStatus


def intend(state: State, prepared: CallPrepared, at_us: int) -> e.Events:
    """The intent of a call, or what stands in its way; nothing, if it is not to begin now."""
    step = state.steps[prepared.step_id]
    stale = not may_call(step) or step.tool is None or step.call_id != prepared.call_id
    if stale or step.approval_id or not may_start(state):
        return ()
    if in_conversation(state) not in (None, prepared.step_id):
        return ()
    if prepared.effect is not Effect.READ and lane_is_taken(state):
        return ()  # another was intended while this one was made ready: its tree will be another
    if exhausted := budget.attempt_fits(state):
        return (exhausted,)
    if step.status is StepStatus.RUNNING and prepared.effect is not Effect.READ:
        # Its tool said so when it was asked for, and says something else now.
        return (
            e.PreparationFailed(
                step_id=prepared.step_id,
                kind="internal",
                message=f"{prepared.tool!r} was to run beside others because it only reads, and "
                f"now says that its effect is {prepared.effect}; call it alone",
            ),
        )
    approval_id = ""
    tool = state.tools.get(prepared.tool) or e.DiscoveredTool(
        name=prepared.tool, toolbelt="", where=""
    )
    decision, rule = approvals.decision_for(state.task.policy, tool, prepared.arguments)
    if prepared.tool in native.NAMES:
        decision = "allow"  # it shows what the task has already: `"*": ask` is not about that
    match decision:
        case "deny":
            return (
                e.PreparationFailed(
                    step_id=prepared.step_id,
                    kind="denied",
                    message=f"policy.approvals denies {prepared.tool!r}{approvals.by(rule, tool)}",
                ),
            )
        case "ask" if given := state.trusted.get(approvals.trust(prepared.tool, rule)):
            approval_id = given
        case "ask":
            digest = call_digest(prepared, state.task.policy)
            if step.granted is None or step.granted[1] != digest:
                by = approvals.by(rule, tool)
                return (_ask_person(state, step, prepared, digest, at_us, by=by, rule=rule),)
            approval_id = step.granted[0]
        case "allow":
            pass
    return (
        e.CallIntended(
            step_id=prepared.step_id,
            call_id=prepared.call_id,
            attempt=step.attempt + 1,
            tool=prepared.tool,
            arguments=dict(prepared.arguments),
            effect=prepared.effect,
            tree_before=prepared.tree_before,
            approval_id=approval_id,
            turn=step.turn if step.spec.tool is None else None,
        ),
    )


def may_start(state: State) -> bool:
    """Does anything new begin?"""
    return not (state.stopping or state.paused or state.abort or state.conclusion)


def may_call(step: StepState) -> bool:
    """Calls of one turn that only read begin while others run."""
    if step.withdrawn:
        return False
    return step.status is StepStatus.READY or (
        step.spec.tool is None and step.status is StepStatus.RUNNING and step.tool is not None
    )


def call_digest(prepared: CallPrepared, policy: Policy) -> str:
    """What an approval is bound to: tool, arguments, the tree they would meet, and the policy."""
    return approvals.digest(prepared.tool, prepared.arguments, prepared.tree_before, policy)


def _ask_person(
    state: State,
    step: StepState,
    prepared: CallPrepared,
    digest: str,
    at_us: int,
    *,
    by: str,
    rule: str,
) -> e.ApprovalRequested:
    return e.ApprovalRequested(
        approval_id=f"a{state.approvals_made + 1}",
        step_id=step.spec.id,
        subject="call",
        tool=prepared.tool,
        arguments=dict(prepared.arguments),
        digest=digest,
        tree_before=prepared.tree_before,
        expires_at_us=at_us + int(state.task.policy.approval_seconds * 1e6),
        question=f"May step {step.spec.id!r} call {prepared.tool!r}?"
        + (f" (asked{by})" if by else ""),
        rule=rule,
        preview=prepared.preview,
    )
