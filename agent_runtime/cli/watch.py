"""Watching a task that is driven elsewhere, and talking to it: what `attach` is made of.

A thread follows the log (a daemon's, over restarts of it, or the local store's), another reads what
is typed, and the main one shows the first and carries out the second; so Ctrl-C is heard at any
time. What a watched task looks like is a view's, as for one that is driven here (`follow`).
"""

from __future__ import annotations

import os
import queue
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final, Protocol

from agent_runtime.cli.console import note, one_line, short, silence, who
from agent_runtime.cli.follow import ANSWERS, PEOPLE, TICK_SECONDS, Ending, in_background
from agent_runtime.cli.views import View
from agent_runtime.client.blocking import Client
from agent_runtime.client.following import Output
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.loop import codec
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.state import State, pending_of, status_of
from agent_runtime.types import Row, Status, TaskId

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from agent_runtime.runtime import Runtime

HELP: Final = (
    "type a message to tell the task's brain something, or: y or n about what it asks, "
    "/approve [ID], /deny [ID] [WHY], /pause, /resume [MODEL], /cancel [WHY], /detach, /help"
)


class Line(Protocol):
    """The way to a task: what happens to it, and what it is told. Blocks."""

    def news(self, task_id: TaskId, after: int) -> Iterator[Row | Output]:
        """Events, and what is said between them, to the task's end."""

    def steer(self, task_id: TaskId, message: str) -> None: ...
    def pause(self, task_id: TaskId) -> None: ...
    def resume(self, task_id: TaskId, model: str) -> None: ...
    def cancel(self, task_id: TaskId, reason: str) -> None: ...
    def decide(self, task_id: TaskId, approval_id: str, decision: str, message: str) -> None: ...


