"""The live view on a terminal: what has happened scrolls by, below it what goes on right now."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from agent_runtime.cli.asked import detail_lines
from agent_runtime.cli.console import clean, clock_time, lasted, one_line, short
from agent_runtime.cli.views import STOPPING, decision_lines, stood_lines
from agent_runtime.cli.words import (
    asked_words,
    call_words,
    phase_words,
    told_words,
    warns,
    worth_telling,
)
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State, StepState, status_of
from agent_runtime.types import Row, StepStatus

_ROWS_BESIDES_STEPS = 12
SAID_CHARS_MAX = 2_000
SAID_CHARS_SHOWN = 100
_MARKS = {
    StepStatus.READY: ("·", "dim"),
    StepStatus.RUNNING: ("▶", "cyan"),
    StepStatus.EVALUATING: ("▶", "cyan"),
    StepStatus.RECOVERING: ("↻", "yellow"),
    StepStatus.DONE: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.SKIPPED: ("-", "dim"),
}


class LiveView:
    """Draws with rich. Text of tasks is never read as markup."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._calls_since: dict[str, int] = {}
        self._stopping = False
        self._said = ""

    hears = True

    def heard(self, text: str) -> None:
        self._said = (self._said + text)[-SAID_CHARS_MAX:]

    def resumed(self, state: State) -> None:
        # What had been asked for stands below, in the picture.
        self._live.console.print(Text(stood_lines(state)[0], style="dim"))
        for asked in state.approvals.values():
            self._details(asked)

    def event(self, row: Row, event: e.AnyEvent, state: State) -> None:
        if isinstance(event, e.ModelCallStarted | e.ModelReplied | e.ModelFailed):
            self._said = ""
        if isinstance(event, e.CallIntended):
            self._calls_since[event.call_id] = row.at_us
        if worth_telling(event):
            line = Text(clean(f"{clock_time(row.at_us)}  "), style="dim")
            line.append(clean(told_words(event, state)), style=_style(event))
            self._live.console.print(line)
        if isinstance(event, e.ApprovalRequested):
            self._details(event)

    def _details(self, asked: e.ApprovalRequested) -> None:
        """Above the picture, which has no room for it, and stays on the screen."""
        for line, style in detail_lines(asked):
            self._live.console.print(Text(f"          {clean(line)}", style=style))

    def tick(self, state: State) -> None:
        if state.spec is not None:
            self._live.update(self._picture(state), refresh=True)

    def stopping(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._live.stop()

    def _picture(self, state: State) -> RenderableType:
        lines = [self._headline(state)]
        shown = _window(list(state.steps.values()), self._console.height - _ROWS_BESIDES_STEPS)
        lines += [_step_line(step) for step in shown]
        if len(shown) < len(state.steps):
            lines.append(Text(f"    … {len(state.steps)} steps", style="dim"))
        now_us = time.time_ns() // 1000
        for call_id, call in state.calls.items():
            seconds = (now_us - self._calls_since.get(call_id, now_us)) / 1e6
            doing = clean(call_words(call.intent.tool, call.intent.arguments))
            lines.append(Text(f"  {lasted(seconds):>6}  {doing}", style="cyan"))
        if state.asking is not None:
            lines.append(_asking_line(state, self._said, now_us))
        questions: list[Text] = []
        for asked in state.approvals.values():
            questions.append(Text(f"? {clean(asked_words(asked))}", style="bold yellow"))
            questions += [Text(f"    {line}") for line in decision_lines(state.task_id, asked)]
            questions.append(Text("    or type y or n here, and Enter", style="yellow"))
        if self._stopping:
            lines.append(Text(STOPPING, style="bold yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(*lines, *questions)

    def _headline(self, state: State) -> Text:
        status, reason = status_of(state)
        doing = f"waiting: {reason}" if status == "waiting" else phase_words(state.phase)
        parts = [short(state.task_id), doing, f"{state.usage.steps} calls"]
        if state.usage.tokens or state.usage.usd:
            parts.append(f"{state.usage.tokens} tokens, ${state.usage.usd:.2f}")
        parts.append(lasted((time.time_ns() / 1000 - state.created_at_us) / 1e6))
        return Text("● " + "  ".join(parts), style="bold")


def _asking_line(state: State, said: str, now_us: int) -> Text:
    """Who is thinking, for how long, and the end of what it has said so far."""
    assert state.asking is not None
    seconds = max(0, now_us - state.at_us) / 1e6
    line = Text(f"  {lasted(seconds):>6}  {clean(state.asking.model)} is thinking", style="cyan")
    if said.strip():
        line.append(f"  {one_line(said[-SAID_CHARS_SHOWN:])}", style="dim")
    return line


def _style(event: e.AnyEvent) -> str:
    if isinstance(event, e.PhaseEntered):
        return "bold"
    if warns(event):
        return "yellow"
    return ""


def _step_line(step: StepState) -> Text:
    mark, style = _MARKS[step.status]
    line = Text("  ")
    line.append(f"{mark} {clean(step.spec.id)}", style=style)
    about = step.spec.goal or call_words(step.spec.tool or "", dict(step.spec.args))
    line.append(f"  {one_line(about)}", style="dim")
    if step.attempt > 1:
        line.append(f"  attempt {step.attempt}", style="yellow")
    return line


def _window(steps: list[StepState], rows_max: int) -> list[StepState]:
    """The steps around the first one that has not ended, as many as fit."""
    rows_max = max(rows_max, 3)
    if len(steps) <= rows_max:
        return steps
    first = next((i for i, step in enumerate(steps) if not step.ended), len(steps))
    start = min(max(first - rows_max // 3, 0), len(steps) - rows_max)
    return steps[start : start + rows_max]
