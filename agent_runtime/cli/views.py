"""How a driven task looks: plain lines, or the log's rows as JSON. On a terminal see `live`."""

from __future__ import annotations

from typing import Protocol

from agent_runtime.cli.asked import say_details
from agent_runtime.cli.console import (
    clock_time,
    command,
    emit_line,
    note,
    row_json,
    say,
    short,
)
from agent_runtime.cli.words import asked_words, phase_words, told_words, warns, worth_telling
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State, status_of
from agent_runtime.types import Row, Status


class View(Protocol):
    """Shows a task to whoever started it. A failed write is the caller's to handle."""

    def resumed(self, state: State) -> None:
        """What follows is new; `state` is where the task stood."""

    def event(self, row: Row, event: e.AnyEvent, state: State) -> None:
        """One more stored event; `state` is the fold up to it."""

    hears: bool
    """Does it show what a model says as it comes? Only then models are asked to stream."""

    def heard(self, text: str) -> None:
        """A piece of what a model says."""

    def tick(self, state: State) -> None:
        """A moment has passed."""

    def stopping(self) -> None:
        """A graceful stop begins."""

    def close(self) -> None:
        """Nothing follows; safe to call twice."""


STOPPING = "stopping; Ctrl-C again kills at once"


class PlainView:
    """One line for every event that is worth telling, flushed."""

    hears = False

    def heard(self, text: str) -> None:
        pass

    def resumed(self, state: State) -> None:
        for line in stood_lines(state):
            say(line)
        for asked in state.approvals.values():
            say_details(asked, " " * 10)

    def event(self, row: Row, event: e.AnyEvent, state: State) -> None:
        if worth_telling(event):
            mark = "! " if warns(event) else ""
            say(f"{clock_time(row.at_us)}  {mark}{told_words(event, state)}")
        if isinstance(event, e.ApprovalRequested):
            say_details(event, " " * 10)
            for line in decision_lines(state.task_id, event):
                say(f"          {line}")

    def tick(self, state: State) -> None:
        pass

    def stopping(self) -> None:
        note(STOPPING)

    def close(self) -> None:
        pass


class JsonView:
    """The log's rows, one a line."""

    hears = False

    def heard(self, text: str) -> None:
        pass

    def resumed(self, state: State) -> None:
        pass

    def event(self, row: Row, event: e.AnyEvent, state: State) -> None:
        emit_line(row_json(row))

    def tick(self, state: State) -> None:
        pass

    def stopping(self) -> None:
        note(STOPPING)

    def close(self) -> None:
        pass


def stood_lines(state: State) -> list[str]:
    """Where a resumed task stood, on one line, and what it had asked for."""
    status, _ = status_of(state)
    if state.ended:
        return [f"{short(state.task_id)} is opened again after event {state.seq}: it was {status}"]
    doing = status if status in (Status.PENDING, Status.PAUSED) else phase_words(state.phase)
    parts = [f"{short(state.task_id)} goes on after event {state.seq}", doing]
    if state.steps:
        ended = sum(step.ended for step in state.steps.values())
        parts.append(f"{ended} of {len(state.steps)} steps ended")
    lines = [", ".join(parts)]
    for asked in state.approvals.values():
        lines.append(f"{asked.approval_id} waits for a decision: {asked_words(asked)}")
        lines += [f"          {line}" for line in decision_lines(state.task_id, asked)]
    return lines


def decision_lines(task_id: str, asked: e.ApprovalRequested) -> list[str]:
    """The commands that decide what is asked, and what each answer means."""
    if asked.subject == "unknown_effect":
        yes, no = "go on as if it had been done", "go on as if it had failed"
    else:
        yes, no = "let it run", "refuse it"
    return [
        f"{command('approve', short(task_id), asked.approval_id)}   # {yes}",
        f"{command('deny', short(task_id), asked.approval_id)}   # {no}",
    ]
