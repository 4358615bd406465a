"""What one daemon process is: its runtime, its streams, and whether it takes work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from agent_runtime.access.callers import Caller
from agent_runtime.access.opening import Access
from agent_runtime.admission import Admission
from agent_runtime.api.hub import Hub
from agent_runtime.api.metrics import Metrics
from agent_runtime.clock_watch import ClockWatch, of_this_machine
from agent_runtime.errors import StoreUnavailable
from agent_runtime.kept_calls.ports import KeptCallStore
from agent_runtime.modules.registry import ModuleHealth
from agent_runtime.notices.hooks import Hooks
from agent_runtime.notices.service import Notices
from agent_runtime.runtime import Runtime


class Readiness(StrEnum):
    """Where the process stands in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True)
class Daemon:
    """Everything that operations use. Made once by `server.serve`."""

    runtime: Runtime
    hub: Hub
    metrics: Metrics
    modules: Callable[[], Awaitable[Sequence[ModuleHealth]]]
    state_dir: str
    access: Access | None = None
    """None: nothing is recorded, and no keys are given out (tests of operations alone)."""
    workspace_roots: tuple[str, ...] = ()
    """Below which tasks may name repositories on this machine."""
    own_roots: tuple[str, ...] | None = None
    """The same for the holder of the local token; None: no other ones."""
    version: str = ""
    document: bytes = b""
    """OpenAPI of what is served."""
    readiness: Readiness = Readiness.STARTING
    clock: ClockWatch = field(default_factory=of_this_machine)
    notices: Notices | None = None
    """Tells others of events."""
    hooks: Hooks | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Called when calls have been stopped, before connections are closed: streams end here."""
    kept_calls: KeptCallStore | None = None
    """Calls of MCP clients that became tasks; None: none can."""
    faults: dict[str, str] = field(default_factory=dict)
    """What is wrong just now, by what it is about; `/readyz` says it, and no work is taken."""

    def roots_of(self, caller: Caller) -> tuple[str, ...]:
        """The directories below which this caller may name repositories."""
        if caller.how == "token" and self.own_roots is not None:
            return self.own_roots
        return self.workspace_roots

    def refuse_unless_ready(self) -> None:
        """Nothing is taken in by a daemon that is about to end or cannot keep it.

        Raises:
            Draining, Faulty: the caller tries again, or another daemon.
        """
        if self.readiness is not Readiness.READY:
            raise Draining(f"the daemon is {self.readiness}: try again in a moment")
        if self.faults:
            raise Faulty("; ".join(self.faults.values()))

    def room(self, tasks: int = 1) -> Room:
        """For new tasks. What is refused in the block, or was there before, takes nobody's place.

        New work is not taken by a daemon that is about to end or cannot keep it.

        Raises:
            Draining, StoreUnavailable, Overloaded: the caller tries again, or another daemon.
        """
        self.refuse_unless_ready()
        self.runtime.admission.require(tasks)
        return Room(self.runtime.admission, tasks)


class Room:
    """A block for which there is room; `taken` is how many of its tasks were taken in."""

    __slots__ = ("_admission", "_tasks", "taken")

    def __init__(self, admission: Admission, tasks: int) -> None:
        self._admission = admission
        self._tasks = tasks
        self.taken = 0

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        if self.taken != self._tasks:
            self._admission.give_back(self._tasks - self.taken)


class Draining(StoreUnavailable):
    """The daemon is starting or about to end. Nothing was stored; try again."""

    retry_after_seconds = 2.0


class Faulty(StoreUnavailable):
    """What is taken in just now could not be kept. Nothing was stored; try again."""
