"""The two tools that the loop answers itself: `find_tools` and `recall`.

They read what the task may use and its own log; no plug-in, worker or sandbox is asked.
"""

from __future__ import annotations

import msgspec

from agent_runtime.loop import codec, native, ranking
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import turn_name
from agent_runtime.loop.discover import usable
from agent_runtime.loop.hands import Hands
from agent_runtime.toolkit import OUTPUT_CHARS_MAX
from agent_runtime.types import BlobId, ToolResult

PAGE_CHARS = OUTPUT_CHARS_MAX - 500
"""Of one `recall`: the rest is read from where it ended."""


async def answer(intent: e.CallIntended, hands: Hands) -> ToolResult:
    """What the brain asked for; its arguments fit the schema."""
    match intent.tool:
        case native.FIND_TOOLS.name:
            return _find_tools(str(intent.arguments["query"]), hands)
        case native.RECALL.name:
            start = intent.arguments.get("start", 0)
            return await _recall(str(intent.arguments["ref"]), int(start), hands)
        case _:
            raise AssertionError(f"{intent.tool!r} is no tool of the loop")


def _find_tools(query: str, hands: Hands) -> ToolResult:
    state = hands.state
    facts = state.analysis.facts if state.analysis is not None else {}
    ranked = ranking.rank(query, usable(state.task, hands.ports.toolbox), facts)
    text, data = ranking.found(query, ranked, state.toolbelts)
    return ToolResult(ok=True, output=text, data=data)


async def _recall(ref: str, start: int, hands: Hands) -> ToolResult:
    text = await _recalled(ref.strip(), hands)
    if text is None:
        return ToolResult(
            ok=False,
            kind="not_found",
            output=f"nothing is called {ref!r}: a ref is a call of yours, such as "
            "'work.t3.0' (the first call of the third turn of step 'work'), or a turn, such as "
            "'work.t3', as the note in its place says",
        )
    if start >= len(text) and start:
        said = f"{ref!r} has {len(text):,} characters, and nothing at {start:,}"
        return ToolResult(ok=False, kind="bad_input", output=said)
    page = text[start : start + PAGE_CHARS]
    end = start + len(page)
    if start == 0 and end == len(text):
        return ToolResult(ok=True, output=page)
    head = f"[characters {start:,} to {end:,} of {len(text):,}"
    head += f"; go on with start={end}]" if end < len(text) else "; that is the end]"
    return ToolResult(ok=True, output=f"{head}\n{page}")


async def _recalled(ref: str, hands: Hands) -> str | None:
    """The full text of a call's result, or of a turn of the brain, from the log."""
    store, task_id = hands.ports.store, hands.lease.task_id
    found: str | None = None
    for row in await store.load(task_id):
        if row.type not in _TELLING:
            continue
        match codec.decode(row):
            case e.CallReturned(call_id=call_id, output_blob=blob, output=output) if call_id == ref:
                found = output
                if blob:
                    found = (await store.get_blob(BlobId(blob))).decode("utf-8", "replace")
            case e.ModelReplied(step_id=step, turn=turn) as said:
                if ref == turn_name(step, turn):
                    found = _turn(said)
            case _:
                pass
    return found


def _turn(said: e.ModelReplied) -> str:
    """What the brain said, and what it asked for: long arguments are cut when turns are folded."""
    lines = [said.text] if said.text else []
    for use in said.calls:
        given = use.raw if use.arguments is None else msgspec.json.encode(use.arguments).decode()
        lines.append(f"{use.name} {given}")
    return "\n".join(lines)


_TELLING = frozenset({"CallReturned", "ModelReplied"})
