"""The life of modules: started when first needed, shared by tasks, stopped by the last one.

Every module lives in one task of its own, from `initialize` to `cleanup`, so that it may keep a
task group or a connection open in between. A module that does not start, or that ends by itself,
is quarantined until the process ends. Which tools need which module is decided in `toolbox`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Literal

import anyio
import anyio.abc

from agent_runtime.contributions import told
from agent_runtime.errors import PluginError
from agent_runtime.ports.modules import Module, ModuleContext

INITIALIZE_SECONDS_MAX: Final = 30.0
"""A first connection may have to wait for a machine to wake up; a task waits as long."""
CLEANUP_SECONDS_MAX: Final = 10.0
HEALTH_SECONDS_MAX: Final = 5.0
"""Somebody looks at a terminal."""

ModuleState = Literal["not started", "starting", "well", "unwell", "stopping", "quarantined"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleHealth:
    """How a module is, for people; `detail` says what is wrong."""

    name: str
    description: str
    state: ModuleState
    users: int = 0
    detail: str = ""


@dataclass(eq=False, slots=True)
class _Life:
    """One run of a module. `stop` asks for its end; `ended` is set when nothing of it is left."""

    users: int = 0
    scope: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope(shield=True))
    stage: Literal["initialize", "work", "cleanup"] = "initialize"
    crashed: bool = False
    ready: anyio.Event = field(default_factory=anyio.Event)
    stop: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)


@dataclass(eq=False, slots=True)
class _Entry:
    module: Module
    context: ModuleContext
    life: _Life | None = None
    fault: str = ""
    """Why it is in quarantine."""
    note: str = ""
    """What went wrong without harm: its last cleanup."""


class ModuleRegistry:
    """Modules by name; an async context manager that ends all of them."""

    def __init__(
        self,
        modules: Sequence[Module] = (),
        *,
        state_dir: str = "",
        shared_dir: str = "",
        settings: Mapping[str, Mapping[str, str]] = {},
        initialize_seconds_max: float = INITIALIZE_SECONDS_MAX,
        cleanup_seconds_max: float = CLEANUP_SECONDS_MAX,
        health_seconds_max: float = HEALTH_SECONDS_MAX,
    ) -> None:
        """`settings` has one mapping a module; each gets a directory of its own in `state_dir`.

        `shared_dir` is `ModuleContext.shared_dir` of all of them.
        """
        self._entries = {
            module.name: _Entry(
                module,
                ModuleContext(
                    state_dir=os.path.join(state_dir, module.name) if state_dir else "",
                    settings=dict(settings.get(module.name, {})),
                    shared_dir=shared_dir,
                ),
            )
            for module in modules
        }
        assert len(self._entries) == len(modules), "two modules of one name"
        self._initialize_seconds_max = initialize_seconds_max
        self._cleanup_seconds_max = cleanup_seconds_max
        self._health_seconds_max = health_seconds_max
        self._tasks: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> ModuleRegistry:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop every module; each is bounded, also when this very task is being cancelled."""
        assert self._tasks is not None
        for entry in self._entries.values():
            if entry.life is not None:
                _end(entry.life)
        tasks, self._tasks = self._tasks, None
        return await tasks.__aexit__(kind, error, traceback)

    # ---- sharing -----------------------------------------------------------------------------

    async def acquire(self, name: str) -> None:
        """Make sure that a module runs, starting it if nobody has; undo it with `release`.

        Raises:
            PluginError: it did not start, now or earlier; it stays in quarantine.
        """
        assert self._tasks is not None, "modules live in `async with registry` (or the toolbox)"
        entry = self._entries[name]
        while entry.life is not None and entry.life.stop.is_set():
            await entry.life.ended.wait()
        self._refuse_quarantined(name, entry)
        if entry.life is None:
            entry.life = _Life()
            self._tasks.start_soon(self._live, entry, entry.life, name=f"module {name}")
        life = entry.life
        life.users += 1
        try:
            await life.ready.wait()
            self._refuse_quarantined(name, entry)
        except BaseException:
            _leave(life)
            raise

    def leave(self, name: str) -> bool:
        """Undo one `acquire` without waiting; is this the end of the module?"""
        life = self._entries[name].life
        if life is None:
            return False  # it ended by itself
        _leave(life)
        return life.stop.is_set()

    async def stopped(self, name: str) -> None:
        """Return when a module that nobody needs has stopped: at once, or after its cleanup."""
        life = self._entries[name].life
        if life is not None and life.stop.is_set():
            await life.ended.wait()

    async def release(self, name: str) -> None:
        """Undo one `acquire`; the last one stops the module, and returns when it has stopped.

        What goes wrong in its cleanup is told by `health`, never raised.
        """
        if self.leave(name):
            await self.stopped(name)

    def _refuse_quarantined(self, name: str, entry: _Entry) -> None:
        if entry.fault:
            raise PluginError(
                f"module {name!r} is in quarantine: {entry.fault}; its tools cannot be used until "
                f"that is mended and agent-runtime is started again"
            )

    # ---- one life ----------------------------------------------------------------------------

    async def _live(self, entry: _Entry, life: _Life) -> None:
        """From `initialize` to `cleanup`, in one task and one scope; nothing gets out of it."""
        problem = ""
        try:
            with life.scope:
                await self._lead(entry, life)
            if life.scope.cancelled_caught:
                problem = self._overdue(life)
        except (Exception, SystemExit, BaseExceptionGroup) as error:  # the border to a plug-in
            log.debug("module %r, %s", entry.module.name, life.stage, exc_info=True)
            problem = told(error)
        finally:
            _record(entry, life, problem)
            entry.life = None
            for event in (life.stop, life.ready, life.ended):
                event.set()

    async def _lead(self, entry: _Entry, life: _Life) -> None:
        if life.stop.is_set():
            return
        life.scope.deadline = anyio.current_time() + self._initialize_seconds_max
        if entry.context.state_dir:
            os.makedirs(entry.context.state_dir, mode=0o700, exist_ok=True)
        await entry.module.initialize(entry.context)
        if not life.scope.cancel_called:
            life.scope.deadline = math.inf
            life.stage = "work"
            life.ready.set()
            try:
                await life.stop.wait()
            except anyio.get_cancelled_exc_class():
                # The scope is shielded and has no deadline here: only a task group that the module
                # left open can cancel, because a task in it failed. `cleanup` raises that error.
                life.crashed = True
                life.stop.set()
            life.stage = "cleanup"
            life.scope.deadline = anyio.current_time() + self._cleanup_seconds_max
        await entry.module.cleanup()

    def _overdue(self, life: _Life) -> str:
        if life.stage == "cleanup":
            return f"took longer than {self._cleanup_seconds_max:g} s"
        if life.stop.is_set():
            return ""  # nobody waited for it any more
        return f"took longer than {self._initialize_seconds_max:g} s"

    # ---- looking -----------------------------------------------------------------------------

    async def health(self) -> list[ModuleHealth]:
        """How every module is, sorted by name. Starts none; a slow answer is an answer."""
        found: dict[str, ModuleHealth] = {}

        async def look(name: str, entry: _Entry) -> None:
            found[name] = await self._health(name, entry)

        async with anyio.create_task_group() as tg:
            for name, entry in self._entries.items():
                tg.start_soon(look, name, entry)
        return [found[name] for name in sorted(found)]

    async def _health(self, name: str, entry: _Entry) -> ModuleHealth:
        state: ModuleState = "not started"
        detail, life = entry.fault or entry.note, entry.life
        if entry.fault:
            state = "quarantined"
        elif life is not None and life.stage == "work":
            detail = await self._complaint(entry)
            state = "unwell" if detail else "well"
        elif life is not None:
            state = "starting" if life.stage == "initialize" else "stopping"
        return ModuleHealth(
            name=name,
            description=entry.module.description,
            state=state,
            users=life.users if life else 0,
            detail=detail,
        )

    async def _complaint(self, entry: _Entry) -> str:
        try:
            with anyio.fail_after(self._health_seconds_max):
                return await entry.module.health() or ""
        except TimeoutError:
            return f"health() gave no answer within {self._health_seconds_max:g} s"
        except Exception as error:  # the border to a plug-in
            log.debug("health of module %r", entry.module.name, exc_info=True)
            return f"health() {told(error)}"


def _leave(life: _Life) -> None:
    life.users -= 1
    if life.users <= 0:
        _end(life)


def _end(life: _Life) -> None:
    life.stop.set()
    if life.stage == "initialize":
        # Nobody waits for it any more: it gets the time of a cleanup, and then it is cancelled.
        life.scope.deadline = min(life.scope.deadline, anyio.current_time() + CLEANUP_SECONDS_MAX)


def _record(entry: _Entry, life: _Life, problem: str) -> None:
    """What is remembered of a life that is over."""
    name = entry.module.name
    entry.note = ""
    if life.crashed:
        entry.fault = f"it ended by itself: {problem or 'its own task group was cancelled'}"
    elif problem and life.stage == "initialize":
        entry.fault = f"its initialize() {problem}"
    elif problem:
        entry.note = f"its last cleanup() {problem}"
    if entry.fault or entry.note:
        log.warning("module %r: %s", name, entry.fault or entry.note)
