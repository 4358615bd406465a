"""`Client`: a daemon's tasks for plain code, on the standard library's HTTP, which starts fast.

One connection is kept between requests, and each stream has one of its own. Not for several threads
at once: give each its own client. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, TypeVar

from agent_runtime import __version__
from agent_runtime.client import asks, places
from agent_runtime.client import views as v
from agent_runtime.client.asks import Ask, Reply, Task
from agent_runtime.client.following import Broken, Following, Output
from agent_runtime.client.patience import (
    ANSWER_SECONDS,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    STREAM_SECONDS,
    Failure,
    Patience,
    is_busy,
)
from agent_runtime.client.places import Place
from agent_runtime.client.problems import error_of, problem_in
from agent_runtime.errors import AgentRuntimeError, DeadlineExceeded, Unreachable, UsageError
from agent_runtime.types import AnswerSpec, ContinuationSpec, Json, Policy, ResultSpec

T = TypeVar("T")

CONNECT_SECONDS = 10.0
USER_AGENT = f"agent-runtime/{__version__}"


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


class Client:
    """Every operation of a daemon. What it refuses is raised as the runtime's own error.

    All methods raise:
        Unreachable: it did not answer within `patience_seconds`.
        Unauthenticated, Forbidden: the token is not in force, or does not allow this.
        StoreUnavailable, TooManyRequests: it takes nothing just now, for all that time.
    """

    def __init__(
        self,
        place: Place | str,
        token: str | None = None,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        stream_seconds: float = STREAM_SECONDS,
    ) -> None:
        """`stream_seconds`: how long a stream looks for a daemon that is gone."""
        if isinstance(place, str):
            places.checked(place)
            place = Place(place, token)
        self.place = place
        self._patience_seconds = patience_seconds
        self._stream_seconds = stream_seconds
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

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

    # ---- the wire ------------------------------------------------------------------------

    def send(self, ask: Ask[T]) -> T:
        """The answer to one request, after as many tries as it takes and may have."""
        return ask.read(self._reply(ask))

    def _reply(self, ask: Ask[Any], *, refuse: bool = True) -> Reply:
        patience = Patience(self._patience_seconds, ask.again)
        while True:
            retry_after: str | None = None
            trouble: AgentRuntimeError
            try:
                reply = self._once(ask)
            except _Failed as failed:
                failure, trouble = failed.failure, self._unreachable(failed)
            else:
                if reply.status < 400 or not refuse:
                    return reply
                problem = problem_in(reply.status, reply.body)
                retry_after = reply.headers.get("retry-after")
                trouble = error_of(problem, retry_after)
                kind = problem.type.rpartition("/")[2]
                if self._has_new_token(reply.status):
                    continue
                if not is_busy(reply.status, kind, retry_after):
                    raise trouble
                failure = Failure.BUSY
            seconds = patience.wait(failure, time.monotonic(), retry_after)
            if seconds is None:
                raise trouble
            time.sleep(seconds)
            self.place = places.again(self.place)

    def _once(self, ask: Ask[Any]) -> Reply:
        # A kept connection may have been closed by the other side, and then it is not known what
        # became of a request: one that may not be sent twice gets a connection of its own.
        if not ask.again:
            self.close()
        connection = self._connection or self._open(ANSWER_SECONDS)
        self._connection = None
        if connection.sock is not None:
            connection.sock.settimeout(ANSWER_SECONDS + ask.wait_seconds)
        else:
            self._dial(connection, ANSWER_SECONDS + ask.wait_seconds)
        try:
            path, sent, headers = self._head(ask.path, ask.body, ask.headers)
            if ask.file is None:
                connection.request(ask.method, path, sent, headers)
            else:
                _send_file(connection, ask.method, path, ask.file, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _Failed(Failure.LOST, error) from error
        if response.will_close:
            connection.close()
        else:
            self._connection = connection
        given = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, given, body)

    def _follow(self, following: Following) -> Iterator[v.Event | Output | v.TaskView]:
        for news in self._news(following, None):
            yield from news or ()

    def _news(
        self, following: Following, deadline: float | None
    ) -> Iterator[list[v.Event | Output | v.TaskView] | None]:
        """What comes, in bursts; None when the deadline has passed."""
        patience = Patience(self._stream_seconds, again=True)
        while True:
            failure, retry_after = Failure.LOST, None
            trouble: AgentRuntimeError = self._unreachable(None)
            connection = self._open(SILENCE_SECONDS)
            try:
                self._dial(connection, _room(deadline, CONNECT_SECONDS))
                path, headers = following.ask()
                connection.request("GET", *self._head(path, None, headers))
                response = connection.getresponse()
                if response.status == 204:
                    return
                if response.status != 200:
                    problem = problem_in(response.status, response.read())
                    retry_after = response.getheader("retry-after")
                    trouble = error_of(problem, retry_after)
                    if self._has_new_token(response.status):
                        continue
                    if not is_busy(response.status, problem.type.rpartition("/")[2], retry_after):
                        raise trouble
                    failure = Failure.BUSY
                else:
                    while True:
                        if connection.sock is not None:
                            connection.sock.settimeout(_room(deadline, SILENCE_SECONDS))
                        data = response.read1(1 << 16)
                        if not data:
                            break
                        patience.rest()
                        if news := following.feed(data):
                            yield news
            except _Failed as failed:
                failure, trouble = failed.failure, self._unreachable(failed)
            except (OSError, http.client.HTTPException, Broken) as error:
                trouble = self._unreachable(_Failed(Failure.LOST, error))
            finally:
                connection.close()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                yield None
                return
            # A stream that brought something, and was closed, is asked for again at once: it has
            # ended with its task (204), or the daemon is about to be started anew.
            seconds = 0.0 if following.moved else patience.wait(failure, now, retry_after)
            if seconds is None:
                raise trouble
            time.sleep(_room(deadline, seconds))
            self.place = places.again(self.place)

    def _has_new_token(self, status: int) -> bool:
        """Was the token changed since it was read? A 401 has done nothing, so all can be asked
        again."""
        if status != 401 or (fresh := places.with_new_token(self.place)) is None:
            return False
        self.place = fresh
        return True

    def _open(self, seconds: float) -> http.client.HTTPConnection:
        parts = self.place.parts
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=seconds)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=seconds)

    def _dial(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        connection.timeout = min(CONNECT_SECONDS, seconds)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise _Failed(Failure.REFUSED, error) from error
        assert connection.sock is not None
        connection.sock.settimeout(seconds)

    def _head(
        self, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[str, bytes | None, dict[str, str]]:
        sent = {"Accept": "application/json", "User-Agent": USER_AGENT, **headers}
        if body is not None:
            sent["Content-Type"] = "application/json"
        if self.place.token is not None:
            sent["Authorization"] = f"Bearer {self.place.token}"
        return self.place.parts.path + path, body, sent

    def _unreachable(self, failed: _Failed | None) -> Unreachable:
        why = f": {_words(failed.error)}" if failed is not None else ""
        return Unreachable(f"the daemon at {self.place.url} does not answer{why}")


class _Failed(Exception):
    def __init__(self, failure: Failure, error: Exception) -> None:
        super().__init__()
        self.failure = failure
        self.error = error


def _send_file(
    connection: http.client.HTTPConnection, method: str, path: str, name: str,
    headers: Mapping[str, str],
) -> None:  # fmt: skip
    try:
        file = open(name, "rb")
    except OSError as error:
        raise UsageError(f"{name!r} cannot be read: {error.strerror}") from None
    with file:
        length = str(os.fstat(file.fileno()).st_size)
        # A daemon that refuses it may answer, and close, before it has read all of it.
        with suppress(ConnectionError):
            connection.request(method, path, file, {**headers, "Content-Length": length})


def new_key() -> str:
    """An idempotency key that nobody else makes."""
    return os.urandom(16).hex()


def _room(deadline: float | None, seconds: float) -> float:
    """`seconds`, or what is left of them; never zero, which would mean: do not block."""
    return seconds if deadline is None else max(0.001, min(seconds, deadline - time.monotonic()))


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
