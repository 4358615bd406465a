"""A fork: another task that begins with the first events of this one, and where that may be.

`cut` judges a wish, `with_input` puts another answer or result in the place of the last event,
`forked` folds the event that makes a task of its own of what was copied. The world outside is not
forked: what a call of the parent has done there is done, for the fork too.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.errors import Conflict, NotFound, UsageError
from agent_runtime.loop import events as e
from agent_runtime.loop.folding import Changes, moved, replace
from agent_runtime.loop.state import CallState, Result, State, StepState
from agent_runtime.messages import ToolUse
from agent_runtime.types import ForkSpec, StepStatus, TaskSpec

Appends = Sequence[tuple[int, int]]
"""First and last number of each append of a log, as `replay` finds them."""


def cut(events: Sequence[e.AnyEvent], appends: Appends, wish: ForkSpec) -> int:
    """How many events of the parent are copied as they are: all up to `wish.at`, or to before it.

    What was decided together stays together: all of it follows from its first event.

    Raises:
        NotFound: there is no such event.
        Conflict: it was decided together with a later one, or the task, or a run of it, ends there.
        UsageError: what shall be replaced is not what event `wish.at` is.
    """
    at = wish.at
    if not 1 <= at <= len(events):
        raise NotFound(f"there is no event {at}: the log ends at {len(events)}")
    first, last = next((pair for pair in appends if pair[0] <= at <= pair[1]), (0, 0))
    if not first:
        known = appends[-1][1] if appends else 0
        raise Conflict(
            f"event {at} cannot be forked at: this version of the runtime decides the log "
            f"differently after event {known} (`agent-runtime replay` says how), so it cannot tell "
            f"there what was decided together; fork at event {known} or before"
        )
    if wish.answer is not None or wish.result is not None:
        _refuse_unless_input(events, wish)
        return at - 1
    if isinstance(events[at - 1], e.TaskEnded):
        raise Conflict(
            f"the task ends with event {at}, so nothing would follow; fork it before its end was "
            "decided, or open it again with `agent-runtime continue`"
        )
    if at != last:
        ways = [f"{first - 1} (before them)"] if first > 1 else []
        if not isinstance(events[last - 1], e.TaskEnded):
            ways.append(f"{last} (after them)")
        raise Conflict(
            f"event {at} was decided together with events {first} to {last}, which all follow from "
            f"the first of them; fork at event {' or '.join(ways)}"
        )
    return at


def _refuse_unless_input(events: Sequence[e.AnyEvent], wish: ForkSpec) -> None:
    if wish.answer is not None and wish.result is not None:
        raise UsageError("an answer and a result cannot both stand in one event's place: give one")
    answers = wish.answer is not None
    kinds = (e.ModelReplied, e.ModelFailed) if answers else (e.CallReturned,)
    if isinstance(event := events[wish.at - 1], kinds):
        return
    there = [str(seq) for seq, event in enumerate(events, 1) if isinstance(event, kinds)]
    what = "a model's answer" if answers else "the result of a call"
    raise UsageError(
        f"event {wish.at} is a {type(event).__name__}, not {what}; "
        + (f"those are {', '.join(there[-20:])}" if there else "this log has none")
    )


def with_input(event: e.AnyEvent, wish: ForkSpec) -> e.InputEvent | None:
    """What stands in the place of the parent's event; None if nothing does.

    A result says something else; what the call did to the files is as it was. An answer costs what
    the one cost in whose place it stands.
    """
    if wish.result is not None:
        assert isinstance(event, e.CallReturned)
        said = wish.result
        return replace(
            event,
            ok=said.ok,
            output=said.output,
            exit=said.exit,
            kind="" if said.ok else said.kind or "failed",
            data=said.data,
            output_blob="",
            output_bytes=len(said.output.encode()),
            paths=[],
        )
    if wish.answer is None:
        return None
    assert isinstance(event, e.ModelReplied | e.ModelFailed)
    calls = [
        ToolUse(id=f"fork_{number}", name=call.name, arguments=call.arguments)
        for number, call in enumerate(wish.answer.calls, 1)
    ]
    return e.ModelReplied(
        step_id=event.step_id,
        turn=event.turn,
        text=wish.answer.text,
        calls=calls,
        stop="calls" if calls else "end",
        usage=event.usage,
        usd=event.usd,
    )


def changed_task(task: TaskSpec, wish: ForkSpec) -> TaskSpec:
    """The task from the fork on. It always has a working copy of its own."""
    workspace = task.workspace
    if workspace is not None and workspace.in_place:
        workspace = replace(workspace, in_place=False)
    return replace(
        task,
        workspace=workspace,
        model=wish.model or task.model,
        policy=wish.policy or task.policy,
    )


def replaced(wish: ForkSpec) -> list[e.Replaced]:
    """What the fork has that its parent had not."""
    wished: list[tuple[e.Replaced, object]] = [
        ("answer", wish.answer),
        ("result", wish.result),
        ("model", wish.model),
        ("policy", wish.policy),
        ("message", wish.message or None),
    ]
    return [name for name, value in wished if value is not None]


# ---- the fold ----------------------------------------------------------------------------


def forked(state: State, event: e.Forked, at_us: int) -> Changes:
    """What `Forked` changes: whatever the parent's owner had going on is nobody's any more.

    Open calls are settled by the next owner, as after a crash, and running again costs nothing
    more. A model that was to be asked is asked by the fork's first owner, for the first time. What
    a person allowed was allowed to the parent, and once. That the parent was held holds no fork.
    """
    running = [k for k, c in state.calls.items() if c.epoch == state.epoch and not c.lost]
    given_back = running if state.alive else []
    before = replace(state, usage=replace(state.usage, steps=state.usage.steps - len(given_back)))
    changes = _thinking(before, event)
    steps = changes.get("steps", state.steps)
    return {
        **changes,
        "spec": event.spec,
        "forked": event,
        "keys": {**_keys(state, event.parent), **state.keys},
        "created_at_us": at_us,
        "epoch": 0,
        "owner": "",
        "alive": False,
        "crashes": 0,
        "paused": False,
        "asked_once": {},
        "workspace": replace(state.workspace, path=event.path, notes=event.notes)
        if state.workspace is not None and event.path
        else state.workspace,
        # The fork's sandboxes begin a record of their own.
        "reached": replace(state.reached, mark=0),
        "steps": {
            k: replace(s, approval_id="", granted=None, edited=None) for k, s in steps.items()
        },
        "calls": {
            k: replace(
                call,
                epoch=0,
                runs=call.runs - (k in given_back),
                message=call.message or _left_open(event),
            )
            for k, call in state.calls.items()
        },
        "approvals": {},
        "expired": frozenset(),
    }


def _thinking(state: State, event: e.Forked) -> Changes:
    """The question that is open, and who will be asked it."""
    usage, asking = state.usage, state.asking
    if "model" not in event.replaced:
        # Its step was given back when the parent's owner stopped, and is taken again.
        again = asking is not None and not state.alive and not state.asked_client
        return {
            "asked_in_epoch": 0,
            "brain_epoch": 0,
            "usage": replace(usage, steps=usage.steps + again),
        }
    changes: Changes = {
        "brain": event.brain,
        "conversation": replace(state.conversation, model=0, faults=0),
        "usage": usage,
        "asking": None,
    }
    if asking is None:
        return changes
    if asking.step_id:
        lost = Result(True)
        changes |= moved(state, asking.step_id, event, StepStatus.EVALUATING, result=lost)
    changes["usage"] = replace(
        usage,
        steps=usage.steps - (state.alive and not state.asked_client),
        reserved_tokens=usage.reserved_tokens - asking.reserved_tokens,
        reserved_usd=usage.reserved_usd - asking.reserved_usd,
    )
    return changes


def _left_open(event: e.Forked) -> str:
    return f"it was running when the task was forked from {event.parent} at event {event.at}"


def call_key(step: StepState, call: CallState) -> str:
    """What tells an idempotent call from the others of its task; see `step_key`."""
    return step_key(step) if call.intent.turn is None else call.intent.call_id


def step_key(step: StepState) -> str:
    """The same for every run of a call of the plan and for its repetition after a time-out.

    Another one after a known failure, which a server may have remembered under the old key, and
    for the alternative. A model's calls are never repeated by the runtime: each has its own.
    """
    way = "alternative" if step.alternative else "first"
    return f"{step.spec.id}/{way}/{step.known_failures}"


def _keys(state: State, parent: str) -> dict[str, str]:
    """Keys that calls of the parent have used and that calls of the fork may use again."""
    used = [call_key(state.steps[c.intent.step_id], c) for c in state.calls.values()]
    used += [
        step_key(step)
        for step in state.steps.values()
        # What timed out or was lost is made again under the key that it had.
        if not step.ended and step.attempt and (step.timeouts or step.transients)
    ]
    return dict.fromkeys(used, parent)
