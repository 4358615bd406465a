"""What can be read of tasks: one in a line, lists of them, the folded log, the log as it grows.

Every other part of the runtime stands on these reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from agent_runtime.errors import NotFound, UsageError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.state import State
from agent_runtime.ports.everything import Ports
from agent_runtime.result_files import ResultFiles
from agent_runtime.types import Row, TaskId, TaskSummary, name_fits

FOLLOW_SECONDS = 0.5
"""How long a follower sleeps at most before it looks at the log again."""


class Reads:
    """Tasks of one store. `state_dir` is where results are put."""

    def __init__(self, ports: Ports, *, state_dir: str) -> None:
        self.ports = ports
        self._state_dir = state_dir
        self._files = ResultFiles(state_dir)

    async def find(self, name: str) -> TaskId:
        """The task with this id, or the only one whose id ends or begins with `name`.

        Raises:
            NotFound: there is none.
            UsageError: several match.
        """
        if name.startswith("task_") and len(name) == len("task_") + 32:
            return TaskId((await self.ports.store.summary(TaskId(name))).task_id)
        matches: list[str] = []
        before: TaskId | None = None
        while page := await self.ports.store.tasks(before=before, limit=500):
            matches += [t.task_id for t in page if name_fits(t.task_id, name)]
            before = TaskId(page[-1].task_id)
        if not matches:
            raise NotFound(f"no task is called {name!r}; `agent-runtime ps` lists them")
        if len(matches) > 1:
            shown = ", ".join(sorted(matches)[:5])
            raise UsageError(f"{name!r} means several tasks ({shown}); write more of the id")
        return TaskId(matches[0])

    async def summary(self, task_id: TaskId) -> TaskSummary:
        """A task in a line. `NotFound` if there is none."""
        return await self.ports.store.summary(task_id)

    async def owner(self, task_id: TaskId) -> str | None:
        """Who drives it now, for people; None if nobody alive does."""
        return await self.ports.store.owner(task_id)

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        submitted_by: str | None = None,
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        """Newest first; filters are conjunctive."""
        return await self.ports.store.tasks(
            statuses=statuses, labels=labels, submitted_by=submitted_by, before=before, limit=limit
        )

    async def state(self, task_id: TaskId) -> State:
        """The folded log. `CorruptLog` if it is not what was written."""
        return (await self._load(task_id))[0]

    async def rows(self, task_id: TaskId, after: int = 0) -> list[Row]:
        """Stored events as they lie in the store."""
        return await self.ports.store.load(task_id, after)

    async def follow(self, task_id: TaskId, after: int = 0) -> AsyncIterator[Row]:
        """Stored events, and new ones as they come, from any process; ends with the task.

        What was there before a task was continued does not end it.
        """
        store = self.ports.store
        while True:
            # Events first: a write between the two reads is then seen by the next round.
            rows = await store.load(task_id, after)
            for row in rows:
                after = row.seq
                yield row
            if rows and rows[-1].type == e.TaskEnded.__name__:
                return
            if not rows:
                await store.wait_changed(FOLLOW_SECONDS)

    def listen(self, task_id: TaskId, heard: Callable[[str], None]) -> Callable[[], None]:
        """Hear what a model says as it comes, until the returned function is called.

        Nothing of it is stored before its turn is over, and a turn that fails is said again.
        """
        listeners = self.ports.listeners
        return listeners.listen(task_id, heard) if listeners is not None else lambda: None

    async def _load(self, task_id: TaskId) -> tuple[State, list[Row], list[e.AnyEvent]]:
        rows = await self.ports.store.load(task_id)
        state, events = folded(task_id, rows)
        return state, rows, events


def folded(task_id: TaskId, rows: Sequence[Row]) -> tuple[State, list[e.AnyEvent]]:
    codec.check_chain(rows, task_id=task_id)
    events = [codec.decode(row) for row in rows]
    times = (row.at_us for row in rows)
    return fold(zip(events, times, strict=True), State(task_id=task_id)), events


def ends_of(state: State) -> list[int]:
    """Numbers of the events with which its earlier runs ended."""
    return [run.ended_seq for run in state.earlier]
