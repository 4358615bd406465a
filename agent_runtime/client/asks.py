"""Every operation as a value: what is sent, and how its answer is read. Pure.

Both clients send these; neither knows more of an operation than its name and arguments. The order
is that of the daemon's own routes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from agent_runtime.client import views as v
from agent_runtime.errors import UsageError
from agent_runtime.types import (
    AnswerSpec,
    ContinuationSpec,
    Json,
    Policy,
    ResultSpec,
    TaskSpec,
)

T = TypeVar("T")
ViewT = TypeVar("ViewT")

Task = TaskSpec | Mapping[str, Json]
"""A task file's content: what `taskfile` made of one, or the mapping itself."""

UPLOAD_SECONDS: Final = 600.0
"""For a repository to be sent and looked at."""
WAIT_SECONDS_MAX: Final = 60
"""That a daemon holds an answer back for (`Prefer: wait`)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """One request."""

    method: str
    path: str
    """With its query."""
    read: Callable[[Reply], T]
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    """The body is this file's content."""
    again: bool = False
    """May it be sent twice? The second time must change nothing."""
    wait_seconds: float = 0
    """That the daemon is asked to wait before it answers."""


def _get(
    place: str, read: Callable[[Reply], T], **query: str | int | Sequence[str] | None
) -> Ask[T]:
    given = {name: value for name, value in query.items() if value not in (None, "", ())}
    text = urlencode(given, doseq=True)
    return Ask("GET", place + (f"?{text}" if text else ""), read, again=True)


def _post(
    path: str, read: Callable[[Reply], T], document: object, *, again: bool = False,
    seq: int | None, key: str | None = None,
) -> Ask[T]:  # fmt: skip
    """`key`: an idempotency key, with which it may be sent again."""
    headers = {} if seq is None else {"If-Match": f'"{seq}"'}
    if key is not None:
        headers["Idempotency-Key"] = key
    body = msgspec.json.encode(document)
    return Ask("POST", path, read, body, headers, again=again or key is not None)


def _as(kind: type[ViewT]) -> Callable[[Reply], ViewT]:
    decode = msgspec.json.Decoder(kind).decode
    return lambda reply: decode(reply.body)


def _nothing(reply: Reply) -> None:
    return None


def _bytes(reply: Reply) -> bytes:
    return reply.body


def _text(reply: Reply) -> str:
    return reply.body.decode("utf-8", "replace")


def _object(reply: Reply) -> dict[str, Json]:
    found: dict[str, Json] = msgspec.json.decode(reply.body, type=dict[str, Any])
    return found


def _patch(path: str, read: Callable[[Reply], T], document: object) -> Ask[T]:
    """What is named becomes what is said: twice is as good as once."""
    return Ask("PATCH", path, read, msgspec.json.encode(document), again=True)


def _named(name: str, value: str) -> str:
    if not value:
        raise UsageError(f"{name} must be an id, got an empty one")
    return quote(value, safe="")


def _at(kind: Literal["webhooks", "hooks"], *parts: str) -> str:
    """An empty id would ask for the list, or for something else."""
    return "/".join((f"/v1/{kind}", *(_named(f"an id of {kind}", part) for part in parts)))


def _of(task_id: str, name: str = "") -> str:
    if not task_id:
        raise UsageError("task_id must be the id of a task, got an empty one")
    return f"/v1/tasks/{quote(task_id, safe='')}" + (f"/{name}" if name else "")


