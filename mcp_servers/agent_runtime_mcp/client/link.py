"""One server's connection over time: made when it is needed, made again when it broke, or not.

Each break is counted. One that breaks the rules counts double; who has too many in ten minutes is
left alone for ten minutes, and every call is refused with the reason.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc

from agent_runtime.errors import AgentRuntimeError, ToolRefused
from agent_runtime_mcp.client.names import harmless

if TYPE_CHECKING:  # the SDK takes half a second to import: only who starts a server waits for it
    from agent_runtime_mcp.client.guard import Guard
    from agent_runtime_mcp.client.kept import Definitions
    from agent_runtime_mcp.client.live import Live

log = logging.getLogger(__name__)

REASON_CHARS_MAX: Final = 600
END_SECONDS_MAX: Final = 5.0
"""For the goodbye to a server that is there no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How much is borne, and for how long. Seconds."""

    points_max: int = 5
    """A break counts 1, a breach of the rules 2."""
    window: float = 600.0
    quarantine: float = 600.0
    backoff: float = 0.5
    """After the first break; doubled with each more."""
    backoff_max: float = 60.0
    silent_calls_max: int = 3
    """Calls in a row without an answer in time: it hangs."""
    definitions: float = 300.0
    """How old a list of tools may be when one of them is called."""


PATIENCE: Final = Patience()


class Unreachable(AgentRuntimeError):
    """There is no connection just now; another try may find one."""


Connect = Callable[["Guard"], AbstractAsyncContextManager["Live"]]


class Link:
    """See the module. `tasks` is where connections live; it outlives every call."""

    def __init__(
        self,
        name: str,
        connect: Connect,
        tasks: anyio.abc.TaskGroup,
        *,
        start_seconds: float,
        described: Callable[[Definitions], None],
        last_words: Callable[[], str] = str,
        redacted: Callable[[str], str] = str,
        patience: Patience = PATIENCE,
        logs: bool = True,
    ) -> None:
        """`described` gets the tools when they are known, and `last_words` tells what a program
        said before it died. `redacted` takes secrets out of what is told: a reason may quote the
        server. `logs` is false for one whose troubles the caller tells."""
        self._name, self._connect, self._tasks = name, connect, tasks
        self._start_seconds, self._patience, self._logs = start_seconds, patience, logs
        self._described, self._last_words, self._redacted = described, last_words, redacted
        self._lock = anyio.Lock()
        self._live: Live | None = None
        self._listed_at = -math.inf
        self._points: deque[tuple[float, int]] = deque()
        self._failures = 0
        self._silent = 0
        self._not_before = -math.inf
        self._shut_until = -math.inf
        self._reason = ""
        self._notes: deque[str] = deque(maxlen=5)

    async def live(self) -> Live:
        """The connection, with a list of tools that is new enough.

        Raises:
            ToolRefused: the server is in quarantine.
            Unreachable: it cannot be reached; says why.
        """
        async with self._lock:
            self._refuse()
            if not self.connected:
                await anyio.sleep(max(0.0, self._not_before - anyio.current_time()))
                await self._tasks.start(self._host, name=f"mcp server {self._name}")
                self._refuse()
            live = self._live
            if live is None:
                raise Unreachable(f"server {self._name!r}: {self._reason}")
            if anyio.current_time() - self._listed_at > self._patience.definitions:
                await self._list(live)
            return live

    def changed(self) -> None:
        """The server says that its tools are others: they are asked for before the next call."""
        self._listed_at = -math.inf

    def answered(self) -> None:
        """A call had an answer."""
        self._failures = self._silent = 0

    def silent(self) -> None:
        """A call had none in time."""
        self._silent += 1
        if self._silent >= self._patience.silent_calls_max and self._live is not None:
            self._silent = 0
            self._live.guard.cut(
                f"it hangs: {self._patience.silent_calls_max} calls in a row had no answer"
            )

    @property
    def connected(self) -> bool:
        """Is there a connection just now?"""
        return self._live is not None and not self._live.guard.ended.is_set()

    def trouble(self) -> str:
        """Why calls are refused or slow just now; empty: nothing is wrong."""
        if self._shut_until > anyio.current_time():
            left = self._shut_until - anyio.current_time()
            return f"in quarantine for {left:.0f} s more: {self._reason}"
        if self._failures and self._live is None:
            return f"no connection: {self._reason}"
        return ""

    def take_notes(self) -> list[str]:
        """What went wrong since somebody was told last."""
        notes = [f"[server {self._name}: {note}]" for note in self._notes]
        self._notes.clear()
        return notes

    # ---- one connection ----------------------------------------------------------------------

    async def _list(self, live: Live) -> None:
        from mcp.shared.exceptions import MCPError

        from agent_runtime_mcp.client.live import Gone, NeverSent

        try:
            with anyio.fail_after(self._start_seconds):
                self._described(await live.definitions())
        except (Gone, NeverSent, MCPError, TimeoutError) as error:
            live.guard.cut(f"it does not list its tools: {error or 'no answer'}", breach=False)
            raise Unreachable(f"server {self._name!r} does not list its tools: {error}") from error
        self._listed_at = anyio.current_time()

    async def _host(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        from agent_runtime_mcp.client.guard import Guard

        guard = Guard()
        scope = anyio.CancelScope(deadline=anyio.current_time() + self._start_seconds)
        problem, live, started = "", None, False
        guard.on_cut(lambda: None if started else scope.cancel())
        try:
            with scope:
                async with self._connect(guard) as live:
                    self._described(await live.definitions())
                    self._listed_at = anyio.current_time()
                    scope.deadline = math.inf
                    self._live = live
                    started = True
                    task_status.started()
                    await guard.ended.wait()
                    scope.deadline = anyio.current_time() + END_SECONDS_MAX
                    # The SDK has told everybody else that there will be no answer.
                    await live.idle()
        except Exception as error:  # noqa: BLE001 - the border to a stranger's server and the SDK
            problem = _told(error)
        finally:
            guard.ended.set()
            if self._live is live:
                self._live = None
        if not guard.reason and not problem:
            timed_out = scope.cancelled_caught
            problem = (
                f"no list of tools within {self._start_seconds:g} s"
                if timed_out
                else "it closed the connection"
            )
        self._broke(guard.reason or problem, breach=guard.breach)
        if not started:
            # Not an error here: `live` says it to whoever asked.
            task_status.started()

    def _broke(self, reason: str, *, breach: bool) -> None:
        now = anyio.current_time()
        said = self._last_words()
        # Taken out before anything is cut: half a secret is none that is known.
        reason, said = self._redacted(reason), self._redacted(said)
        self._reason = harmless(
            reason + (f"; it said: {said[-300:]}" if said else ""), REASON_CHARS_MAX
        )
        self._notes.append(self._reason)
        if self._logs:
            log.warning("mcp server %r: %s", self._name, self._reason)
        self._failures += 1
        pause = self._patience.backoff * 2 ** min(self._failures - 1, 20)
        self._not_before = now + min(pause, self._patience.backoff_max)
        self._points.append((now, 2 if breach else 1))
        while self._points and self._points[0][0] < now - self._patience.window:
            self._points.popleft()
        if sum(points for _, points in self._points) >= self._patience.points_max:
            self._points.clear()
            self._shut_until = now + self._patience.quarantine
            log.warning("mcp server %r is in quarantine: %s", self._name, self._reason)

    def _refuse(self) -> None:
        if self._shut_until > anyio.current_time():
            left = self._shut_until - anyio.current_time()
            raise ToolRefused(
                f"server {self._name!r} is in quarantine for {left:.0f} s more: {self._reason}"
            )


def _told(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
