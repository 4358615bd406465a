"""Driving a task in this process while somebody watches: the log is followed, signals stop it.

The watcher reads the stored log, like anybody else, and never holds the driver up. What it shows
is a view's; see `views`. Waiting for a person ends here too: on a terminal by an answer, elsewhere
after a while by a graceful stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import anyio

from agent_runtime.cli.console import command, first_cause, note, short, silence, who
from agent_runtime.cli.views import View
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.loop import codec
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.state import State, status_of
from agent_runtime.types import Status, TaskId

if TYPE_CHECKING:
    from agent_runtime.runtime import Runtime

TICK_SECONDS = 0.25
"""How often a view may show that time passes, and how long a stored event may go untold."""

SIGNAL_SECONDS = 0.2
"""Signals this close together are one: `timeout` and other wrappers send each of theirs twice."""

PEOPLE = frozenset({"approval", "unknown_effect"})
ANSWERS = {"y": "approve", "yes": "approve", "n": "deny", "no": "deny"}


class Ending(StrEnum):
    """Why a task is not driven here any more."""

    ENDED = "ended"
    WAITING = "waiting"
    PAUSED = "paused"
    DETACHED = "detached"
    """A signal, or nobody reads our output any more."""


async def drive(
    runtime: Runtime,
    task_id: TaskId,
    view: View,
    *,
    wait_seconds: float | None,
    answer: bool,
    known: State | None = None,
) -> tuple[State, Ending]:
    """Drive a task until it ends, is paused, waits for too long, or a signal stops it.

    `wait_seconds` is how long it may wait for a person (None: for ever). With `answer`, a y or n
    typed on the terminal decides what is pending. What led to `known` is not shown again.

    Raises:
        AgentRuntimeError: as `Runtime.drive`.
    """
    watch = _Watch(runtime, task_id, view, wait_seconds, known)
    deaf = runtime.listen(task_id, view.heard) if view.hears else None
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(watch.stop_on_signals)
            tg.start_soon(watch.follow)
            if answer:
                tg.start_soon(watch.answer)
            await runtime.drive(task_id)
            tg.cancel_scope.cancel()
        await watch.catch_up()
    except BaseExceptionGroup as group:
        raise first_cause(group) from group
    finally:
        if deaf is not None:
            deaf()
        view.close()
    return watch.state, watch.ending()


class _Watch:
    def __init__(
        self,
        runtime: Runtime,
        task_id: TaskId,
        view: View,
        wait_seconds: float | None,
        known: State | None,
    ) -> None:
        self.state = known or State(task_id=task_id)
        self._resumed_at = known
        self._runtime, self._task_id, self._view = runtime, task_id, view
        self._wait_seconds = wait_seconds
        self._waits_since: float | None = None
        self._waited = False
        self._detached = False
        self._unread = False
        self._lock = anyio.Lock()

    def ending(self) -> Ending:
        """Why the drive is over, in the order of what matters."""
        status, _ = status_of(self.state)
        if self.state.ended:
            return Ending.ENDED
        if self._detached:
            return Ending.DETACHED
        if self._waited or status is Status.WAITING:
            return Ending.WAITING
        return Ending.PAUSED if self.state.paused else Ending.DETACHED

    async def follow(self) -> None:
        """Tell the view what is stored, until cancelled."""
        while True:
            await self.catch_up()
            self._show(lambda: self._view.tick(self.state))
            self._watch_the_clock()
            await self._runtime.ports.store.wait_changed(TICK_SECONDS)

    async def catch_up(self) -> None:
        """Tell the view every stored event that it has not seen."""
        async with self._lock:
            for row in await self._runtime.rows(self._task_id, self.state.seq):
                if (stood := self._resumed_at) is not None:
                    self._resumed_at = None  # told with the first news: now it is driven here
                    self._show(lambda: self._view.resumed(stood))
                event = codec.decode(row)
                self.state = evolve(self.state, event, row.at_us)
                state = self.state
                self._show(lambda: self._view.event(row, event, state))  # noqa: B023 - called now

    def _show(self, show: Callable[[], None]) -> None:
        if self._unread:
            return
        try:
            show()
        except OSError:
            # Nobody reads us any more (a closed pipe or terminal): as good as Ctrl-C.
            self._unread = True
            silence()
            self._detach()

    def _detach(self) -> None:
        self._detached = True
        self._runtime.supervisor.stop.set()

    def _watch_the_clock(self) -> None:
        status, reason = status_of(self.state)
        now = anyio.current_time()
        if status is not Status.WAITING or not (reason in PEOPLE or self.state.asked_client):
            self._waits_since = None
            return
        if self._waits_since is None:
            self._waits_since = now
        if self._wait_seconds is not None and now - self._waits_since >= self._wait_seconds:
            self._waited = True
            self._runtime.supervisor.stop.set()

    async def stop_on_signals(self) -> None:
        """The first signal stops gracefully, a later one kills this process at once.

        SIGHUP never kills: a terminal that is closed sends several.
        """
        first: float | None = None
        async for number in _signals():
            now = anyio.current_time()
            if first is None:
                first = now
                self._show(self._view.stopping)
                self._detach()
            elif number != signal.SIGHUP and now - first > SIGNAL_SECONDS:
                self._view.close()
                again = command("resume", short(self._task_id))
                note(f"killed, what is stored is not lost; resume with: {again}")
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

    async def answer(self) -> None:
        """Take a y or n from the terminal as the decision about the approval that is shown."""
        terminal = sys.stdin.fileno()
        while True:
            await anyio.wait_readable(terminal)
            if in_background(terminal):
                await anyio.sleep(TICK_SECONDS)  # in the background: the line is not for us
                continue
            try:
                typed = os.read(terminal, 4096)
            except OSError:
                return  # the terminal is gone
            if not typed and not os.isatty(terminal):
                return  # it would be readable, and empty, for ever
            line = typed.decode(errors="replace").strip().lower()
            decision = ANSWERS.get(line)
            if decision is None or not self.state.approvals:
                continue
            approval_id = min(self.state.approvals)
            try:
                await self._runtime.decide_approval(self._task_id, approval_id, decision, by=who())
            except AgentRuntimeError:
                pass  # somebody else was faster; the log says who


def in_background(terminal: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) != os.getpgrp()
    except OSError:  # not our controlling terminal, so there is no foreground
        return False


async def _signals() -> AsyncIterator[signal.Signals]:
    # What was ignored when we were started (nohup, a job in the background) stays ignored.
    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    if wanted:
        with anyio.open_signal_receiver(*wanted) as received:
            async for number in received:
                yield number
