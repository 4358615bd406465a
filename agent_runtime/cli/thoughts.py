"""What a task's brain did, for `show`: who thinks, how often it was asked, what that cost."""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.cli.console import lasted, one_line
from agent_runtime.cli.words import words
from agent_runtime.loop import events as e
from agent_runtime.loop.state import NO_BRAIN, State, model_asked
from agent_runtime.messages import ModelUsage
from agent_runtime.types import Json

PLAN_TOOL = "update_plan"


def thinking_of(state: State, events: Sequence[e.AnyEvent]) -> dict[str, Json] | None:
    """The brain, its turns and their cost by model; None if the task needed none."""
    if state.brain is None:
        return None
    asked = model_asked(state)
    replies = [event for event in events if isinstance(event, e.ModelReplied)]
    faults = [event for event in events if isinstance(event, e.ModelFailed)]
    said = [reply.text for reply in replies if reply.text.strip()]
    return {
        "brain": state.brain.kind,
        "why": state.brain.why,
        "models": [model.name for model in state.brain.models],
        "model": asked.name if asked is not None else None,
        "offers": state.brain.offers,
        "turns": len(replies),
        "by_model": _by_model(replies),
        "faults": [{"error": fault.error, "message": fault.message} for fault in faults],
        "compactions": state.conversation.compacted,
        "prompt_tokens": state.conversation.prompt_tokens(),
        "tools_shown": list(state.conversation.shown),
        "last_said": said[-1] if said else "",
        "plan": own_plan(events),
        "requirements": next(
            (x.requirements for x in reversed(events) if isinstance(x, e.PlanAdopted)), []
        ),
    }


def _by_model(replies: Sequence[e.ModelReplied]) -> list[dict[str, Json]]:
    found: dict[str, dict[str, Json]] = {}
    for reply in replies:
        usage: ModelUsage = reply.usage
        name = reply.model or reply.by or "unknown"
        one = found.setdefault(
            name,
            {"model": name, "turns": 0, "input": 0, "cached": 0, "output": 0, "usd": 0.0,
             "seconds": 0.0},
        )  # fmt: skip
        one["turns"] += 1
        one["input"] += usage.input
        one["cached"] += usage.cached
        one["output"] += usage.output
        one["usd"] += reply.usd
        one["seconds"] += reply.seconds
    return list(found.values())


def own_plan(events: Sequence[e.AnyEvent]) -> str:
    """The plan that the brain wrote down last, as `update_plan` rendered it."""
    tools = {x.call_id: x.tool for x in events if isinstance(x, e.CallIntended)}
    for event in reversed(events):
        if isinstance(event, e.CallReturned) and event.ok:
            if tools.get(event.call_id) == PLAN_TOOL:
                return event.output
    return ""


def thinking_lines(state: State, picture: dict[str, Json]) -> list[str]:
    """The same for people."""
    assert state.brain is not None
    if state.brain.kind in NO_BRAIN:
        return ["brain      nobody can think for it"]
    lines = [f"brain      {one_line(words(state.brain), 1000)}"]
    for one in picture["by_model"]:
        cached = f" ({one['cached']:,} cached)" if one["cached"] else ""
        lines.append(
            f"  {one['model']}: {one['turns']} turns, {one['input']:,}{cached} tokens in, "
            f"{one['output']:,} out, ${one['usd']:.4f}, {lasted(one['seconds'])} thinking"
        )
    unpriced = [model.name for model in state.brain.models if not model.priced]
    if unpriced:
        known = ", ".join(unpriced)
        lines.append(f"  no price is known for {known}: limits.usd cannot hold, limits.tokens does")
    counts: dict[str, int] = {}
    for fault in picture["faults"]:
        counts[fault["error"]] = counts.get(fault["error"], 0) + 1
    if counts:
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        lines.append(f"  without an answer: {told}; the last: {_last_fault(picture)}")
    if picture["compactions"]:
        lines.append(f"  the conversation was compacted {picture['compactions']} times")
    if picture["last_said"]:
        lines.append(f"  said last: {one_line(picture['last_said'], 300)}")
    if picture["plan"]:
        lines += ["  its plan:", *(f"    {line}" for line in picture["plan"].splitlines())]
    return lines


def _last_fault(picture: dict[str, Json]) -> str:
    return one_line(picture["faults"][-1]["message"], 200)
