"""The in-process API: everything that a command line, HTTP or MCP can ask for is a method here.

It stands between the faces and the loop: reads are folds of the log, writes are events. Driving is
the supervisor's.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import anyio.to_thread
import msgspec

from agent_runtime import schema
from agent_runtime.access.callers import UNBOUNDED, DayBudget
from agent_runtime.admission import Admission, Bounds
from agent_runtime.allowances import Allowances
from agent_runtime.certificate import (
    Result,
    VerifyReport,
    blobs_named,
    certificate_of,
    claims_hold,
    earlier_ends,
    lists_of,
    names_hold,
    result_of,
)
from agent_runtime.comparison import Comparison, compare
from agent_runtime.decisions import NO_SECRETS, OpenDecision, answer, open_decision
from agent_runtime.errors import (
    AgentRuntimeError,
    AllowanceSpent,
    ConfigError,
    Conflict,
    CorruptLog,
    DiskFull,
    Fault,
    IdempotencyMismatch,
    NotFound,
    Repeated,
    UsageError,
    WorkspaceError,
)
from agent_runtime.forks import fork_task, key_of
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.asking import effect_if_known
from agent_runtime.loop.continuing import continuation
from agent_runtime.loop.discover import plan_problems, unknown_names
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.hands import furnished
from agent_runtime.loop.intake import NotStorable, json_of
from agent_runtime.loop.journal import Newest, append_fact
from agent_runtime.loop.publishing import commit_message
from agent_runtime.loop.replay import Replayed, replay
from agent_runtime.loop.state import State, lacks_brain, pending_of, status_of
from agent_runtime.loop.submission import Submitted, first_event
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.loop.why import Link, chain, seq_asked
from agent_runtime.messages import ToolUse
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.publisher import Publisher
from agent_runtime.ports.store import NewTask
from agent_runtime.ports.tools import Toolbox
from agent_runtime.ports.verifier import CheckOutcome
from agent_runtime.ports.workspaces import ArtifactLimits
from agent_runtime.redaction import Redactor
from agent_runtime.report import Report, report_of
from agent_runtime.resources import above
from agent_runtime.results import ResultFiles, RunFiles
from agent_runtime.retention import Policy, Retention
from agent_runtime.transfer import Imported, export_task, import_task
from agent_runtime.types import (
    TERMINAL_STATUSES,
    BlobId,
    ChangeSpec,
    ContinuationSpec,
    ForkSpec,
    Json,
    Once,
    PublishSpec,
    Row,
    Seq,
    Status,
    TaskId,
    TaskSpec,
    TaskSummary,
    TreeId,
    name_fits,
)
from agent_runtime.verdicts import differing, few, read_stored

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_Fault = Callable[[str], VerifyReport]
Only = Callable[[int], None]
"""Raises `MovedOn` for the number of a task's newest event, unless it is one that is meant. Asked
about the very state that a fact is added to: of two with one number, only the first is stored."""


def _whatever(seq: int) -> None:
    """Every number is meant."""


class _Known(Exception):
    """There is nothing to add: a call of this name is in the log, or the task is busy."""


class _SecretsWanted(Exception):
    """The task's secrets must be known before its facts are stored."""

    def __init__(self, state: State) -> None:
        self.state = state


SEEN_MAX = 64
FOLLOW_SECONDS = 0.5
"""How long a follower sleeps at most before it looks at the log again."""


