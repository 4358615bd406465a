"""Whether a task's decisions would be made again, and what one rests on: `replay`, `why`."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from agent_runtime.cli.console import (
    emit,
    emit_line,
    json_option,
    one_line,
    say,
    task_argument,
)
from agent_runtime.cli.reach import Tasks, with_tasks
from agent_runtime.cli.words import words
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.loop.replay import Replayed, Told
from agent_runtime.loop.why import Link
from agent_runtime.types import Json, Row

_DEPTH = 3
_WORDS_CHARS = 120
_VALUE_CHARS = 500


# ---- replay ------------------------------------------------------------------------------


@click.command(
    short_help="Decide a task again from its recorded inputs, and compare.",
    epilog="""\b
Examples:
  agent-runtime replay 4f2a
  agent-runtime replay 4f2a --json

\b
Exit codes:
  0 every decision is made again, 1 one is not (or the log was changed), 5 no such task
""",
)
@task_argument
@json_option
@click.pass_context
def replay(ctx: click.Context, task: str, as_json: bool) -> int:
    """Decide a task again from its recorded inputs, and compare.

    What came from outside (results of calls, a model's answers, people's wishes) is fed to the
    runtime's core in recorded order, and each decision must be the stored one, byte for byte.
    Nothing is run and no model is asked.
    """

    async def do(tasks: Tasks) -> int:
        found = await tasks.replay(await tasks.find(task))
        if as_json:
            emit_line(_replayed_json(found))
        else:
            for line in _replayed_lines(found):
                say(line)
        return 0 if found.ok else 1

    return with_tasks(ctx, do)


def _replayed_json(found: Replayed) -> dict[str, Json]:
    difference = found.difference
    return {
        "ok": found.ok,
        "task_id": found.task_id,
        "events": found.events,
        "inputs": found.inputs,
        "decisions": found.decisions,
        "loop_version": {"log": found.loop_version, "here": LOOP_VERSION},
        "difference": None
        if difference is None
        else {
            "seq": difference.seq,
            "input": difference.cause,
            "words": difference.words,
            "stored": _told_json(difference.stored),
            "decided": _told_json(difference.decided),
            "fields": [
                {"name": name, "stored": stored, "decided": decided}
                for name, stored, decided in difference.differing()
            ],
        },
    }


def _told_json(told: Told | None) -> Json:
    return None if told is None else {"type": told.type, "data": told.fields}


def _replayed_lines(found: Replayed) -> list[str]:
    difference = found.difference
    if difference is None:
        older = found.loop_version != LOOP_VERSION
        how = f"field for field (begun with version {found.loop_version} of the loop, this is "
        how = f"{how}version {LOOP_VERSION})" if older else "byte for byte"
        return [
            f"{found.task_id}: {found.inputs} inputs gave the same {found.decisions} decisions "
            f"again, {how} ({found.events} events)"
        ]
    lines = [
        f"{found.task_id}: decided differently at {difference.seq}: "
        f"{one_line(difference.words, _VALUE_CHARS)}",
        *_side("stored", difference.stored),
        *_side("decided now", difference.decided),
    ]
    if difference.cause != difference.seq:
        lines.append(f"  it follows from event {difference.cause}")
    if found.loop_version != LOOP_VERSION:
        lines.append(
            f"  the task was begun with version {found.loop_version} of the loop, and this is "
            f"version {LOOP_VERSION}: other rules may decide differently"
        )
    lines.append(f"  {found.inputs} inputs and {found.decisions} decisions before it are the same")
    return lines


def _side(name: str, told: Told | None) -> list[str]:
    if told is None:
        return [f"  {name}: nothing"]
    text = msgspec.json.encode(told.fields).decode()
    return [f"  {name}: {told.type} {one_line(text, _VALUE_CHARS)}"]


# ---- why ---------------------------------------------------------------------------------


@click.command(
    short_help="Tell which events a decision rests on, and by which rule.",
    epilog="""\b
Examples:
  agent-runtime why 4f2a             why it ended, or stands where it does
  agent-runtime why 4f2a 23          why event 23 was decided
  agent-runtime why 4f2a 23 --depth 1
""",
)
@task_argument
@click.argument("event", metavar="[EVENT]", type=click.IntRange(min=1), required=False)
@click.option(
    "--depth", type=click.IntRange(min=0), default=_DEPTH, show_default=True, metavar="N",
    help="How many events deep to look.",
)  # fmt: skip
@json_option
@click.pass_context
def why(ctx: click.Context, task: str, event: int | None, depth: int, as_json: bool) -> int:
    """Tell which events a decision rests on, and by which rule.

    EVENT is a number, as `logs` prints it; without one, the end of the task is meant, or the last
    decision of one that has not ended. Below each event, further in, stands what it rests on.
    """

    async def do(tasks: Tasks) -> None:
        task_id = await tasks.find(task)
        rows, links = await tasks.why(task_id, event, depth)
        if as_json:
            emit(
                {
                    "task_id": task_id,
                    "seq": links[0].seq,
                    "chain": [_link_json(rows, link) for link in links],
                }
            )
            return
        for link in links:
            say(_link_line(rows, link))

    return with_tasks(ctx, do)


def _link_json(rows: Sequence[Row], link: Link) -> dict[str, Json]:
    row = rows[link.seq - 1]
    event = codec.decode(row)
    return {
        "seq": link.seq,
        "depth": link.depth,
        "type": row.type,
        "decision": isinstance(event, e.DecisionEvent),
        "words": words(event),
        "rule": link.grounds.rule,
        "file": link.grounds.file,
        "because": list(link.grounds.because),
        "more": link.grounds.more,
    }


def _link_line(rows: Sequence[Row], link: Link) -> str:
    row, grounds = rows[link.seq - 1], link.grounds
    told = one_line(words(codec.decode(row)), _WORDS_CHARS)
    more = f"; and {grounds.more} events more" if grounds.more else ""
    place = f" ({grounds.file})" if grounds.file else ""
    return f"{'   ' * link.depth}{row.seq} {row.type}  {told}  <- {grounds.rule}{place}{more}"
