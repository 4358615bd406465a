"""`Client`: a daemon's tasks for plain code; how they are asked for is in `blocking_wire`.

Not for several threads at once: give each its own client.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

from agent_runtime.client import asks, places
from agent_runtime.client import views as v
from agent_runtime.client.asks import Task
from agent_runtime.client.blocking_wire import BlockingWire
from agent_runtime.client.following import Following, Output
from agent_runtime.client.patience import PATIENCE_SECONDS
from agent_runtime.client.wire import new_key
from agent_runtime.errors import DeadlineExceeded
from agent_runtime.types import AnswerSpec, ContinuationSpec, Json, Policy, ResultSpec


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    state_dir: str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Client:
    """A client of the daemon that is meant: `url`, else `AGENT_RUNTIME_URL`, else the one that
    serves this user's state directory. The token likewise: `token`, `AGENT_RUNTIME_TOKEN`, a file.

    Nothing is sent yet.

    Raises:
        Unreachable: no daemon is named, and none serves the state directory.
        UsageError: the address is none.
        ConfigError: the token's file may be read by others.
    """
    place = places.find_place(url, token=token, state_dir=state_dir)
    return Client(place, patience_seconds=patience_seconds)


class Client(BlockingWire):
    """Every operation of a daemon. What it refuses is raised as the runtime's own error.

    All methods raise:
        Unreachable: it did not answer within `patience_seconds`.
        Unauthenticated, Forbidden: the token is not in force, or does not allow this.
        StoreUnavailable, TooManyRequests: it takes nothing just now, for all that time.
    """

    # ---- tasks ---------------------------------------------------------------------------

    def submit(
        self, task: Task, *, idempotency_key: str | None = None, wait_seconds: int | None = None
    ) -> v.TaskView:
        """Hand off a task; it is stored when this returns, once, however often it had to be sent.

        `wait_seconds` (at most 60): come back when it has ended or waits, at the latest then.

        Raises:
            UsageError: everything that is wrong with it, in `faults`; nothing was stored.
            IdempotencyMismatch: the key was used for another task.
        """
        key = idempotency_key or new_key()
        return self.send(asks.submit(task, key=key, wait_seconds=wait_seconds))

    def submit_all(
        self, tasks: Iterable[Task], *, idempotency_key: str | None = None
    ) -> list[v.BatchItem]:
        """Hand off many in one write; what one is refused for keeps no other from being stored."""
        return self.send(asks.submit_all(tasks, key=idempotency_key or new_key()))

    def get(self, task_id: str) -> v.TaskView:
        """Where a task stands. `NotFound` if there is none."""
        return self.send(asks.get(task_id))

    def page(
        self, *, statuses: Iterable[str] = (), labels: Mapping[str, str] = {},
        cursor: str | None = None, limit: int = 100,
    ) -> v.TaskPage:  # fmt: skip
        """Tasks, the newest first; `next_cursor` is the `cursor` of the next page."""
        return self.send(asks.page(statuses=statuses, labels=labels, cursor=cursor, limit=limit))

    def tasks(
        self, *, statuses: Iterable[str] = (), labels: Mapping[str, str] = {}, page_size: int = 100
    ) -> Iterator[v.TaskView]:
        """All tasks that fit, the newest first; pages are fetched as they are needed."""
        wanted, cursor = tuple(statuses), None
        while True:
            page = self.page(statuses=wanted, labels=labels, cursor=cursor, limit=page_size)
            yield from page.tasks
            cursor = page.next_cursor
            if cursor is None:
                return

    def change(
        self, task_id: str, *, labels: Mapping[str, str] | None = None,
        priority: int | None = None, seq: int | None = None,
    ) -> v.TaskView:  # fmt: skip
        """Give a task other labels (all of them) or another priority. `Conflict` if it has ended.

        `seq`, here and below: only if this is still the number of its newest event (`Conflict`).
        """
        return self.send(asks.change(task_id, labels=labels, priority=priority, seq=seq))

    def forget(self, task_id: str, *, seq: int | None = None) -> None:
        """Remove an ended task and everything of it. `Conflict` if it has not ended."""
        self.send(asks.forget(task_id, seq=seq))

    # ---- events --------------------------------------------------------------------------

    def log(self, task_id: str) -> list[v.Event]:
        """Every event of a task."""
        return self.send(asks.log(task_id))

    def event_page(
        self, task_id: str, *, after: int = 0, types: Iterable[str] = (), limit: int = 100
    ) -> v.EventPage:
        """Some events of a task, without waiting for more."""
        return self.send(asks.events(task_id, after=after, types=types, limit=limit))

    def events(
        self, task_id: str, *, after: int = 0, types: Collection[str] = ()
    ) -> Iterator[v.Event]:
        """Stored events and new ones as they come, to the task's end: none twice, none left out.

        Connections that are cut and daemons that are started anew are not noticed.

        Raises:
            NotFound: no such task.
            Unreachable: no daemon for `stream_seconds`.
        """
        for said in self._follow(Following(task_id, after=after, types=types)):
            if isinstance(said, v.Event):
                yield said

    def watch(self, task_id: str, *, after: int = 0) -> Iterator[v.Event | Output]:
        """As `events`, and between them what a model says, as it comes."""
        for said in self._follow(Following(task_id, after=after, output=True)):
            if isinstance(said, v.Event | Output):
                yield said

    def all_events(
        self, *, after: int | None = None, types: Collection[str] = ()
    ) -> Iterator[v.Event]:
        """Events of all tasks as they are stored, without end; `position` is the next `after`.

        Without `after`, from now on.
        """
        for said in self._follow(Following(None, after=after, types=types)):
            if isinstance(said, v.Event):
                yield said

    def wait(
        self, task_id: str, *, seconds: float | None = None, settled: bool = False
    ) -> v.TaskView:
        """The task when it has ended; with `settled`, also when it waits or is paused.

        Raises:
            DeadlineExceeded: it has not within `seconds`; it goes on.
        """
        enough = v.SETTLED if settled else v.ENDED
        deadline = None if seconds is None else time.monotonic() + seconds
        task = self.get(task_id)
        if task.status in enough:
            return task
        following = Following(task_id, after=task.seq)
        for news in self._news(following, deadline):
            if news is None:
                break
            task = self.get(task_id)
            if task.status in enough:
                return task
        task = self.get(task_id)
        if task.status in enough:
            return task
        raise DeadlineExceeded(
            f"task {task_id!r} is {task.status} after {seconds} s; it goes on, wait for longer"
        )

    # ---- control -------------------------------------------------------------------------

    def steer(
        self, task_id: str, message: str, *, seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> v.TaskView:  # fmt: skip
        """Tell a task's brain something; its next turn hears it. `Conflict` if it has ended."""
        return self.send(asks.steer(task_id, message, key=idempotency_key or new_key(), seq=seq))

    def cancel(self, task_id: str, reason: str = "", *, seq: int | None = None) -> v.TaskView:
        """End a task for good. `Conflict` if it has ended."""
        return self.send(asks.cancel(task_id, reason, seq=seq))

    def pause(self, task_id: str, *, seq: int | None = None) -> v.TaskView:
        """Let a task stop where it stands."""
        return self.send(asks.pause(task_id, seq=seq))

    def resume(self, task_id: str, model: str = "", *, seq: int | None = None) -> v.TaskView:
        """Let a paused task go on, or give one that waits for a brain a model."""
        return self.send(asks.resume(task_id, model, seq=seq))

    def continue_task(
        self, task_id: str, wish: ContinuationSpec | Mapping[str, Json], *, seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> v.TaskView:  # fmt: skip
        """Open an ended task again, with more to do (docs/task-file.md, continuing)."""
        return self.send(
            asks.continue_task(task_id, wish, key=idempotency_key or new_key(), seq=seq)
        )

    def fork(
        self, task_id: str, *, at: int, answer: AnswerSpec | None = None,
        result: ResultSpec | None = None, model: str | None = None, policy: Policy | None = None,
        message: str = "", idempotency_key: str | None = None,
    ) -> v.TaskView:  # fmt: skip
        """Another task that begins with the first `at` events of this one."""
        return self.send(
            asks.fork(
                task_id, at=at, answer=answer, result=result, model=model, policy=policy,
                message=message, key=idempotency_key or new_key(),
            )
        )  # fmt: skip

    def replay(self, task_id: str) -> v.ReplayView:
        """Are a task's decisions made again from its recorded inputs?"""
        return self.send(asks.replay(task_id))

    def approvals(self) -> list[v.ApprovalView]:
        """Everything that waits for a person's decision."""
        return self.send(asks.approvals())

    def decide(
        self,
        approval: str,
        decision: Literal["approve", "deny"],
        message: str = "",
        *,
        scope: Literal["once", "task"] = "once",
        arguments: Mapping[str, Json] | None = None,
    ) -> v.Decided:
        """Answer what a task asks; `approval` is the `id` of the list.

        `scope` task: what the same rule asks about the same tool is allowed from then on.
        `arguments` stand in the place of the call's own.
        """
        ask = asks.decide(approval, decision, message, scope=scope, arguments=arguments)
        return self.send(ask)

    def approve(
        self,
        approval: str,
        message: str = "",
        *,
        scope: Literal["once", "task"] = "once",
        arguments: Mapping[str, Json] | None = None,
    ) -> v.Decided:
        """Allow what a task asks for; as `decide`."""
        return self.decide(approval, "approve", message, scope=scope, arguments=arguments)

    def deny(self, approval: str, message: str = "") -> v.Decided:
        """Refuse what is asked."""
        return self.decide(approval, "deny", message)

    def inbox(self, *, cursor: str | None = None, limit: int = 100) -> v.InboxPage:
        """Everything that waits for a person, and what to do about each; about `limit` things."""
        return self.send(asks.inbox(cursor=cursor, limit=limit))

    # ---- results -------------------------------------------------------------------------

    def plan(self, task_id: str) -> v.PlanView:
        """The steps, and where each stands."""
        return self.send(asks.plan(task_id))

    def diff(self, task_id: str) -> bytes:
        """The patch, as `git apply` takes it."""
        return self.send(asks.diff(task_id))

    def artifacts(self, task_id: str) -> v.ArtifactList:
        """Files that were kept beside the patch."""
        return self.send(asks.artifacts(task_id))

    def artifact(self, task_id: str, path: str) -> bytes:
        """One of them."""
        return self.send(asks.artifact(task_id, path))

    def cost(self, task_id: str) -> v.CostView:
        """What was spent, of which limits."""
        return self.send(asks.cost(task_id))

    def certificate(self, task_id: str) -> dict[str, Json]:
        """The evidence. `Conflict` if nothing was verified."""
        return self.send(asks.certificate(task_id))

    def report(self, task_id: str, form: Literal["markdown", "html"] = "markdown") -> str:
        """One page for whoever reviews it."""
        return self.send(asks.report(task_id, form))

    def verify(self, task_id: str) -> v.VerifyView:
        """Are log and claims what was written?"""
        return self.send(asks.verify(task_id))

    # ---- code in, a branch out -----------------------------------------------------------

    def upload(self, bundle: str) -> v.WorkspaceView:
        """Send a repository as a git bundle's file; its `repo` is what a task's may be.

        Raises:
            UsageError: it is none, or is too large.
        """
        return self.send(asks.upload(bundle))

    def branch(self, task_id: str) -> bytes:
        """The branch of an ended task as a git bundle."""
        return self.send(asks.branch(task_id))

    def publish(self, task_id: str, *, seq: int | None = None, **wish: str) -> v.TaskView:
        """Push a proven branch and open its pull request: `push`, `branch`, `pr`, `base`, `title`,
        each as the task's file says if it is not given (docs/publishing.md)."""
        return self.send(asks.publish(task_id, seq=seq, **wish))

    # ---- who may ask ---------------------------------------------------------------------

    def create_key(self, name: str, **wish: Json) -> v.NewKeyView:
        """Make an API key: `role`, `scopes`, `expires_seconds`, `rate`… (docs/access.md).

        Its secret is told once.
        """
        return self.send(asks.create_key(name, **wish))

    def keys(self, *, cursor: str | None = None, limit: int = 100) -> v.KeyPage:
        """Keys, revoked ones too."""
        return self.send(asks.keys(cursor=cursor, limit=limit))

    def key(self, key_id: str) -> v.KeyView:
        """One of them."""
        return self.send(asks.key(key_id))

    def revoke_key(self, key_id: str) -> None:
        """Take a key back for good."""
        self.send(asks.revoke_key(key_id))

    def audit(
        self, *, by: str = "", action: str = "", cursor: str | None = None, limit: int = 100
    ) -> v.AuditPage:
        """Who decided what, the newest first."""
        return self.send(asks.audit(by=by, action=action, cursor=cursor, limit=limit))

    # ---- webhooks out, and in ------------------------------------------------------------

    def create_webhook(self, url: str, **wish: Json) -> v.NewWebhookView:
        """Have an address told of events: `types`, `labels`, `description` (docs/webhooks.md).

        The secret that deliveries are signed with is told once.
        """
        return self.send(asks.create_webhook(url, **wish))

    def webhooks(self) -> list[v.WebhookView]:
        """All of them, without their secrets."""
        return self.send(asks.webhooks())

    def webhook(self, webhook_id: str) -> v.WebhookView:
        """One of them."""
        return self.send(asks.webhook(webhook_id))

    def change_webhook(self, webhook_id: str, **change: Json) -> v.WebhookView:
        """Another `url`, `types`, `labels` or `description`; what is not given stays."""
        return self.send(asks.change_webhook(webhook_id, **change))

    def delete_webhook(self, webhook_id: str) -> None:
        """Forget a webhook, and what waits for it."""
        self.send(asks.delete_webhook(webhook_id))

    def enable_webhook(self, webhook_id: str) -> v.WebhookView:
        """Tell it again; what happened while it was disabled is not told."""
        return self.send(asks.enable_webhook(webhook_id))

    def disable_webhook(self, webhook_id: str) -> v.WebhookView:
        """Tell it nothing more; what waits for it waits."""
        return self.send(asks.disable_webhook(webhook_id))

    def rotate_webhook(self, webhook_id: str) -> v.NewWebhookView:
        """A new secret; for a day, deliveries are signed with the old one, too."""
        return self.send(asks.rotate_webhook(webhook_id))

    def ping_webhook(self, webhook_id: str) -> v.DeliveryView:
        """Send it a test message. `Conflict` if it is disabled."""
        return self.send(asks.ping_webhook(webhook_id))

    def deliveries(
        self, webhook_id: str, *, state: Literal["", "pending", "delivered", "failed"] = "",
        cursor: str | None = None, limit: int = 50,
    ) -> v.DeliveryPage:  # fmt: skip
        """What it was told, is to be told, and was not told; the newest first."""
        return self.send(asks.deliveries(webhook_id, state=state, cursor=cursor, limit=limit))

    def redeliver(self, webhook_id: str, delivery_id: str) -> v.DeliveryView:
        """Deliver a message again, or at once, with the same id."""
        return self.send(asks.redeliver(webhook_id, delivery_id))

    def create_hook(
        self, name: str, scheme: Literal["hmac", "github", "gitlab", "standard"],
        task: Mapping[str, Json], **wish: Json,
    ) -> v.NewHookView:  # fmt: skip
        """An address at which a signed request makes a task: `filters`, `secret`, `header`…
        (docs/webhooks.md). Its secret is told once."""
        return self.send(asks.create_hook(name, scheme, task, **wish))

    def hooks(self) -> list[v.HookView]:
        """All of them, without their secrets."""
        return self.send(asks.hooks())

    def hook(self, hook_id: str) -> v.HookView:
        """One of them."""
        return self.send(asks.hook(hook_id))

    def change_hook(self, hook_id: str, **change: Json) -> v.HookView:
        """Another `name`, `task`, `filters`, `enabled` or `description`; the rest stays."""
        return self.send(asks.change_hook(hook_id, **change))

    def rotate_hook(self, hook_id: str) -> v.NewHookView:
        """A new secret; for a day, what is signed with the old one is taken, too."""
        return self.send(asks.rotate_hook(hook_id))

    def delete_hook(self, hook_id: str) -> None:
        """Forget a hook; its tasks stay."""
        self.send(asks.delete_hook(hook_id))

    def try_hook(
        self, hook_id: str, payload: Json, headers: Mapping[str, str] = {}
    ) -> v.HookTried:  # fmt: skip
        """The task that a request would make; none is made."""
        return self.send(asks.try_hook(hook_id, payload, headers))

    def call_hook(self, hook_id: str, body: bytes, headers: Mapping[str, str]) -> v.HookTaken:
        """Send a hook what others send it; `headers` hold the signature of `body` (JSON).

        Raises:
            Unauthenticated: there is no such hook, or it is not signed with its secret.
        """
        return self.send(asks.call_hook(hook_id, body, headers))

    # ---- the installation ----------------------------------------------------------------

    def tools(self) -> list[v.ToolView]:
        """The tools that tasks can use."""
        return self.send(asks.tools())

    def modules(self) -> list[v.ModuleView]:
        """The installed modules."""
        return self.send(asks.modules())

    def models(self) -> v.ModelList:
        """Who thinks for tasks that name no model."""
        return self.send(asks.models())

    def livez(self) -> v.Health:
        """The process answers."""
        return self.send(asks.livez())

    def ready(self) -> bool:
        """Does it take work?"""
        return self._reply(asks.readyz(), refuse=False).status == 200

    def metrics(self) -> str:
        """Figures in Prometheus' format."""
        return self.send(asks.metrics())

    def openapi(self) -> dict[str, Json]:
        """What is served, as OpenAPI 3.1."""
        return self.send(asks.openapi())

    def request(self, method: str, path: str, document: object = None) -> Any:
        """Any other operation, such as `GET /v1/keys`; JSON comes decoded, the rest as bytes."""
        return self.send(asks.request(method, path, document))