def _without_defaults(value: Any) -> Any:
    """A Struct as the mapping that somebody would write: what is as usual is left out.

    A daemon of another version then uses its own defaults, and knows every key.
    """
    if isinstance(value, msgspec.Struct):
        defaults = {
            each.name: each.default
            if each.default_factory is msgspec.NODEFAULT
            else each.default_factory()
            for each in msgspec.structs.fields(value)
        }
        return {
            name: _without_defaults(item)
            for name, default in defaults.items()
            if (item := getattr(value, name)) != default or default is msgspec.NODEFAULT
        }
    if isinstance(value, Mapping):
        return {key: _without_defaults(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(item) for item in value]
    return value


# ---- tasks -------------------------------------------------------------------------------


def submit(task: Task, *, key: str, wait_seconds: int | None = None) -> Ask[v.TaskView]:
    """`key` makes it safe to send again: a task that is there already is answered."""
    headers = {"Idempotency-Key": key}
    if wait_seconds is not None:
        headers["Prefer"] = f"wait={min(wait_seconds, WAIT_SECONDS_MAX)}"
    body = msgspec.json.encode(_without_defaults(task))
    return Ask(
        "POST", "/v1/tasks", _as(v.TaskView), body, headers, again=True,
        wait_seconds=min(wait_seconds or 0, WAIT_SECONDS_MAX),
    )  # fmt: skip


def submit_all(tasks: Iterable[Task], *, key: str) -> Ask[list[v.BatchItem]]:
    """As `submit`, in one durable write."""
    decode = msgspec.json.Decoder(v.BatchAnswer).decode
    body = msgspec.json.encode({"tasks": [_without_defaults(task) for task in tasks]})
    return Ask(
        "POST", "/v1/tasks:batch", lambda reply: decode(reply.body).items, body,
        {"Idempotency-Key": key}, again=True,
    )  # fmt: skip


def page(
    *,
    statuses: Iterable[str] = (),
    labels: Mapping[str, str] = {},
    cursor: str | None = None,
    limit: int = 100,
) -> Ask[v.TaskPage]:
    """Of tasks, the newest first."""
    pairs = [f"{key}={value}" for key, value in labels.items()]
    return _get(
        "/v1/tasks", _as(v.TaskPage), status=list(statuses) or None, label=pairs or None,
        cursor=cursor, limit=limit,
    )  # fmt: skip


def get(task_id: str) -> Ask[v.TaskView]:
    return _get(_of(task_id), _as(v.TaskView))


def change(
    task_id: str, *, labels: Mapping[str, str] | None, priority: int | None, seq: int | None = None
) -> Ask[v.TaskView]:
    named = {"labels": labels, "priority": priority}
    wish = {key: value for key, value in named.items() if value is not None}
    headers = {} if seq is None else {"If-Match": f'"{seq}"'}
    body = msgspec.json.encode(wish)
    return Ask("PATCH", _of(task_id), _as(v.TaskView), body, headers, again=seq is None)


def forget(task_id: str, *, seq: int | None = None) -> Ask[None]:
    headers = {} if seq is None else {"If-Match": f'"{seq}"'}
    return Ask("DELETE", _of(task_id), _nothing, None, headers)


def events(
    task_id: str, *, after: int = 0, types: Iterable[str] = (), limit: int = 100
) -> Ask[v.EventPage]:
    return _get(
        _of(task_id, "events"), _as(v.EventPage), after=after, types=",".join(types), limit=limit
    )


def all_events(*, after: int = 0, types: Iterable[str] = (), limit: int = 100) -> Ask[v.EventPage]:
    return _get("/v1/events", _as(v.EventPage), after=after, types=",".join(types), limit=limit)


def log(task_id: str) -> Ask[list[v.Event]]:
    """Every event, to be folded or checked here."""
    decode = msgspec.json.Decoder(v.Event).decode
    return _get(
        _of(task_id, "logs"), lambda reply: [decode(line) for line in reply.body.splitlines()]
    )


# ---- control -----------------------------------------------------------------------------


def steer(task_id: str, message: str, *, key: str, seq: int | None = None) -> Ask[v.TaskView]:
    return _post(_of(task_id, "steer"), _as(v.TaskView), {"message": message}, key=key, seq=seq)


def cancel(task_id: str, reason: str = "", *, seq: int | None = None) -> Ask[v.TaskView]:
    return _post(_of(task_id, "cancel"), _as(v.TaskView), {"reason": reason}, seq=seq)


def pause(task_id: str, *, seq: int | None = None) -> Ask[v.TaskView]:
    return _post(_of(task_id, "pause"), _as(v.TaskView), {}, again=seq is None, seq=seq)


def resume(task_id: str, model: str = "", *, seq: int | None = None) -> Ask[v.TaskView]:
    return _post(
        _of(task_id, "resume"), _as(v.TaskView), {"model": model}, again=seq is None and not model,
        seq=seq,
    )  # fmt: skip


def continue_task(
    task_id: str, wish: ContinuationSpec | Mapping[str, Json], *, key: str, seq: int | None = None
) -> Ask[v.TaskView]:
    body = _without_defaults(wish)
    return _post(_of(task_id, "continue"), _as(v.TaskView), body, key=key, seq=seq)


def fork(
    task_id: str,
    *,
    at: int,
    key: str,
    answer: AnswerSpec | None = None,
    result: ResultSpec | None = None,
    model: str | None = None,
    policy: Policy | None = None,
    message: str = "",
) -> Ask[v.TaskView]:
    parts = {"answer": answer, "result": result, "model": model, "message": message or None}
    replace = {key: _without_defaults(part) for key, part in parts.items() if part is not None}
    if policy is not None:
        replace["policy"] = msgspec.to_builtins(policy)
    return _post(
        _of(task_id, "fork"), _as(v.TaskView), {"at": at, "replace": replace}, key=key, seq=None
    )


def replay(task_id: str) -> Ask[v.ReplayView]:
    return _post(_of(task_id, "replay"), _as(v.ReplayView), {}, again=True, seq=None)


def approvals() -> Ask[list[v.ApprovalView]]:
    decode = msgspec.json.Decoder(v.Approvals).decode
    return _get("/v1/approvals", lambda reply: decode(reply.body).approvals)


def decide(
    approval: str,
    decision: Literal["approve", "deny"],
    message: str = "",
    *,
    scope: Literal["once", "task"] = "once",
    arguments: Mapping[str, Json] | None = None,
) -> Ask[v.Decided]:
    """`approval` is an `ApprovalView.id`."""
    path = f"/v1/approvals/{quote(approval, safe='')}/decide"
    body = {"decision": decision, "message": message, "scope": scope, "arguments": arguments}
    return _post(path, _as(v.Decided), body, seq=None)


def inbox(*, cursor: str | None = None, limit: int = 100) -> Ask[v.InboxPage]:
    return _get("/v1/inbox", _as(v.InboxPage), cursor=cursor, limit=limit)


# ---- results -----------------------------------------------------------------------------


def plan(task_id: str) -> Ask[v.PlanView]:
    return _get(_of(task_id, "plan"), _as(v.PlanView))


def diff(task_id: str) -> Ask[bytes]:
    return _get(_of(task_id, "diff"), _bytes)


def artifacts(task_id: str) -> Ask[v.ArtifactList]:
    return _get(_of(task_id, "artifacts"), _as(v.ArtifactList))


def artifact(task_id: str, path: str) -> Ask[bytes]:
    return _get(_of(task_id, "artifacts"), _bytes, path=path)


def cost(task_id: str) -> Ask[v.CostView]:
    return _get(_of(task_id, "cost"), _as(v.CostView))


def certificate(task_id: str) -> Ask[dict[str, Json]]:
    return _get(_of(task_id, "certificate"), _object)


def report(task_id: str, form: Literal["markdown", "html"] = "markdown") -> Ask[str]:
    return _get(_of(task_id, "report"), _text, format=form)


def verify(task_id: str) -> Ask[v.VerifyView]:
    return _get(_of(task_id, "verify"), _as(v.VerifyView))


# ---- code in, a branch out ---------------------------------------------------------------------


def upload(bundle: str) -> Ask[v.WorkspaceView]:
    """`bundle` is a git bundle's file. The same one is kept once, so it may be sent twice."""
    return Ask(
        "POST", "/v1/workspaces", _as(v.WorkspaceView), file=bundle,
        headers={"Content-Type": "application/octet-stream"}, again=True,
        wait_seconds=UPLOAD_SECONDS,
    )  # fmt: skip


def branch(task_id: str) -> Ask[bytes]:
    return _get(_of(task_id, "branch"), _bytes)


def publish(task_id: str, *, seq: int | None = None, **wish: str) -> Ask[v.TaskView]:
    return _post(_of(task_id, "publish"), _as(v.TaskView), wish, seq=seq)


# ---- who may ask ---------------------------------------------------------------------------


def create_key(name: str, **wish: Json) -> Ask[v.NewKeyView]:
    return _post("/v1/keys", _as(v.NewKeyView), {"name": name, **wish}, seq=None)


def keys(*, cursor: str | None = None, limit: int = 100) -> Ask[v.KeyPage]:
    return _get("/v1/keys", _as(v.KeyPage), cursor=cursor, limit=limit)


def key(key_id: str) -> Ask[v.KeyView]:
    return _get(f"/v1/keys/{quote(key_id, safe='')}", _as(v.KeyView))


def revoke_key(key_id: str) -> Ask[None]:
    return Ask("DELETE", f"/v1/keys/{quote(key_id, safe='')}", _nothing, None)


def audit(
    *, by: str = "", action: str = "", cursor: str | None = None, limit: int = 100
) -> Ask[v.AuditPage]:
    return _get("/v1/audit", _as(v.AuditPage), by=by, action=action, cursor=cursor, limit=limit)


# ---- webhooks out, and in ------------------------------------------------------------------


def create_webhook(url: str, **wish: Json) -> Ask[v.NewWebhookView]:
    return _post("/v1/webhooks", _as(v.NewWebhookView), {"url": url, **wish}, seq=None)


def webhooks() -> Ask[list[v.WebhookView]]:
    decode = msgspec.json.Decoder(v.WebhookList).decode
    return _get("/v1/webhooks", lambda reply: decode(reply.body).webhooks)


def webhook(webhook_id: str) -> Ask[v.WebhookView]:
    return _get(_at("webhooks", webhook_id), _as(v.WebhookView))


def change_webhook(webhook_id: str, **change: Json) -> Ask[v.WebhookView]:
    return _patch(_at("webhooks", webhook_id), _as(v.WebhookView), change)


def delete_webhook(webhook_id: str) -> Ask[None]:
    return Ask("DELETE", _at("webhooks", webhook_id), _nothing, None)


def enable_webhook(webhook_id: str) -> Ask[v.WebhookView]:
    path = _at("webhooks", webhook_id, "enable")
    return _post(path, _as(v.WebhookView), {}, again=True, seq=None)


def disable_webhook(webhook_id: str) -> Ask[v.WebhookView]:
    path = _at("webhooks", webhook_id, "disable")
    return _post(path, _as(v.WebhookView), {}, again=True, seq=None)


def rotate_webhook(webhook_id: str) -> Ask[v.NewWebhookView]:
    """Sent once: a second time would end the secret before the lost one."""
    return _post(_at("webhooks", webhook_id, "rotate"), _as(v.NewWebhookView), {}, seq=None)


def ping_webhook(webhook_id: str) -> Ask[v.DeliveryView]:
    return _post(_at("webhooks", webhook_id, "ping"), _as(v.DeliveryView), {}, seq=None)


def deliveries(
    webhook_id: str, *, state: str = "", cursor: str | None = None, limit: int = 50
) -> Ask[v.DeliveryPage]:
    path = _at("webhooks", webhook_id, "deliveries")
    return _get(path, _as(v.DeliveryPage), state=state, cursor=cursor, limit=limit)


def redeliver(webhook_id: str, delivery_id: str) -> Ask[v.DeliveryView]:
    path = _at("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
    return _post(path, _as(v.DeliveryView), {}, seq=None)


def create_hook(
    name: str, scheme: str, task: Mapping[str, Json], **wish: Json
) -> Ask[v.NewHookView]:
    body = {"name": name, "scheme": scheme, "task": task, **wish}
    return _post("/v1/hooks", _as(v.NewHookView), body, seq=None)


def hooks() -> Ask[list[v.HookView]]:
    decode = msgspec.json.Decoder(v.HookList).decode
    return _get("/v1/hooks", lambda reply: decode(reply.body).hooks)


def hook(hook_id: str) -> Ask[v.HookView]:
    return _get(_at("hooks", hook_id), _as(v.HookView))


def change_hook(hook_id: str, **change: Json) -> Ask[v.HookView]:
    return _patch(_at("hooks", hook_id), _as(v.HookView), change)


def rotate_hook(hook_id: str) -> Ask[v.NewHookView]:
    """Sent once: a second time would end the secret before the lost one."""
    return _post(_at("hooks", hook_id, "rotate"), _as(v.NewHookView), {}, seq=None)


def delete_hook(hook_id: str) -> Ask[None]:
    return Ask("DELETE", _at("hooks", hook_id), _nothing, None)


def try_hook(hook_id: str, payload: Json, headers: Mapping[str, str] = {}) -> Ask[v.HookTried]:
    body = {"payload": payload, "headers": headers}
    return _post(_at("hooks", hook_id, "try"), _as(v.HookTried), body, again=True, seq=None)


def call_hook(hook_id: str, body: bytes, headers: Mapping[str, str]) -> Ask[v.HookTaken]:
    """The same delivery makes one task, so it may be sent twice."""
    path = f"/hooks/{_named('hook_id', hook_id)}"
    return Ask("POST", path, _as(v.HookTaken), body, headers, again=True)


# ---- the installation --------------------------------------------------------------------


def tools() -> Ask[list[v.ToolView]]:
    decode = msgspec.json.Decoder(v.ToolList).decode
    return _get("/v1/tools", lambda reply: decode(reply.body).tools)


def modules() -> Ask[list[v.ModuleView]]:
    decode = msgspec.json.Decoder(v.ModuleList).decode
    return _get("/v1/modules", lambda reply: decode(reply.body).modules)


def models() -> Ask[v.ModelList]:
    return _get("/v1/models", _as(v.ModelList))


def livez() -> Ask[v.Health]:
    return _get("/livez", _as(v.Health))


def readyz() -> Ask[None]:
    """The status says it."""
    return _get("/readyz", _nothing)


def metrics() -> Ask[str]:
    return _get("/metrics", _text)


def openapi() -> Ask[dict[str, Json]]:
    return _get("/openapi.json", _object)


def request(
    method: str, path: str, document: object = None, *, again: bool | None = None
) -> Ask[Any]:
    """Any other operation; what it answers is decoded if it is JSON, else it comes as bytes."""

    def read(reply: Reply) -> Any:
        is_json = "json" in reply.headers.get("content-type", "")
        return msgspec.json.decode(reply.body) if is_json and reply.body else reply.body

    body = None if document is None else msgspec.json.encode(document)
    return Ask(
        method, path, read, body, again=method in ("GET", "HEAD") if again is None else again
    )
