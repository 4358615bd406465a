"""What a step's attempt came to: good, failed, unknown, or another turn of its conversation."""

from __future__ import annotations

from agent_runtime.loop import events as e
from agent_runtime.loop import stuck
from agent_runtime.loop.state import State, StepState
from agent_runtime.types import FailureKind


def evaluate(state: State, step: StepState, at_us: int) -> e.Events:
    """The transition rule after an attempt: good, failed, or go on with the conversation."""
    assert step.result is not None
    if step.spec.tool is None:
        return _evaluate_turn(state, step)
    if step.result.unknown and not step.result.judged:
        return _judge_unknown(state, step, at_us)
    step_id = step.spec.id
    reason = _shortfall(step)
    if not reason:
        if step.result.judged:
            judged = e.StepEvaluated(step_id=step_id, verdict="good", reason=step.result.reason)
            return (judged, e.StepSucceeded(step_id=step_id))
        return (e.StepSucceeded(step_id=step_id),)
    return (
        e.StepEvaluated(
            step_id=step_id, verdict="failed", kind=step.result.kind or "failed", reason=reason
        ),
    )


def _evaluate_turn(state: State, step: StepState) -> e.Events:
    """A turn has ended: done, in circles, in need of a toolbelt, or on with the next."""
    step_id, result, conversation = step.spec.id, step.result, state.conversation
    assert result is not None

    def found(verdict: e.Verdict, kind: FailureKind = "", reason: str = "") -> e.StepEvaluated:
        return e.StepEvaluated(step_id=step_id, verdict=verdict, kind=kind, reason=reason)

    if not result.ok:
        return (found("failed", result.kind, result.reason),)
    if conversation.format_errors >= stuck.FORMAT_ERRORS_MAX:
        why = f"{conversation.format_errors} answers in a row could not be used"
        return (found("failed", "stuck", f"{why}: {result.reason}"),)
    if why := stuck.circle(conversation.trail):
        if conversation.nudged:
            return (found("failed", "stuck", f"it goes in circles: {why}, also after a warning"),)
        # What goes wrong in a tool is data for the model; that it goes in circles, too.
        return (found("continue", "stuck", why),)
    if step.finished and not conversation.notes:
        return (e.StepSucceeded(step_id=step_id),)
    belt = step.wanted_toolbelt
    if belt and belt not in state.toolbelts:
        return (
            e.StepEvaluated(
                step_id=step_id,
                verdict="toolbelt",
                toolbelt=belt,
                reason=f"find_tools found tools of the toolbelt {belt!r}",
            ),
        )
    return (found("continue"),)


def _judge_unknown(state: State, step: StepState, at_us: int) -> e.Events:
    step_id = step.spec.id
    assert step.result is not None
    match state.task.policy.unknown_effect:
        case "fail":
            return (
                e.StepEvaluated(
                    step_id=step_id,
                    verdict="failed",
                    kind="unknown_effect",
                    reason=step.result.reason,
                ),
            )
        case "continue":
            return (
                e.StepEvaluated(
                    step_id=step_id, verdict="good", reason="unknown effect; the policy goes on"
                ),
                e.StepSucceeded(step_id=step_id),
            )
        case "ask":
            if step.approval_id:
                return ()
            if state.abort is not None:
                return (e.StepSkipped(step_id=step_id, reason="the task is aborted"),)
            approval_id = f"a{state.approvals_made + 1}"
            return (
                e.ApprovalRequested(
                    approval_id=approval_id,
                    step_id=step_id,
                    subject="unknown_effect",
                    tool=step.tool or "",
                    arguments={},
                    digest="",
                    expires_at_us=at_us + int(state.task.policy.approval_seconds * 1e6),
                    question=(
                        f"{step.result.reason} Approve to go on as if step {step_id!r} had "
                        "succeeded, deny to treat it as failed."
                    ),
                ),
            )


def _shortfall(step: StepState) -> str:
    """Why the result is not what the step expects; empty if it is."""
    result, expect = step.result, step.spec.expect
    assert result is not None
    told = result.reason.strip()
    if result.exit is not None:
        told = f"exit {result.exit}" + (f": {told}" if told else "")
    if expect is None or result.judged:
        return "" if result.ok else told or "it failed"
    if not result.ok and (result.exit is None or expect.exit is None):
        return told or "it failed"
    if expect.exit is not None and result.exit != expect.exit:
        return f"expected exit {expect.exit}, got {told}"
    if expect.contains is not None and expect.contains not in result.output:
        return f"its output does not contain {expect.contains!r}"
    return ""
