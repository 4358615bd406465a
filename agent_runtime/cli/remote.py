"""A daemon's tasks as verbs see them: the same methods as the runtime's own, over HTTP.

What is a fold of the log is folded here, from the log as it was fetched, so that a verb prints the
same about a task wherever it lies. Methods are coroutines because the runtime's are; none of them
waits for an event loop.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

from agent_runtime.client.blocking import Client
from agent_runtime.client.places import Place
from agent_runtime.client.views import InboxView, TaskView
from agent_runtime.errors import Conflict, NotFound, UsageError, WorkspaceError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import fold
from agent_runtime.loop.state import State, pending_of
from agent_runtime.types import (
    ChangeSpec,
    ContinuationSpec,
    ForkSpec,
    Json,
    Row,
    TaskId,
    TaskSpec,
    TaskSummary,
    name_fits,
)

if TYPE_CHECKING:
    from agent_runtime.certificate import Result, VerifyReport
    from agent_runtime.comparison import Comparison
    from agent_runtime.loop.replay import Replayed
    from agent_runtime.loop.why import Link
    from agent_runtime.report import Report

PATIENCE_SECONDS: Final = 5.0
"""Somebody sits there. A daemon that is just being started anew is back by then."""
_PAGE: Final = 500
_ID = re.compile(r"task_[0-9a-f]{32}")


class Remote:
    """One daemon. `place.state_dir` is known if it is this machine's own."""

    def __init__(self, place: Place) -> None:
        self.client = Client(place, patience_seconds=PATIENCE_SECONDS)
        # One that was found by its file was there a moment ago; at an address that somebody wrote
        # down there may be none.
        self.client.hasty = place.state_dir is None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.client.close()

    @property
    def place(self) -> Place:
        return self.client.place

    # ---- tasks ---------------------------------------------------------------------------

    async def submit(
        self, spec: TaskSpec, *, submitted_by: str, idempotency_key: str | None = None
    ) -> TaskId:
        return TaskId(self.client.submit(spec, idempotency_key=idempotency_key).id)

    async def find(self, name: str) -> TaskId:
        if _ID.fullmatch(name):
            return TaskId(self.client.get(name).id)
        matches = [t.id for t in self.client.tasks(page_size=_PAGE) if name_fits(t.id, name)]
        if not matches:
            raise NotFound(
                f"no task of the daemon at {self.place.url} is called {name!r}; "
                "`agent-runtime ps` lists them"
            )
        if len(matches) > 1:
            shown = ", ".join(sorted(matches)[:5])
            raise UsageError(f"{name!r} means several tasks ({shown}); write more of the id")
        return TaskId(matches[0])

    async def summary(self, task_id: TaskId) -> TaskSummary:
        return _summary(self.client.get(task_id))

    async def owner(self, task_id: TaskId) -> str | None:
        return f"the daemon at {self.place.url}"

    async def tasks(
        self,
        *,
        statuses: Sequence[str] = (),
        labels: Mapping[str, str] = {},
        before: TaskId | None = None,
        limit: int = 100,
    ) -> list[TaskSummary]:
        page = self.client.page(statuses=statuses, labels=labels, cursor=before, limit=limit)
        return [_summary(task) for task in page.tasks]

    async def state(self, task_id: TaskId) -> State:
        return self._load(task_id)[0]

    async def rows(self, task_id: TaskId, after: int = 0) -> list[Row]:
        return [row for event in self.client.log(task_id) if (row := event.row).seq > after]

    async def follow(self, task_id: TaskId, after: int = 0) -> AsyncIterator[Row]:
        for event in self.client.events(task_id, after=after):
            yield event.row

    def _load(self, task_id: TaskId) -> tuple[State, list[Row], list[e.AnyEvent]]:
        rows = [event.row for event in self.client.log(task_id)]
        codec.check_chain(rows, task_id=task_id)
        events = [codec.decode(row) for row in rows]
        times = (row.at_us for row in rows)
        state = fold(zip(events, times, strict=True), State(task_id=task_id))
        return state, rows, events

    # ---- facts from people; who they are, the daemon knows by their key --------------------

    async def cancel(self, task_id: TaskId, *, by: str, reason: str = "") -> TaskView:
        return self.client.cancel(task_id, reason)

    async def pause(self, task_id: TaskId, *, by: str) -> TaskView:
        return self.client.pause(task_id)

    async def resume(self, task_id: TaskId, *, by: str, model: str = "") -> TaskView:
        return self.client.resume(task_id, model)

    async def change(self, task_id: TaskId, wish: ChangeSpec, *, by: str) -> TaskView:
        return self.client.change(task_id, labels=wish.labels, priority=wish.priority)

    async def steer(self, task_id: TaskId, message: str, *, by: str) -> TaskView:
        return self.client.steer(task_id, message)

    async def asking(self) -> list[TaskId]:
        """The tasks that ask a person something."""
        return [TaskId(t) for t in dict.fromkeys(a.task_id for a in self.client.approvals())]

    async def inbox(self, limit: int) -> tuple[list[InboxView], bool]:
        """At least `limit` things that wait for a person, if there are as many; is that all?"""
        found: list[InboxView] = []
        cursor: str | None = None
        while len(found) < limit:
            page = self.client.inbox(cursor=cursor, limit=min(limit - len(found), _PAGE))
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        return found, cursor is None

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
        if approval_id is None:
            approval_id = pending_of(await self.state(task_id), None)
        yes = decision == "approve"
        name = f"{task_id}.{approval_id}"
        return self.client.decide(
            name, "approve" if yes else "deny", message, scope=scope, arguments=arguments
        ).approval_id

    async def continue_task(self, task_id: TaskId, wish: ContinuationSpec, *, by: str) -> TaskView:
        return self.client.continue_task(task_id, wish)

    async def fork(self, task_id: TaskId, wish: ForkSpec, *, by: str) -> TaskId:
        made = self.client.fork(
            task_id, at=wish.at, answer=wish.answer, result=wish.result, model=wish.model,
            policy=wish.policy, message=wish.message,
        )  # fmt: skip
        return TaskId(made.id)

    async def wait_ended(self, task_id: TaskId, seconds: float) -> State:
        """Its state when it has ended. `DeadlineExceeded` if it has not by then."""
        self.client.wait(task_id, seconds=seconds)
        return await self.state(task_id)

    # ---- results -------------------------------------------------------------------------

    async def result(self, task_id: TaskId) -> Result:
        """As the last line of `run --json`; its patch and certificate are addresses."""
        from agent_runtime.certificate import certificate_of, result_of

        state, rows, _ = self._load(task_id)
        there = state.ended and certificate_of(state, rows) is not None
        base = f"{self.place.url.rstrip('/')}/v1/tasks/{task_id}"
        return result_of(
            state,
            patch=f"{base}/diff" if there else None,
            certificate=f"{base}/certificate" if there else None,
        )

    async def certificate(self, task_id: TaskId, *, seq: int | None = None) -> dict[str, Json]:
        from agent_runtime.certificate import certificate_of

        rows = (await self.rows(task_id))[:seq]
        pairs = [(codec.decode(row), row.at_us) for row in rows]
        made = certificate_of(fold(pairs, State(task_id=task_id)), rows)
        if made is None:
            raise NotFound(f"task {task_id!r} has no certificate: nothing of it was verified")
        return made

    async def report(self, task_id: TaskId) -> Report:
        from agent_runtime.report import report_of

        state, rows, events = self._load(task_id)
        found = state.verification
        patch = self.client.diff(task_id) if found is not None and found.tree else None
        return report_of(state, rows, events, patch)

    async def replay(self, task_id: TaskId) -> Replayed:
        from agent_runtime.loop.replay import replay

        rows = await self.rows(task_id)
        codec.check_chain(rows, task_id=task_id)
        return replay(rows)

    async def why(
        self, task_id: TaskId, seq: int | None, depth: int
    ) -> tuple[list[Row], list[Link]]:
        from agent_runtime.loop.why import chain, seq_asked

        _, rows, events = self._load(task_id)
        return rows, chain(events, seq_asked(task_id, events, seq), depth)

    async def compare(self, one: TaskId, other: TaskId) -> Comparison:
        from agent_runtime.comparison import compare

        (left, _, left_events), (right, _, right_events) = self._load(one), self._load(other)
        files: tuple[Mapping[str, str], Mapping[str, str]] | str
        if _base_tree(left) == _base_tree(right):
            files = (_parts(self.client.diff(one)), _parts(self.client.diff(other)))
        else:
            files = "the files cannot be compared: the tasks began with different versions"
        return compare((left, left_events), (right, right_events), files)

    async def patch(self, task_id: TaskId) -> bytes:
        return self.client.diff(task_id)

    async def branch_bundle(self, task_id: TaskId) -> bytes:
        return self.client.branch(task_id)

    async def verify(self, task_id: TaskId) -> VerifyReport:
        from agent_runtime.certificate import VerifyReport

        found = self.client.verify(task_id)
        return VerifyReport(ok=found.ok, task_id=found.task_id, seq=found.seq, fault=found.fault)

    async def check_again(self, task_id: TaskId) -> VerifyReport:
        raise UsageError(
            f"--rerun needs the files of the daemon at {self.place.url}: run it on that machine, "
            "as `agent-runtime --local verify TASK --rerun`"
        )

    async def artifacts(self, task_id: TaskId) -> e.WorkKept | None:
        return (await self.state(task_id)).kept

    async def take_artifacts(self, task_id: TaskId, directory: str) -> list[str]:
        kept = await self.artifacts(task_id)
        if kept is None or not kept.artifacts:
            raise NotFound(
                f"task {task_id!r} has kept no artifacts; `artifacts` in its task file names them"
            )
        targets = {a.path: _target(directory, a.path) for a in kept.artifacts}
        missing = [a.path for a in kept.artifacts if not _is_there(targets[a.path], a.sha256)]
        for path in missing:
            content = self.client.artifact(task_id, path)
            try:
                os.makedirs(os.path.dirname(targets[path]), exist_ok=True)
                with open(targets[path], "xb") as file:
                    file.write(content)
            except OSError as error:
                raise UsageError(
                    f"{targets[path]!r} cannot be written: {error.strerror}"
                ) from error
        return list(targets)