class Runtime:
    """One store and what drives its tasks in this process. `state_dir` is where results are put."""

    def __init__(
        self,
        ports: Ports,
        *,
        state_dir: str,
        supervisor: Supervisor | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.ports = ports
        self.supervisor = supervisor or Supervisor(ports)
        self.admission = Admission(ports.store, bounds or Bounds())
        """For whoever takes tasks of others in: ask it first."""
        self.allowances = Allowances(ports.store, ports.clock, time.monotonic)
        self._seen: Newest = {}
        """Of tasks that take calls: a long session must not be read anew for each."""
        self._state_dir = state_dir
        self._files = ResultFiles(state_dir)

    # ---- tasks ---------------------------------------------------------------------------

    async def submit(
        self, spec: TaskSpec, *, submitted_by: str, idempotency_key: str | None = None
    ) -> TaskId:
        """Store a task; durable when it returns. Nothing of it runs yet. Errors as `take_in`."""
        taken = await self.take_in(spec, submitted_by=submitted_by, idempotency_key=idempotency_key)
        return taken.task_id

    async def take_in(
        self,
        spec: TaskSpec,
        *,
        submitted_by: str,
        idempotency_key: str | None = None,
        budget: DayBudget = UNBOUNDED,
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
                return await self._take_in(spec, submitted_by, idempotency_key)
            async with self.allowances.taking(submitted_by, budget):
                return await self._take_in(spec, submitted_by, idempotency_key)
        except (UsageError, ConfigError, AllowanceSpent):
            stored = idempotency_key and await self.ports.store.made_by(idempotency_key)
            if not stored:
                raise
            made = self._first_event(spec, submitted_by, idempotency_key)
            return await self._as_taken(made, stored, spec)

    async def _take_in(
        self, spec: TaskSpec, submitted_by: str, idempotency_key: str | None
    ) -> Submitted:
        await self.refuse_what_cannot_run(spec)
        made = self._first_event(spec, submitted_by, idempotency_key)
        task_id = await self.ports.store.create(
            made.summary, made.rows, idempotency_key=idempotency_key
        )
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

    async def refuse_what_cannot_run(self, spec: TaskSpec) -> None:
        """Look at everything that can be known about a task before it is stored.

        Raises:
            UsageError, ConfigError: as `take_in`.
        """
        wrong = plan_problems(spec, self.ports.toolbox)
        others = unknown_names(spec, self.ports.toolbox)
        others += above(spec.environment.resources, self.ports.sandbox_ceiling)
        if wrong or others:
            lines = [f"step {step_id!r}: {text}" for step_id, text in wrong]
            faults = [*_faults_of_steps(spec, wrong), *map(_fault_of_key, others)]
            raise UsageError("\n".join([*lines, *others]), faults=faults)
        if spec.model is not None and self.ports.model is None:
            raise ConfigError(
                f"no installed adapter can reach the model {spec.model!r}: give the task a plan, "
                "or install a plug-in of the group 'agent_runtime.models'"
            )
        self.ports.environment.check(spec)
        if spec.publish is not None:
            self._publisher().check(spec)
        if spec.workspace is not None:
            try:
                await self.ports.workspaces.check(spec.workspace)
            except DiskFull:
                raise
            except WorkspaceError as error:
                key = "" if str(error).startswith("workspace.") else "workspace.repo: "
                raise UsageError(
                    f"{key}{error}", faults=[Fault(("workspace", "repo"), str(error))]
                ) from error

    async def continue_task(
        self,
        task_id: TaskId,
        wish: ContinuationSpec,
        *,
        by: str,
        budget: DayBudget = UNBOUNDED,
        only: Only = _whatever,
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
        await self._files.supersede(task_id, _ends(after))
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
            raise IdempotencyMismatch(_used(once, f"for another task, {stored!r}"))
        return stored

    async def upload(self, chunks: AsyncIterable[bytes]) -> str:
        """Take in a repository as a git bundle; what `workspace.repo` of a task may be then.

        Uncommitted edits may be in it, see `workspaces.uploads`. The same one again is kept once.

        Raises:
            UsageError: it is no bundle that a task could work on, or too large; nothing is kept.
            ConfigError: this installation takes none.
        """
        if self.ports.uploads is None:
            raise ConfigError("this installation takes no uploads: let the task name a git URL")
        return await self.ports.uploads.receive(chunks)

    async def publish(
        self, task_id: TaskId, publish: PublishSpec | None, *, by: str, only: Only = _whatever
    ) -> State:
        """Publish the branch of a task that has succeeded, once more or for the first time.

        Durable when it returns; whoever drives tasks does it then. None: as the task's file says.

        Raises:
            Conflict: it has not ended, or not succeeded: nothing is proven.
            UsageError: `publish` cannot be used; nothing was stored.
            ConfigError: this installation cannot publish.
        """
        state = await self.state(task_id)
        wanted = publish or _published_before(state) or state.task.publish or PublishSpec()
        self._publisher().check(msgspec.structs.replace(state.task, publish=wanted))
        _refuse_unproven(state)
        # It tells where the log ended, and that is about to be another place.
        await self._files.outdate(task_id)

        def make(state: State) -> e.OutsideFact:
            only(state.seq)
            _refuse_unproven(state)
            return e.PublicationRequested(by=by, publish=wanted)

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    def _publisher(self) -> Publisher:
        if self.ports.publisher is None:
            raise ConfigError("this installation cannot publish: leave out `publish`")
        return self.ports.publisher

    async def branch_bundle(self, task_id: TaskId) -> bytes:
        """The task's branch as a git bundle, for a checkout that has the base commit.

        Raises:
            Conflict: it has no result yet, or no workspace.
            WorkspaceError: its versions are gone, or the result does not fit the base alone.
        """
        state = await self.state(task_id)
        workspace = state.workspace
        if not state.ended or workspace is None or not workspace.base_tree:
            raise Conflict(
                f"task {task_id!r} has no branch: "
                + ("it had no workspace" if state.ended else "it has not ended yet")
            )
        return await self.ports.workspaces.branch_bundle(
            task_id,
            await self.patch(task_id),
            base_commit=workspace.base_commit,
            message=commit_message(state),
            at_us=state.created_at_us,
        )

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

    # ---- facts from people ---------------------------------------------------------------

    async def cancel(
        self, task_id: TaskId, *, by: str, reason: str = "", only: Only = _whatever
    ) -> State:
        """Ask for the end of a task. `Conflict` if its end is decided already."""
        return await self._fact(task_id, e.CancelRequested(by=by, reason=reason), only)

    async def pause(self, task_id: TaskId, *, by: str, only: Only = _whatever) -> State:
        """Let a task stop: what runs in its sandbox is frozen, nothing new starts."""
        return await self._fact(task_id, e.PauseRequested(by=by), only)

    async def resume(
        self, task_id: TaskId, *, by: str, model: str = "", only: Only = _whatever
    ) -> State:
        """Let a paused task go on, or give one that waits for a brain a model to think with.

        Without a model, nothing happens to a task that is not paused.

        Raises:
            Conflict: it has ended, or a model is given to one that has a brain.
        """
        state = await self.state(task_id)
        if not state.paused and not model:
            only(state.seq)
            return state

        def make(state: State) -> e.OutsideFact:
            only(state.seq)
            _refuse_when_over(state)
            if model and state.brain is not None and not lacks_brain(state):
                raise Conflict(
                    f"task {task_id!r} has a brain ({state.task.model or state.brain.kind}); "
                    f"cancel it, then `agent-runtime continue {task_id} --model {model}`"
                )
            return e.ResumeRequested(by=by, model=model)

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def next_decision(self, task_id: TaskId) -> OpenDecision | None:
        """What a connected client is to decide for a task whose brain it is; None: nothing now."""
        state = await self.state(task_id)
        return open_decision(state, self.ports.toolbox, await self._redactor(state))

    async def submit_decision(
        self,
        task_id: TaskId,
        decision_id: str,
        *,
        text: str = "",
        calls: Sequence[ToolUse] = (),
        by: str,
    ) -> State:
        """A client's answer; durable when it returns.

        Raises:
            Conflict: that decision is not open any more; ask for the next one.
            UsageError: the calls cannot be told apart.
        """

        redactor = await self._redactor(await self.state(task_id))

        def make(state: State) -> e.OutsideFact:
            _refuse_when_over(state)
            return answer(
                state, self.ports.toolbox, decision_id, text=text, calls=calls, by=by or "client",
                redactor=redactor,
            )  # fmt: skip

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def _redactor(self, state: State) -> Redactor:
        """Knows the task's secrets. `WorkspaceError` if one cannot be read just now."""
        task = state.task
        if not (task.policy.secrets or task.environment.secrets):
            return NO_SECRETS
        return Redactor(await anyio.to_thread.run_sync(self.ports.environment.secrets, task))

    async def request_call(
        self,
        task_id: TaskId,
        step_id: str,
        tool: str,
        arguments: Mapping[str, Json],
        *,
        by: str,
    ) -> Seq | None:
        """Ask for a call in a task whose plan is open; durable when it returns the event's number.

        None: a call of this name was asked for before. What became of it is in the log.

        Raises:
            Conflict: the task has ended, or its end is decided.
            UsageError: the arguments are no JSON that a log can hold, or its plan is not open.
        """
        try:
            taken = json_of(dict(arguments))
        except NotStorable as error:
            raise UsageError(f"the arguments of {tool!r} cannot be stored: {error}") from error
        redactor: Redactor | None = None

        def make(state: State) -> e.OutsideFact:
            nonlocal redactor
            _refuse_when_over(state)
            if state.cancel is not None:
                raise Conflict(f"task {task_id!r} is being cancelled")
            if not state.is_open:
                raise UsageError(f"task {task_id!r} has a plan or a brain of its own")
            if step_id in state.steps or step_id in state.past:
                raise _Known
            if redactor is None:
                if state.task.policy.secrets or state.task.environment.secrets:
                    raise _SecretsWanted(state)
                redactor = NO_SECRETS
            return e.CallRequested(
                step_id=step_id,
                tool=tool,
                arguments=redactor.json(taken),
                effect=effect_if_known(state.task, tool, taken, self.ports.toolbox),
                by=by,
            )

        while True:
            try:
                after = await append_fact(
                    self.ports.store, self.ports.clock, self.ports.bus, task_id, make, self._seen
                )
                while len(self._seen) > SEEN_MAX:
                    del self._seen[next(iter(self._seen))]
                return Seq(after.seq)
            except _Known:
                return None
            except _SecretsWanted as wanted:
                redactor = await self._redactor(wanted.state)

    async def withdraw_call(
        self, task_id: TaskId, step_id: str, *, by: str, reason: str = ""
    ) -> State:
        """Ask for the end of one call; nothing happens if it has ended.

        Raises:
            Conflict: the task has ended.
        """
        fact = e.CallWithdrawn(step_id=step_id, by=by, reason=reason)
        return await self._fact(task_id, fact, _whatever)

    async def end_if_idle(
        self, task_id: TaskId, *, by: str, reason: str, idle_seconds: float = 0.0
    ) -> bool:
        """Cancel a task whose plan is open, if nothing was asked of it for so long; was it done?

        A call that comes at the same time is first, or is refused: never lost in between.
        """

        def make(state: State) -> e.OutsideFact:
            idle_us = self.ports.clock.now_us() - state.at_us
            if state.stopping or not state.awaits_calls or idle_us < idle_seconds * 1e6:
                raise _Known
            return e.CancelRequested(by=by, reason=reason)

        try:
            await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)
        except _Known:
            return False
        return True

    async def steer(
        self,
        task_id: TaskId,
        message: str,
        *,
        by: str,
        only: Only = _whatever,
        once: Once | None = None,
    ) -> State:
        """Tell the brain something.

        Raises:
            Conflict: it has ended.
            Repeated: the same was said with this key before; nothing is stored again.
            IdempotencyMismatch: something else was.
        """
        return await self._fact(task_id, e.Steered(by=by, message=message, once=once), only)

    async def change(
        self, task_id: TaskId, wish: ChangeSpec, *, by: str, only: Only = _whatever
    ) -> State:
        """Give a task other labels or another priority. What is so already stores nothing.

        Raises:
            Conflict: it has ended: its result says where its log ends.
            UsageError: a client's calls find it by the labels that it would lose.
        """

        def make(state: State) -> e.TaskChanged:
            only(state.seq)
            if state.ended:
                raise Conflict(
                    f"task {task_id!r} has ended: its log is closed, its labels and priority stay; "
                    f"`agent-runtime continue {task_id}` opens it again"
                )
            labels = wish.labels if wish.labels != state.task.labels else None
            plan = state.task.plan
            if labels is not None and plan is not None and not plan.steps:
                _require_kept(state, labels)
            priority = wish.priority if wish.priority != state.task.priority else None
            return e.TaskChanged(by=by, labels=labels, priority=priority)

        state = await self.state(task_id)
        change = make(state)
        if change.labels is None and change.priority is None:
            return state
        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    async def decide_approval(
        self,
        task_id: TaskId,
        approval_id: str | None,
        decision: str,
        *,
        by: str,
        message: str = "",
        scope: Literal["once", "task"] = "once",
        arguments: Mapping[str, Json] | None = None,
    ) -> str:
        """Answer a pending approval (the only one if no id is given) and return its id.

        A yes with `scope` task also allows what the same rule asks about the same tool from then
        on. `arguments` stand in the place of the call's own; its tool and the policy judge them.

        Raises:
            NotFound: nothing is pending, or not that one.
            UsageError: several are pending and none was named; the arguments do not fit the tool;
                or no call is asked about that they could be of.
            Conflict: it has ended.
        """
        answered = ""

        def make(state: State) -> e.OutsideFact:
            nonlocal answered
            _refuse_when_over(state)
            answered = pending_of(state, approval_id)
            if scope == "task" or arguments is not None:
                asked = state.approvals[answered]
                _require_fitting(asked, decision, arguments, self.ports.toolbox)
            return e.ApprovalDecided(
                approval_id=answered,
                decision="approve" if decision == "approve" else "deny",
                by=by,
                message=message,
                scope=scope,
                arguments=None if arguments is None else dict(arguments),
            )

        await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)
        return answered

    async def _fact(self, task_id: TaskId, fact: e.OutsideFact, only: Only) -> State:
        def make(state: State) -> e.OutsideFact:
            if isinstance(fact, e.Steered):
                refuse_repetition(state, fact.by, fact.once)
            only(state.seq)
            _refuse_when_over(state)
            return fact

        return await append_fact(self.ports.store, self.ports.clock, self.ports.bus, task_id, make)

    # ---- results -------------------------------------------------------------------------

    async def result(self, task_id: TaskId) -> Result:
        """What came of a task, with its patch and certificate as files."""
        state, rows, _ = await self._load(task_id)
        patch_path = certificate_path = None
        certificate = certificate_of(state, rows)
        found = state.verification
        await self._files.supersede(task_id, _ends(state))
        if state.ended and certificate is not None and found is not None:
            patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
            try:
                patch_path, certificate_path = await self._files.write(task_id, patch, certificate)
            except OSError as error:
                kind = DiskFull if error.errno in _NO_ROOM else ConfigError
                raise kind(
                    f"task {task_id!r} has ended as {status_of(state)[0]}, and its result cannot be"
                    f" written to {self._files.directory(task_id)!r}: {error.strerror}; "
                    f"`agent-runtime diff {task_id}` prints the patch"
                ) from error
        return result_of(state, patch=patch_path, certificate=certificate_path)

    async def certificate(self, task_id: TaskId, *, seq: int | None = None) -> dict[str, Json]:
        """The evidence, as it was at event `seq`. `NotFound` if nothing was verified."""
        rows = (await self.ports.store.load(task_id))[:seq]
        state = _folded(task_id, rows)[0]
        certificate = certificate_of(state, rows)
        if certificate is None:
            raise NotFound(f"task {task_id!r} has no certificate: nothing of it was verified")
        return certificate

    async def report(self, task_id: TaskId) -> Report:
        """What a reviewer wants to know, as far as the task is. `CorruptLog` as for `state`."""
        state, rows, events = await self._load(task_id)
        found = state.verification
        patch = None
        if found is not None and found.tree:
            patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
        return report_of(state, rows, events, patch)

    async def replay(self, task_id: TaskId) -> Replayed:
        """Decide the task again from its recorded inputs; see `loop.replay`.

        Raises:
            CorruptLog: the log is not what was written, so there is nothing to compare with.
        """
        rows = await self.ports.store.load(task_id)
        codec.check_chain(rows, task_id=task_id)
        return replay(rows)

    async def why(
        self, task_id: TaskId, seq: int | None, depth: int
    ) -> tuple[list[Row], list[Link]]:
        """The log, and what event `seq` rests on; without a number, the last thing decided.

        Raises:
            NotFound: there is no such event.
        """
        rows = await self.ports.store.load(task_id)
        codec.check_chain(rows, task_id=task_id)
        events = [codec.decode(row) for row in rows]
        return rows, chain(events, seq_asked(task_id, events, seq), depth)

    async def compare(self, one: TaskId, other: TaskId) -> Comparison:
        """Two tasks side by side; see `comparison`.

        Raises:
            NotFound, CorruptLog: as for `state`.
        """
        sides = [await self._load(task_id) for task_id in (one, other)]
        files: tuple[Mapping[str, str], Mapping[str, str]] | str
        try:
            files = (await self._changed_files(sides[0][0]), await self._changed_files(sides[1][0]))
        except DiskFull:
            raise
        except WorkspaceError as error:
            files = f"the files cannot be compared: {error}"
        (left, _, left_events), (right, _, right_events) = sides
        return compare((left, left_events), (right, right_events), files)

    async def _changed_files(self, state: State) -> Mapping[str, str]:
        """Path -> SHA-256 of what the task changed, up to its last tree, or `removed`, `a link`."""
        if state.workspace is None or not state.workspace.base_tree:
            return {}
        base = TreeId(state.workspace.base_tree)
        found, kept = state.verification, state.kept
        last = (found.tree if found else "") or (kept.tree if kept else "") or state.tree
        task_id, tree = TaskId(state.task_id), TreeId(last)
        changes = await self.ports.workspaces.changes(task_id, base, tree)
        there = [change.path for change in changes if change.kind != "D"]
        contents = await self.ports.workspaces.contents(task_id, tree, there)
        return dict.fromkeys((change.path for change in changes), "removed") | {
            path: "a link" if content is None else hashlib.sha256(content).hexdigest()
            for path, content in contents.items()
        }

    async def patch(self, task_id: TaskId) -> bytes:
        """The verified patch of an ended task, else the difference up to the last known tree."""
        state = await self.state(task_id)
        if state.verification is not None and state.verification.patch_blob:
            return await self.ports.store.get_blob(BlobId(state.verification.patch_blob))
        if state.workspace is None or not state.workspace.base_tree:
            return b""
        return await self.ports.workspaces.patch(
            task_id, TreeId(state.workspace.base_tree), TreeId(state.tree)
        )

    async def verify(self, task_id: TaskId) -> VerifyReport:
        """Check offline that a task's log, blobs, trees and claims are what was written.

        Raises:
            NotFound: no such task.
        """
        summary = await self.ports.store.summary(task_id)

        def fault(message: str, seq: int | None = None) -> VerifyReport:
            return VerifyReport(ok=False, task_id=task_id, seq=seq, fault=message)

        try:
            state, rows, events = await self._load(task_id)
        except CorruptLog as error:
            return fault(str(error), error.seq)
        except AssertionError as error:
            return fault(f"the log does not fold: {error}")
        last = rows[-1] if rows else None
        if last is None or (last.seq, last.hash) != (summary.seq, summary.head_hash):
            at = last.seq if last else 0
            return fault(
                f"the log of {task_id!r} ends at event {at}, and its head should be event "
                f"{summary.seq}: the tail was cut or the head changed",
                at + 1,
            )
        for seq, blob_id in blobs_named(events):
            try:
                await self.ports.store.get_blob(blob_id)
            except (CorruptLog, NotFound) as error:
                return fault(f"event {seq} of {task_id!r} names a blob: {error}", seq)
        runs = [*earlier_ends(state, rows, events), (state, rows)]
        for at_end, _ in runs:
            if broken := claims_hold(at_end):
                return fault(broken, at_end.seq)
        if path := await self._files.changed(task_id, await self._run_files(runs)):
            return fault(
                f"the file {path!r} is not what the log says; the log itself is whole: "
                f"`agent-runtime diff {task_id}` prints its patch"
            )
        if state.kept is not None and (broken := await self._artifacts_changed(task_id, state)):
            return fault(broken)
        if state.verification is None or not state.verification.tree:
            return VerifyReport(ok=True, task_id=task_id)
        may_lose = {o.id: o.check.may_lose for o in state.task.objectives}
        for check in state.verification.checks:
            lists = {blob: await self.ports.store.get_blob(blob) for blob in lists_of(check)}
            if broken := names_hold(check, may_lose.get(check.id, ()), lists):
                return fault(broken, state.seq)
        patch = await self.ports.store.get_blob(BlobId(state.verification.patch_blob))
        return await self._verify_trees(task_id, state.verification, patch, fault)

    async def _run_files(self, runs: Sequence[tuple[State, Sequence[Row]]]) -> list[RunFiles]:
        """What the result files of each run that has ended should hold."""
        files = []
        for state, rows in runs:
            certificate, found = certificate_of(state, rows), state.verification
            if state.ended and certificate is not None and found is not None:
                patch = await self.ports.store.get_blob(BlobId(found.patch_blob))
                number = 0 if state is runs[-1][0] else state.run
                files.append(RunFiles(number, patch, certificate))
        return files

    async def _artifacts_changed(self, task_id: TaskId, state: State) -> str:
        """Why the artifacts are not those that the log names; empty if they are."""
        kept = state.kept
        if kept is None or not kept.artifacts:
            return ""
        paths = [_literal(artifact.path) for artifact in kept.artifacts]
        everything = ArtifactLimits(files=len(paths), bytes=1 << 62)
        try:
            found = await self.ports.workspaces.find(
                task_id, TreeId(kept.tree), paths, limits=everything
            )
        except (AgentRuntimeError, OSError) as error:
            return f"the artifacts of {task_id!r} cannot be read: {error}"
        there = {file.path: file.sha256 for file in found.files}
        for artifact in kept.artifacts:
            if there.get(artifact.path) != artifact.sha256:
                return f"the artifact {artifact.path!r} of {task_id!r} is not what was kept"
        return ""

    async def check_again(self, task_id: TaskId) -> VerifyReport:
        """As `verify`, and then every check again, in new sandboxes on the stored trees.

        Raises:
            NotFound: no such task, or nothing of it was verified.
            Conflict: it has not ended.
            SandboxUnavailable: nothing can be run here.
            WorkspaceError: its trees cannot be exported.
        """
        report = await self.verify(task_id)
        state = await self.state(task_id)
        found = state.verification
        if not report.ok:
            return report
        if not state.ended:
            raise Conflict(f"task {task_id!r} has not ended: its checks are still to be run")
        if found is None or not found.tree:
            raise NotFound(f"task {task_id!r} has no checks to run again: nothing was verified")
        again = await self.ports.verifier.verify(
            task_id,
            objectives=state.task.objectives,
            base=TreeId(found.base_tree),
            tree=TreeId(found.tree),
            protected=state.protected,
            sandbox=self.ports.sandbox,
            furnished=partial(furnished, state, self.ports),
        )
        notes = list(report.notes)
        for told, seen in zip(found.checks, again.checks, strict=True):
            if names := await self._came_out_differently(told, seen):
                notes.append(
                    f"check {told.id!r}: {len(names)} tests came out differently, run again: "
                    f"{few(names, len(names))}"
                )
            if told.ok != seen.ok:
                flaky = "; it is flaky" if told.flaky or seen.flaky else ""
                return VerifyReport(
                    ok=False,
                    task_id=task_id,
                    fault=f"check {told.id!r} ended {_verdict(told.ok, told.reason)}, "
                    f"and run again {_verdict(seen.ok, seen.reason)}{flaky}",
                    notes=notes,
                )
        return msgspec.structs.replace(report, notes=notes)

    async def _came_out_differently(self, told: e.CheckResult, seen: CheckOutcome) -> list[str]:
        """Tests by name, after the work."""
        if told.tests is None or not told.tests.blob:
            return []
        stored = read_stored(await self.ports.store.get_blob(BlobId(told.tests.blob)))
        return sorted(differing(stored, seen.seen.tests))

    async def _verify_trees(
        self, task_id: TaskId, found: e.VerificationEnded, stored: bytes, fault: _Fault
    ) -> VerifyReport:
        """Is the stored patch really the difference between the trees that were checked?"""
        try:
            made = await self.ports.workspaces.patch(
                task_id, TreeId(found.base_tree), TreeId(found.tree)
            )
        except (AgentRuntimeError, OSError) as error:
            return fault(f"the trees of {task_id!r} cannot be read: {error}")
        if made != stored:
            return fault(f"the patch of {task_id!r} is not the difference of its trees")
        return VerifyReport(ok=True, task_id=task_id)

    async def artifacts(self, task_id: TaskId) -> e.WorkKept | None:
        """What the newest run kept beside its patch; None if it has not come to that."""
        return (await self.state(task_id)).kept

    async def take_artifacts(self, task_id: TaskId, directory: str) -> list[str]:
        """Write the artifacts below `directory`; returns their paths in it.

        Raises:
            NotFound: there are none.
            Conflict: another file is in the way; nothing was written.
            UsageError: `directory` cannot be written.
            WorkspaceError: they are gone.
        """
        kept = await self.artifacts(task_id)
        if kept is None or not kept.artifacts:
            raise NotFound(
                f"task {task_id!r} has kept no artifacts; `artifacts` in its task file names them"
            )
        paths = [artifact.path for artifact in kept.artifacts]
        await self.ports.workspaces.take_out(task_id, TreeId(kept.tree), paths, directory)
        return paths

    async def artifact(self, task_id: TaskId, path: str) -> bytes:
        """One of the artifacts.

        Raises:
            NotFound: no file of this name was kept.
            WorkspaceError: it is gone.
        """
        kept = await self.artifacts(task_id)
        if kept is None or path not in {artifact.path for artifact in kept.artifacts}:
            raise NotFound(f"task {task_id!r} has kept no file {path!r}; its artifacts are listed")
        found = await self.ports.workspaces.contents(task_id, TreeId(kept.tree), [path])
        content = found.get(path)
        if content is None:
            raise WorkspaceError(f"the artifact {path!r} of {task_id!r} is gone, or no file")
        return content

    async def export_task(self, task_id: TaskId) -> bytes:
        """An ended task as one file, see `transfer.export_task`."""
        return await export_task(task_id, self.ports.store, self.ports.workspaces)

    async def import_task(self, data: bytes) -> Imported:
        """Take in what `export_task` made, all of it or nothing; see `transfer.import_task`."""
        return await import_task(data, self.ports.store, self.ports.workspaces)

    async def forget(self, task_id: TaskId) -> None:
        """Remove an ended task and everything of it.

        Raises:
            Conflict: it has not ended, or was continued meanwhile; nothing of it was touched.
        """
        summary = await self.ports.store.summary(task_id)
        if summary.status not in TERMINAL_STATUSES:
            raise Conflict(
                f"task {task_id!r} is {summary.status}; only an ended one can be removed: "
                f"`agent-runtime cancel {task_id}` ends it"
            )
        # The row first: it alone says that nobody continues the task. What a kill leaves of the
        # files is a leftover, which `gc` finds.
        await self.ports.store.delete(task_id, expected=Seq(summary.seq))
        if summary.repo:
            await self.ports.workspaces.forget(task_id)
        if self.ports.publisher is not None:
            await self.ports.publisher.forget(task_id)
        await self._files.remove(task_id)

    def retention(self, policy: Policy, **more: float) -> Retention:
        """Forgets ended tasks by age and by size; see `retention`."""
        return Retention(
            self.ports.store,
            self.ports.clock,
            policy,
            state_dir=self._state_dir,
            forget=self.forget,
            uploads=self.ports.uploads,
            **more,
        )

    async def _load(self, task_id: TaskId) -> tuple[State, list[Row], list[e.AnyEvent]]:
        rows = await self.ports.store.load(task_id)
        state, events = _folded(task_id, rows)
        return state, rows, events


def _faults_of_steps(spec: TaskSpec, wrong: Sequence[tuple[str, str]]) -> list[Fault]:
    places = {step.id: at for at, step in enumerate(spec.plan.steps if spec.plan else ())}
    return [Fault(("plan", "steps", places[step_id]), text) for step_id, text in wrong]


def _fault_of_key(problem: str) -> Fault:
    """Of a message that begins with the key it is about: `policy.tools: …`."""
    key, _, text = problem.partition(": ")
    return Fault(tuple(key.split(".")), text)


def _folded(task_id: TaskId, rows: Sequence[Row]) -> tuple[State, list[e.AnyEvent]]:
    codec.check_chain(rows, task_id=task_id)
    events = [codec.decode(row) for row in rows]
    times = (row.at_us for row in rows)
    return fold(zip(events, times, strict=True), State(task_id=task_id)), events


def _ends(state: State) -> list[int]:
    """Numbers of the events with which its earlier runs ended."""
    return [run.ended_seq for run in state.earlier]


def refuse_repetition(state: State, by: str, once: Once | None) -> None:
    """Was this asked of the task before?

    Raises:
        Repeated: it was.
        IdempotencyMismatch: something else was, with the same key.
    """
    before = None if once is None else state.asked_once.get(key_of(by, once))
    if once is None or before is None:
        return
    if before != once.sha256:
        raise IdempotencyMismatch(_used(once, f"of task {state.task_id!r} for something else"))
    raise Repeated(f"this was asked of task {state.task_id!r} before")


def _used(once: Once, what: str) -> str:
    return (
        f"the idempotency key {once.key!r} was used {what}: use a new key for a new wish, and send "
        "the same body for a repetition"
    )


def _literal(path: str) -> str:
    """The glob that means this very path."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)


def _refuse_unproven(state: State) -> None:
    status, reason = status_of(state)
    if status is Status.SUCCEEDED:
        return
    if not state.ended:
        raise Conflict(f"task {state.task_id!r} is {status}: only what is proven is published")
    raise Conflict(
        f"task {state.task_id!r} is {status} ({reason}): only what is proven is published; "
        f"`agent-runtime pull {state.task_id}` takes its branch to a checkout"
    )


def _published_before(state: State) -> PublishSpec | None:
    return state.publication.spec if state.publication is not None else None


def _require_kept(state: State, labels: Mapping[str, str]) -> None:
    """Labels of a session are how it is found: by its client's next call, and by what ends it."""
    lost = [name for name, value in state.task.labels.items() if labels.get(name) != value]
    if lost:
        raise UsageError(
            f"labels: {', '.join(lost)} must stay as they are: calls of an MCP client find their "
            f"session {state.task_id!r} by them; give them too, and others beside them"
        )


def _refuse_when_over(state: State) -> None:
    if state.conclusion is not None:
        raise Conflict(
            f"task {state.task_id!r} is over: {state.conclusion.status} ({state.conclusion.reason})"
        )


def _require_fitting(
    asked: e.ApprovalRequested,
    decision: str,
    arguments: Mapping[str, Json] | None,
    toolbox: Toolbox,
) -> None:
    """`UsageError` if an answer says more than can be said about what was asked."""
    if decision != "approve" or asked.subject != "call":
        what = "a call of unknown effect" if asked.subject != "call" else "a refusal"
        raise UsageError(
            f"{what} has no other arguments and is no rule for the task: leave both out"
        )
    info = toolbox.find(asked.tool)
    if arguments is None or info is None:
        return
    if problems := schema.check(dict(arguments), info.parameters):
        raise UsageError(
            f"the arguments do not fit {asked.tool!r}: " + "; ".join(problems),
            faults=[Fault(("arguments",), problem) for problem in problems],
        )


def _verdict(ok: bool, reason: str) -> str:
    return "well" if ok else f"badly ({reason})"