class DaemonLine:
    """To a task of a daemon."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def news(self, task_id: TaskId, after: int) -> Iterator[Row | Output]:
        # The thread that follows has a client of its own.
        with Client(self._client.place) as client:
            for said in client.watch(task_id, after=after):
                yield said if isinstance(said, Output) else said.row

    def steer(self, task_id: TaskId, message: str) -> None:
        self._client.steer(task_id, message)

    def pause(self, task_id: TaskId) -> None:
        self._client.pause(task_id)

    def resume(self, task_id: TaskId, model: str) -> None:
        self._client.resume(task_id, model)

    def cancel(self, task_id: TaskId, reason: str) -> None:
        self._client.cancel(task_id, reason)

    def decide(self, task_id: TaskId, approval_id: str, decision: str, message: str) -> None:
        yes = decision == "approve"
        self._client.decide(f"{task_id}.{approval_id}", "approve" if yes else "deny", message)


class StoreLine:
    """To a task of the local store, which another process drives, or none."""

    def __init__(self, runtime: Runtime, portal: BlockingPortal) -> None:
        self._runtime, self._portal = runtime, portal

    def news(self, task_id: TaskId, after: int) -> Iterator[Row | Output]:
        rows = self._runtime.follow(task_id, after)
        while True:
            try:
                yield self._portal.call(rows.__anext__)
            except StopAsyncIteration:
                return

    def steer(self, task_id: TaskId, message: str) -> None:
        self._portal.call(lambda: self._runtime.steer(task_id, message, by=who()))

    def pause(self, task_id: TaskId) -> None:
        self._portal.call(lambda: self._runtime.pause(task_id, by=who()))

    def resume(self, task_id: TaskId, model: str) -> None:
        self._portal.call(lambda: self._runtime.resume(task_id, by=who(), model=model))

    def cancel(self, task_id: TaskId, reason: str) -> None:
        self._portal.call(lambda: self._runtime.cancel(task_id, by=who(), reason=reason))

    def decide(self, task_id: TaskId, approval_id: str, decision: str, message: str) -> None:
        self._portal.call(
            lambda: self._runtime.decide_approval(
                task_id, approval_id, decision, by=who(), message=message
            )
        )


@dataclass(frozen=True, slots=True)
class _Typed:
    line: str


@dataclass(frozen=True, slots=True)
class _Over:
    """Nothing follows; `error` says why, if not because the task has ended."""

    error: Exception | None = None


class _Detached(Exception):
    pass


def watch(
    line: Line,
    view: View,
    known: State,
    *,
    caught_up: int = 0,
    stay: bool = False,
    wait_seconds: float | None = None,
    talks: bool = False,
    answers: bool = False,
) -> tuple[State, Ending]:
    """Show what happens to the task of `known` after it, until it ends or nothing moves by itself.

    `stay`: until it ends or Ctrl-C, whatever it waits for. Else it is over when it waits for a
    model, is paused, or waits for a person for longer than `wait_seconds` (None: for ever); not
    before event `caught_up` is seen. With `talks`, lines that are typed go to the task; with
    `answers` alone, a y or n decides what it asks.

    Raises:
        Unreachable: the daemon is gone, and did not come back.
        AgentRuntimeError: as the daemon says.
    """
    watched = _Watched(line, view, known, caught_up, stay, wait_seconds, talks)
    with _signals_detach():
        try:
            return watched.run(reads=talks or answers), watched.ending
        finally:
            with suppress(OSError):
                view.close()


class _Watched:
    def __init__(
        self, line: Line, view: View, known: State, caught_up: int, stay: bool,
        wait_seconds: float | None, talks: bool,
    ) -> None:  # fmt: skip
        self.state = known
        self.ending = Ending.DETACHED
        self._line, self._view, self._talks = line, view, talks
        self._caught_up, self._stay, self._wait_seconds = caught_up, stay, wait_seconds
        self._stood: State | None = known if known.seq else None
        self._waits_since: float | None = None
        self._news: queue.SimpleQueue[Row | Output | _Typed | _Over] = queue.SimpleQueue()

    def run(self, *, reads: bool) -> State:
        if self._stay and (stood := self._stood) is not None:
            self._stood = None
            self._view.resumed(stood)
        threading.Thread(target=self._follow, daemon=True).start()
        if reads:
            threading.Thread(target=self._read, daemon=True).start()
        try:
            while True:
                try:
                    news = self._news.get(timeout=TICK_SECONDS)
                except queue.Empty:
                    news = None
                if isinstance(news, _Over):
                    if news.error is not None:
                        raise news.error
                    self.ending = Ending.ENDED if self.state.ended else Ending.DETACHED
                    return self.state
                self._take(news)
                if self._news.empty():
                    self._view.tick(self.state)
                    if (ending := self._rests()) is not None:
                        self.ending = ending
                        return self.state
        except (KeyboardInterrupt, _Detached):
            return self.state
        except OSError:
            # Nobody reads us any more (a closed pipe or terminal): as good as Ctrl-C.
            silence()
            return self.state

    def _take(self, news: Row | Output | _Typed | None) -> None:
        match news:
            case Row():
                if (stood := self._stood) is not None:
                    self._stood = None
                    self._view.resumed(stood)
                event = codec.decode(news)
                self.state = evolve(self.state, event, news.at_us)
                self._view.event(news, event, self.state)
            case Output():
                self._view.heard(news.text)
            case _Typed():
                self._carry_out(news.line.strip())
            case None:
                pass

    def _follow(self) -> None:
        try:
            for news in self._line.news(TaskId(self.state.task_id), self.state.seq):
                self._news.put(news)
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._news.put(_Over(error))
        else:
            self._news.put(_Over())

    def _rests(self) -> Ending | None:
        """Does nothing move by itself any more?"""
        if self._stay or self.state.ended or self.state.seq < self._caught_up:
            return None
        status, reason = status_of(self.state)
        if status is Status.PAUSED:
            return Ending.PAUSED
        if status is not Status.WAITING:
            self._waits_since = None
            return None
        if not (reason in PEOPLE or self.state.asked_client):
            return Ending.WAITING
        now = time.monotonic()
        if self._waits_since is None:
            self._waits_since = now
        waited = now - self._waits_since
        patience = self._wait_seconds
        return Ending.WAITING if patience is not None and waited >= patience else None

    # ---- what is typed -------------------------------------------------------------------

    def _read(self) -> None:
        """Lines of stdin. Not by `sys.stdin`, whose lock would be held when the process ends."""
        rest, descriptor = b"", sys.stdin.fileno()
        while True:
            if not select.select([descriptor], [], [], None)[0]:
                continue
            if os.isatty(descriptor) and in_background(descriptor):
                time.sleep(TICK_SECONDS)  # the line is not for us
                continue
            try:
                typed = os.read(descriptor, 4096)
            except OSError:
                return  # the terminal is gone
            if not typed:
                return
            *lines, rest = (rest + typed).split(b"\n")
            for each in lines:
                self._news.put(_Typed(each.decode(errors="replace")))

    def _carry_out(self, said: str) -> None:
        if not said:
            return
        try:
            done = self._do(said)
        except AgentRuntimeError as error:
            note(f"! {one_line(str(error), 500)}")
        else:
            if done:
                note(done)

    def _do(self, said: str) -> str:
        task_id = TaskId(self.state.task_id)
        decision = ANSWERS.get(said.lower())
        if decision is not None and (self.state.approvals or not self._talks):
            return self._decide(decision, min(self.state.approvals, default=""), "")
        if not self._talks:
            return ""
        if not said.startswith("/"):
            self._line.steer(task_id, said)
            return f"told: {short(task_id)}"
        verb, _, rest = said[1:].partition(" ")
        rest = rest.strip()
        match verb.lower():
            case "approve" | "deny":
                first, _, more = rest.partition(" ")
                named = first if first in self.state.approvals else ""
                return self._decide(verb.lower(), named, more.strip() if named else rest)
            case "pause":
                self._line.pause(task_id)
            case "resume":
                self._line.resume(task_id, rest)
            case "cancel":
                self._line.cancel(task_id, rest)
            case "detach" | "quit" | "q":
                raise _Detached
            case "help" | "?":
                return HELP
            case _:
                return f"! there is no command {shlex.quote('/' + verb)}; {HELP}"
        return f"asked for: {verb.lower()}"

    def _decide(self, decision: str, approval_id: str, message: str) -> str:
        answered = pending_of(self.state, approval_id or None)
        self._line.decide(TaskId(self.state.task_id), answered, decision, message)
        return f"{'approved' if decision == 'approve' else 'denied'}: {answered}"


class _signals_detach:
    """SIGTERM and SIGHUP end the watching as Ctrl-C does; what was ignored stays so."""

    def __enter__(self) -> None:
        self._before: dict[signal.Signals, object] = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, _detach)

    def __exit__(self, *_: object) -> None:
        restore: Callable[..., object] = signal.signal
        for number, before in self._before.items():
            restore(number, before)


def _detach(number: int, frame: FrameType | None) -> None:
    raise _Detached
