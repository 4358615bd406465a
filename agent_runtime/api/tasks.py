"""Tasks over HTTP: submit one or many, list, look, and forget."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from agent_runtime.api.answers import Answer, Headers, Reply, json_answer
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.intake import owned_key, read_task, settled, take_in
from agent_runtime.api.operations import Refused, Request, operation
from agent_runtime.api.problems import Problem, problem, problem_of
from agent_runtime.api.recording import note_submission
from agent_runtime.api.views import StatusName, TaskPage, TaskView, etag, view_of
from agent_runtime.errors import Fault, Forbidden, MovedOn, UsageError
from agent_runtime.loop.submission import Submitted
from agent_runtime.taskfile import parse_change, read_json
from agent_runtime.tasks.conditions import Only
from agent_runtime.types import ChangeSpec, Once, TaskId, TaskSpec

BATCH_TASKS_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 16 << 20
WAIT_SECONDS_MAX: Final = 60
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])")

_SUBMIT_HEADERS = {
    "Idempotency-Key": "a repetition with the same key and body stores nothing and gets the same "
    "task; with another body it is refused (422)",
    "Prefer": f"wait=N: answer when the task has ended or waits, at most N seconds "
    f"(<= {WAIT_SECONDS_MAX}) later",
}


class TaskBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks to be taken in together."""

    tasks: Annotated[list[TaskSpec], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]


class _RawBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tasks: Annotated[list[msgspec.Raw], Meta(min_length=1, max_length=BATCH_TASKS_MAX)]


class BatchItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one task of a batch: 201 or 200 and the task, or a status and a problem."""

    status: int
    task: TaskView | None = None
    problem: Problem | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """One item for each task, in their order."""

    items: list[BatchItem]


@operation(
    "POST", "/v1/tasks", answers={201: TaskView}, scope="tasks:write", errors=(403, 409, 503),
    body=TaskSpec, raw=True, headers=_SUBMIT_HEADERS, recorded=True,
)  # fmt: skip
async def submit_task(request: Request[bytes, None]) -> Reply:
    """Hand off a task.

    The body is a task file as JSON. 201 means that it is stored and will be driven to its end,
    whatever happens to this process. Paths of repositories must lie below the daemon's
    `workspace_roots`.
    """
    daemon, caller = request.daemon, request.caller
    taken = await take_in(daemon, caller, request.body, _idempotency_key(request))
    if taken.is_new:
        note_submission(daemon, request.scope, taken.task_id)
    return await _created(daemon, taken, _wait_seconds(request))


async def _created(daemon: Daemon, taken: Submitted, wait_seconds: int | None) -> Reply:
    summary = taken.summary
    more: Headers = () if taken.is_new else ((b"idempotency-replayed", b"true"),)
    if wait_seconds is not None:
        summary = await settled(daemon, summary, wait_seconds)
        more += ((b"preference-applied", b"wait=%d" % wait_seconds),)
    location = b"/v1/tasks/" + summary.task_id.encode()
    headers = ((b"location", location), (b"etag", etag(summary.seq)), *more)
    return json_answer(view_of(summary), 201, headers)


@operation(
    "POST", "/v1/tasks:batch", answers={207: BatchAnswer}, scope="tasks:write", errors=(409, 503),
    body=TaskBatch, raw=True, body_bytes_max=BATCH_BYTES_MAX, headers=_SUBMIT_HEADERS,
    recorded=True,
)  # fmt: skip
async def submit_tasks(request: Request[bytes, None]) -> Reply:
    """Hand off many tasks in one durable write.

    What one of them is refused for stands in its place and keeps no other from being stored. With
    an Idempotency-Key, each task's key is that and its number in the batch.
    """
    daemon, caller = request.daemon, request.caller
    raws = _batch(request.body)
    with daemon.room(len(raws)) as room:
        key = _idempotency_key(request)
        items: list[BatchItem | None] = []
        wishes: list[tuple[TaskSpec, str | None]] = []
        for at, raw in enumerate(raws):
            try:
                wishes.append(
                    (read_task(bytes(raw), daemon, caller), None if key is None else f"{key}#{at}")
                )
                items.append(None)
            except (UsageError, Forbidden) as error:
                items.append(_refused(error))
        taken = iter(
            await daemon.runtime.take_in_all(wishes, submitted_by=caller.by, budget=caller.budget)
        )
        answered = [_item(next(taken)) if item is None else item for item in items]
        for item in answered:
            if item.status == 201 and item.task is not None:
                room.taken += 1
                note_submission(daemon, request.scope, item.task.id)
    return json_answer(BatchAnswer(answered), 207)


def _batch(body: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=_RawBatch).tasks
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the batch is not valid: {error}", faults=[Fault(("tasks",), str(error))]
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        read_json(body)  # says what is wrong
        raise


def _item(taken: Submitted | Exception) -> BatchItem:
    if isinstance(taken, Submitted):
        return BatchItem(status=201 if taken.is_new else 200, task=view_of(taken.summary))
    return _refused(taken)


def _refused(error: Any) -> BatchItem:
    answer = problem_of(error)
    told = msgspec.json.decode(answer.body, type=Problem)
    return BatchItem(status=answer.status, problem=told)


class TasksQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks. All filters must fit; several statuses mean any of them."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[str, Meta(pattern="^(task_[0-9a-f]{32})?$")] = ""
    """`next_cursor` of the page before."""
    status: list[StatusName] = []
    label: list[Annotated[str, Meta(pattern="^[^=]+=", max_length=130)]] = []
    """KEY=VALUE; may be given several times."""
    submitted_by: Annotated[str, Meta(max_length=300)] = ""
    """As events name who submitted a task: `key:ci`."""


@operation(
    "GET", "/v1/tasks", answers={200: TaskPage}, scope="tasks:read", query=TasksQuery
)  # fmt: skip
async def list_tasks(request: Request[None, TasksQuery]) -> Reply:
    """List tasks, the newest first.

    Pages neither skip nor repeat a task that was there when the first page was read, however many
    are submitted meanwhile.
    """
    query = request.query
    labels = dict(text.split("=", 1) for text in query.label)
    before = TaskId(query.cursor) if query.cursor else None
    # One more tells whether there is another page.
    found = await request.daemon.runtime.tasks(
        statuses=query.status,
        labels=labels,
        submitted_by=query.submitted_by or None,
        before=before,
        limit=query.limit + 1,
    )
    page = found[: query.limit]
    more = len(found) > len(page)
    return json_answer(TaskPage([view_of(s) for s in page], page[-1].task_id if more else None))


@operation(
    "GET", "/v1/tasks/{task_id}", answers={200: TaskView, 304: None}, scope="tasks:read",
    errors=(404,), headers={"If-None-Match": "answer 304 if the task is still at this ETag"},
)  # fmt: skip
async def get_task(request: Request[None, None]) -> Reply:
    """Look where a task stands."""
    summary = await request.daemon.runtime.ports.store.summary(TaskId(request.path["task_id"]))
    tag = etag(summary.seq)
    known = request.header(b"if-none-match")
    if known is not None and _names(known, tag.decode(), weakly=True):
        return Answer(304, headers=((b"etag", tag),))
    return json_answer(view_of(summary), headers=((b"etag", tag),))


@operation(
    "PATCH", "/v1/tasks/{task_id}", answers={200: TaskView}, scope="tasks:write",
    errors=(404, 409, 412, 503), body=ChangeSpec, raw=True,
    headers={"If-Match": "only if the task is still at this ETag"},
)  # fmt: skip
async def change_task(request: Request[bytes, None]) -> Reply:
    """Give a task other labels, or another priority.

    What is left out or null stays; `labels` are all of them. A task that has ended is a conflict:
    its certificate says where its log ends.
    """
    wish = parse_change(read_json(request.body))
    task_id = TaskId(request.path["task_id"])
    runtime = request.daemon.runtime
    only = await require_match(request, task_id)
    await runtime.change(task_id, wish, by=request.caller.by, only=only)
    summary = await runtime.ports.store.summary(task_id)
    return json_answer(view_of(summary), headers=((b"etag", etag(summary.seq)),))


@operation(
    "DELETE", "/v1/tasks/{task_id}", answers={204: None}, scope="tasks:write",
    errors=(404, 409, 412), headers={"If-Match": "only if the task is still at this ETag"},
)  # fmt: skip
async def forget_task(request: Request[None, None]) -> Reply:
    """Remove an ended task with everything that is kept of it.

    One that has not ended is a conflict: cancel it first.
    """
    task_id = TaskId(request.path["task_id"])
    await require_match(request, task_id)
    await request.daemon.runtime.forget(task_id)
    return Answer(204)


async def require_match(request: Request[Any, Any], task_id: TaskId) -> Only:
    """Honour If-Match (RFC 9110, 13.1.1): look now, and give what looks once more while writing.

    Raises:
        MovedOn: the task is not where the caller saw it.
        NotFound: there is none.
    """
    only, wanted = matcher(request)
    if wanted is not None:
        only((await request.daemon.runtime.ports.store.summary(task_id)).seq)
    return only


def matcher(request: Request[Any, Any]) -> tuple[Only, str | None]:
    """What raises `MovedOn` while writing; and what is wanted, None: nothing special."""
    wanted = request.header(b"if-match")

    def only(seq: int) -> None:
        tag = etag(seq).decode()
        if wanted is not None and not _names(wanted, tag, weakly=False):
            raise MovedOn(
                f"the task is at {tag}, and If-Match wants {wanted!r}: look at it, decide again"
            )

    return only, wanted


_ENTITY_TAG = re.compile(r'(W/)?("[!#-~]*")')


def _names(header: str, tag: str, *, weakly: bool) -> bool:
    """Whether a list of entity tags has this one (RFC 9110, 8.8.3.2); what is no list has none."""
    if header.strip() == "*":
        return True
    return any(known == tag and (weakly or not weak) for weak, known in _ENTITY_TAG.findall(header))


# ---- what came ---------------------------------------------------------------------------


def _idempotency_key(request: Request[Any, Any]) -> str | None:
    """The key, apart from everybody else's keys."""
    given = request.header(b"idempotency-key")
    if given is None:
        return None
    try:
        return owned_key(request.caller, given)
    except UsageError as error:
        detail = f"the header Idempotency-Key: {error}"
        raise Refused(problem(422, "invalid-header", "A header is not valid", detail)) from None


def once_of(request: Request[Any, Any], wish: object) -> Once | None:
    """The key, and what is asked for with it: the operation, its task, and `wish`."""
    given = request.header(b"idempotency-key")
    if given is None or _idempotency_key(request) is None:
        return None
    asked = (request.scope["operation"], request.path["task_id"], wish)
    return Once(given, sha256(msgspec.json.encode(asked, order="sorted")).hexdigest())


def _wait_seconds(request: Request[Any, Any]) -> int | None:
    """Of `Prefer: wait=N` (RFC 7240); what is not understood is ignored, as that RFC asks."""
    given = request.header(b"prefer")
    found = None if given is None else _WAIT.search(given)
    return None if found is None else min(int(found[1]), WAIT_SECONDS_MAX)
