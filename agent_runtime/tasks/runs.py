"""Going on from what there is: another run of an ended task, another task from its first events."""

from __future__ import annotations

import time

from agent_runtime.access.callers import UNBOUNDED, DayBudget
from agent_runtime.allowances import Allowances
from agent_runtime.errors import Conflict, DiskFull, IdempotencyMismatch, WorkspaceError
from agent_runtime.forks import fork_task, key_of
from agent_runtime.loop import events as e
from agent_runtime.loop.continuing import continuation
from agent_runtime.loop.journal import append_fact
from agent_runtime.loop.state import State
from agent_runtime.ports.everything import Ports
from agent_runtime.tasks.conditions import Only, key_used, refuse_repetition, whatever
from agent_runtime.tasks.fitness import Fitness
from agent_runtime.tasks.reads import ends_of
from agent_runtime.types import ContinuationSpec, ForkSpec, Once, TaskId, TreeId


class Runs(Fitness):
    """Continues and forks. Nothing that is begun here runs before it is driven."""

    def __init__(self, ports: Ports, *, state_dir: str) -> None:
        super().__init__(ports, state_dir=state_dir)
        self.allowances = Allowances(ports.store, ports.clock, time.monotonic)

    async def continue_task(
        self,
        task_id: TaskId,
        wish: ContinuationSpec,
        *,
        by: str,
        budget: DayBudget = UNBOUNDED,
        only: Only = whatever,
        once: Once | None = None,
    ) -> State:
        """Re-open an ended task with a new allotment, durable on return; nothing of it runs yet.

        Of several at once one wins. The result that it had is superseded: its files get the number
        of its run.

        Raises:
            Conflict: it has not ended, or the versions of its workspace or the commit that it
                began with are gone.
            UsageError: there is nothing to do, the plan does not fit, the repository is missing.
            ConfigError: a model is named, and no adapter can reach it.
            AllowanceSpent: `by` may use no more tokens or money today. What the task uses counts
                for who submitted it.
            Repeated, IdempotencyMismatch: as `steer`.
        """
        await self.allowances.require(by, budget)
        state = await self.state(task_id)
        await self.refuse_what_cannot_run(continuation(state, wish))
        if state.workspace is not None and state.workspace.path:
            trees = {TreeId(state.workspace.base_tree), TreeId(state.tree)}
            try:
                await self.ports.workspaces.require(task_id, sorted(trees))
                if (spec := state.task.workspace) is not None:
                    # Before the good result is superseded: without its commit no run can begin.
                    await self.ports.workspaces.check(spec, at=state.workspace.base_commit)
            except DiskFull:
                raise
            except WorkspaceError as error:
                raise Conflict(f"task {task_id!r} cannot be continued: {error}") from error

        def make(state: State) -> e.OutsideFact:
            refuse_repetition(state, by, once)
            only(state.seq)
            spec = continuation(state, wish)
            return e.Continued(by=by, message=wish.message, spec=spec, once=once)

        after = await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)
        await self._files.supersede(task_id, ends_of(after))
        return after

    async def fork(
        self,
        task_id: TaskId,
        wish: ForkSpec,
        *,
        by: str,
        budget: DayBudget = UNBOUNDED,
        once: Once | None = None,
    ) -> TaskId:
        """Store another task that begins with the first events of this one; see `forks`.

        Nothing of it runs yet, and nothing of this one changes. What `once` has made before is
        returned (see `forked_before`).

        Raises:
            NotFound, Conflict, UsageError, CorruptLog, ConfigError, WorkspaceError: as
                `forks.fork_task`; nothing is stored.
            AllowanceSpent: as `take_in`.
        """
        check = self.refuse_what_cannot_run
        if once is not None and (known := await self.forked_before(by, once)) is not None:
            return known
        async with self.allowances.taking(by, budget):
            made = await fork_task(task_id, wish, self.ports, by=by, check=check, once=once)
        if once is not None:
            await self.forked_before(by, once)  # with another wish, by somebody at the same time?
        return made

    async def forked_before(self, by: str, once: Once) -> TaskId | None:
        """The fork that `by` has made with this key; None: there is none.

        Raises:
            IdempotencyMismatch: the key has made another task, or another fork.
        """
        stored = await self.ports.store.made_by(key_of(by, once))
        if stored is None:
            return None
        fork = (await self.state(stored)).forked
        if fork is None or fork.once != once:
            raise IdempotencyMismatch(key_used(once, f"for another task, {stored!r}"))
        return stored
