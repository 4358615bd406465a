"""The in-process API: everything that a command line, HTTP or MCP can ask for is a method here.

It stands between the faces and the loop: reads are folds of the log, writes are events. Driving is
the supervisor's. What is asked of a task that is there already is in `tasks`, one file for each
kind of question; this file takes new ones in.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_runtime.access.callers import UNBOUNDED, DayBudget
from agent_runtime.admission import Admission, Bounds
from agent_runtime.errors import (
    AgentRuntimeError,
    AllowanceSpent,
    ConfigError,
    Conflict,
    IdempotencyMismatch,
    UsageError,
)
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.state import State
from agent_runtime.loop.submission import Submitted, first_event
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.store import NewTask
from agent_runtime.tasks.hindsight import Hindsight
from agent_runtime.tasks.keeping import Keeping
from agent_runtime.tasks.proofs import Proofs
from agent_runtime.tasks.results import Results
from agent_runtime.tasks.runs import Runs
from agent_runtime.tasks.sessions import Sessions
from agent_runtime.types import TERMINAL_STATUSES, TaskId, TaskSpec


class Runtime(Sessions, Runs, Results, Proofs, Hindsight, Keeping):
    """One store and what drives its tasks in this process. `state_dir` is where results are put."""

    def __init__(
        self,
        ports: Ports,
        *,
        state_dir: str,
        supervisor: Supervisor | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(ports, state_dir=state_dir)
        self.supervisor = supervisor or Supervisor(ports)
        self.admission = Admission(ports.store, bounds or Bounds())
        """For whoever takes tasks of others in: ask it first."""

    async def submit(
        self,
        spec: TaskSpec,
        *,
        submitted_by: str,
        idempotency_key: str | None = None,
        held: bool = False,
    ) -> TaskId:
        """Store a task; durable when it returns. Nothing of it runs yet. Errors as `take_in`.

        With `held` it is for `drive` of this runtime: no daemon takes it while this one is open.
        """
        taken = await self.take_in(
            spec, submitted_by=submitted_by, idempotency_key=idempotency_key, held=held
        )
        return taken.task_id

    async def take_in(
        self,
        spec: TaskSpec,
        *,
        submitted_by: str,
        idempotency_key: str | None = None,
        budget: DayBudget = UNBOUNDED,
        held: bool = False,
    ) -> Submitted:
        """As `submit`, and the task as it was stored; `is_new` is false if the key was known.

        Raises:
            UsageError: the plan does not fit the installed tools, it names more resources than the
                operator allows, a secret is not known, or the repository is missing or none;
                nothing was stored. Or the key made another task than this one.
            ConfigError: a model is named, and no adapter can reach it.
            AllowanceSpent: `budget` is what the submitter may use on a day, and it is used up.

        A repetition is refused for none of these: whoever lost the answer gets the task, though its
        repository has gone since, or it was the day's last.
        """
        try:
            if budget == UNBOUNDED:
                return await self._take_in(spec, submitted_by, idempotency_key, held)
            async with self.allowances.taking(submitted_by, budget):
                return await self._take_in(spec, submitted_by, idempotency_key, held)
        except (UsageError, ConfigError, AllowanceSpent):
            stored = idempotency_key and await self.ports.store.made_by(idempotency_key)
            if not stored:
                raise
            made = self._first_event(spec, submitted_by, idempotency_key)
            return await self._as_taken(made, stored, spec)

    async def _take_in(
        self, spec: TaskSpec, submitted_by: str, idempotency_key: str | None, held: bool
    ) -> Submitted:
        await self.refuse_what_cannot_run(spec)
        made = self._first_event(spec, submitted_by, idempotency_key)
        task_id = await self.ports.store.create(
            made.summary, made.rows, idempotency_key=idempotency_key, held=held
        )
        if task_id == made.summary.task_id:
            return made
        return await self._as_taken(made, task_id, spec)

    async def take_in_all(
        self,
        wishes: Sequence[tuple[TaskSpec, str | None]],
        *,
        submitted_by: str,
        budget: DayBudget = UNBOUNDED,
    ) -> list[Submitted | AgentRuntimeError]:
        """Many tasks, each with its idempotency key or None, in one durable write.

        What one is refused for stands in its place and keeps no other from being stored.

        Raises:
            AllowanceSpent: not all of them that are new fit into `budget`; nothing was stored.
        """
        if budget == UNBOUNDED:
            return await self._take_in_all(wishes, submitted_by)
        store, new = self.ports.store, len(wishes)
        for _, key in wishes:
            if key is None:
                break  # of one batch all have a key, or none
            new -= await store.made_by(key) is not None
        if not new and wishes:
            return await self._take_in_all(wishes, submitted_by)
        async with self.allowances.taking(submitted_by, budget, new):
            return await self._take_in_all(wishes, submitted_by)

    async def _take_in_all(
        self, wishes: Sequence[tuple[TaskSpec, str | None]], submitted_by: str
    ) -> list[Submitted | AgentRuntimeError]:
        made: list[Submitted | AgentRuntimeError] = []
        for spec, key in wishes:
            try:
                await self.refuse_what_cannot_run(spec)
            except AgentRuntimeError as error:
                if key is None or await self.ports.store.made_by(key) is None:
                    made.append(error)
                    continue
            made.append(self._first_event(spec, submitted_by, key))
        new = [each for each in made if isinstance(each, Submitted)]
        stored = await self.ports.store.create_all(
            [NewTask(each.summary, each.rows, each.idempotency_key) for each in new]
        )
        ids = iter(stored)
        taken: list[Submitted | AgentRuntimeError] = []
        for each, (spec, _) in zip(made, wishes, strict=True):
            if isinstance(each, Submitted):
                try:
                    taken.append(await self._as_taken(each, next(ids), spec))
                except AgentRuntimeError as error:
                    taken.append(error)
            else:
                taken.append(each)
        return taken

    def _first_event(self, spec: TaskSpec, submitted_by: str, key: str | None) -> Submitted:
        now_us = self.ports.clock.now_us()
        return first_event(spec, now_us, submitted_by=submitted_by, idempotency_key=key)

    async def _as_taken(self, made: Submitted, stored: TaskId, spec: TaskSpec) -> Submitted:
        if stored == made.task_id:
            return made
        rows = await self.ports.store.load(stored)
        first = codec.decode(rows[0])
        if not isinstance(first, e.TaskSubmitted) or first.spec != spec:
            raise IdempotencyMismatch(
                f"the idempotency key {made.idempotency_key!r} was used for another task, "
                f"{stored!r}: use a new key for a new task, and send the same body for a repetition"
            )
        summary = await self.ports.store.summary(stored)
        return Submitted(summary, rows[:1], made.idempotency_key, is_new=False)

    async def drive(self, task_id: TaskId) -> State:
        """Drive one task here as far as it goes: to its end, or until it waits or is paused.

        Raises:
            LeaseHeld: another live process drives it.
            Conflict: it has ended.
        """
        summary = await self.ports.store.summary(task_id)
        if summary.status in TERMINAL_STATUSES:
            raise Conflict(
                f"task {task_id!r} has ended: it is {summary.status}; "
                f"`agent-runtime continue {task_id}` opens it again"
            )
        return await self.supervisor.run_task(task_id)