def _summary(task: TaskView) -> TaskSummary:
    """The daemon keeps the head's hash to itself; `verify` asks it to compare."""
    return TaskSummary(
        task_id=task.id, status=task.status, phase=task.phase, reason=task.reason, goal=task.goal,
        seq=task.seq, head_hash="", created_at_us=_us(task.created_at),
        updated_at_us=_us(task.updated_at), labels=task.labels, priority=task.priority,
        repo=task.repo,
    )  # fmt: skip


def _us(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1e6)


def _base_tree(state: State) -> str:
    return state.workspace.base_tree if state.workspace is not None else ""


_FILE = re.compile(rb"^(?=diff --git )", re.MULTILINE)


def _parts(patch: bytes) -> Mapping[str, str]:
    """Path -> SHA-256 of its part of a patch: on one base, equal parts make equal files."""
    from agent_runtime.patches import file_changes

    parts: dict[str, str] = {}
    for part in filter(None, _FILE.split(patch)):
        for change in file_changes(part)[:1]:
            is_gone = change.kind == "deleted"
            parts[change.path] = "removed" if is_gone else hashlib.sha256(part).hexdigest()
    return parts


def _target(directory: str, path: str) -> str:
    if os.path.isabs(path) or ".." in path.split("/") or "\0" in path:
        raise WorkspaceError(f"the artifact {path!r} does not lie in a workspace; nothing written")
    target = os.path.join(os.path.abspath(directory), path)
    inside = os.path.join(os.path.realpath(directory), os.path.dirname(path))
    if os.path.realpath(os.path.dirname(target)) != os.path.normpath(inside):
        raise Conflict(f"a link is in the way of {target!r}; nothing was written")
    return target


def _is_there(target: str, sha256: str) -> bool:
    if not os.path.lexists(target):
        return False
    if os.path.isfile(target) and not os.path.islink(target):
        with open(target, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
    raise Conflict(f"another file is in the way: {target!r}; nothing was written")
