"""What a daemon answers, as far as its own side and its clients share it. It imports no server.

Words that a newer daemon may add to are plain text here, so that an older client can read them; the
document of the API names those of today.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent_runtime.types import Json, TaskSummary

StatusName = Literal[
    "pending", "running", "waiting", "paused", "succeeded", "unverified", "failed", "cancelled"
]
DeliveryState = Annotated[str, Meta(extra_json_schema={"enum": ["pending", "delivered", "failed"]})]
HookScheme = Annotated[
    str, Meta(extra_json_schema={"enum": ["hmac", "github", "gitlab", "standard"]})
]
HookOutcome = Annotated[str, Meta(extra_json_schema={"enum": ["accepted", "repeated", "ignored"]})]
InboxKind = Annotated[
    str,
    Meta(
        extra_json_schema={
            "enum": [
                *("approval", "unknown_effect", "brain", "input", "publishing", "paused", "budget")
            ]
        }
    ),
]


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a line. `seq` is the number of its newest event, and its ETag."""

    id: str
    status: StatusName
    phase: str
    reason: str
    goal: str
    seq: int
    created_at: str
    updated_at: str
    labels: dict[str, str]
    priority: int
    repo: str


class TaskPage(msgspec.Struct, frozen=True):
    """Tasks, the newest first. `next_cursor` is the `cursor` of the next page; null: the last."""

    tasks: list[TaskView]
    next_cursor: str | None


def view_of(summary: TaskSummary) -> TaskView:
    """A task's projection as JSON has it."""
    created_at = moment(summary.created_at_us)
    is_new = summary.updated_at_us == summary.created_at_us
    return TaskView(
        id=summary.task_id,
        status=summary.status,  # type: ignore[arg-type]  # the store holds no other
        phase=summary.phase,
        reason=summary.reason,
        goal=summary.goal,
        seq=summary.seq,
        created_at=created_at,
        updated_at=created_at if is_new else moment(summary.updated_at_us),
        labels=summary.labels,
        priority=summary.priority,
        repo=summary.repo,
    )


def moment(at_us: int) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    seconds, rest_us = divmod(at_us, 1_000_000)
    return f"{_second(seconds)}.{rest_us // 1000:03}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def etag(seq: int) -> bytes:
    """Of a task whose newest event is `seq`."""
    return b'"%d"' % seq


# ---- what came of a task ----------------------------------------------------------------


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan, and where it stands."""

    id: str
    status: str
    tool: str | None
    goal: str | None
    needs: list[str]
    attempts: int
    exit: int | None
    reason: str


class PlanView(msgspec.Struct, frozen=True):
    """The plan that is carried out; empty before there is one."""

    steps: list[StepView]


class Spent(msgspec.Struct, frozen=True):
    """`steps` counts attempts; `seconds` running time only."""

    steps: int
    tokens: int
    usd: float
    seconds: float


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent of the limits. `total` counts the runs before a continuation too."""

    usage: Spent
    total: Spent
    limits: dict[str, float]


class ArtifactView(msgspec.Struct, frozen=True):
    """A file that the task kept beside its patch."""

    path: str
    bytes: int
    sha256: str


class ArtifactList(msgspec.Struct, frozen=True):
    """`missing` are patterns that nothing matched."""

    artifacts: list[ArtifactView]
    missing: list[str]


class VerifyView(msgspec.Struct, frozen=True):
    """Whether log, blobs, trees and claims are what was written; `fault` says what is not."""

    ok: bool
    task_id: str
    seq: int | None
    fault: str | None


# ---- telling a task something -----------------------------------------------------------


class ReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a task is decided again as it was."""

    ok: bool
    task_id: str
    events: int
    inputs: int
    decisions: int
    difference: Json = None
    """Null, or `seq`, `words` and both sides of the first decision that came out differently."""


class ApprovalView(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks a person. `id` names it here, `approval_id` in the task's log."""

    id: str
    task_id: str
    approval_id: str
    subject: Literal["call", "unknown_effect"]
    step_id: str
    tool: str
    arguments: dict[str, Json]
    question: str
    preview: str
    expires_at: str


class Approvals(msgspec.Struct, frozen=True):
    """Everything that waits for a decision, of the newest task first."""

    approvals: list[ApprovalView]


class Decided(msgspec.Struct, frozen=True):
    """What was answered."""

    task_id: str
    approval_id: str
    decision: Literal["approve", "deny"]


class InboxAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do: a POST of `body` to `path`, or `agent-runtime` with `words`."""

    does: str
    path: str
    body: dict[str, Json]
    words: list[str]


class InboxView(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that waits. `since`: when its task last moved."""

    kind: InboxKind
    task_id: str
    goal: str
    since: str
    what: str
    approval_id: str
    answers: list[InboxAnswer]


class InboxPage(msgspec.Struct, frozen=True):
    """What waits, of the newest task first. `next_cursor` is the `cursor` of the next page."""

    items: list[InboxView]
    next_cursor: str | None


class WorkspaceView(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that was sent; `repo` is what `workspace.repo` of a task may be."""

    id: str
    repo: str


# ---- who may ask, and who asked ---------------------------------------------------------


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key without its secret. Moments are null where there is none."""

    id: str
    name: str
    role: str
    scopes: list[str]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    revoked_by: str
    last_used_at: str | None
    """Rounded to a minute or so."""
    rate: float | None
    burst: int | None
    usd_day: float | None
    tokens_day: int | None
    tasks_day: int | None


class NewKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A new key. `secret` is told once, and kept nowhere."""

    secret: str
    key: KeyView


class KeyPage(msgspec.Struct, frozen=True):
    """Keys by id. `next_cursor` is the `cursor` of the next page."""

    keys: list[KeyView]
    next_cursor: str | None


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, or several alike: then `count` says how many, and `targets` names them."""

    seq: int
    at: str
    by: str
    action: str
    outcome: str
    target: str
    targets: list[str]
    detail: str
    peer: str
    key_id: str
    count: int
    prev_hash: str
    hash: str


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, the newest first. `next_cursor` is the `cursor` of the next page."""

    entries: list[AuditView]
    next_cursor: str | None


# ---- webhooks out, and in ---------------------------------------------------------------


class WebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook without its secret. `disabled_why` says why it is told nothing more."""

    id: str
    url: str
    types: list[str]
    labels: dict[str, str]
    description: str
    enabled: bool
    disabled_why: str
    failing_since: str | None
    created_at: str
    created_by: str


class NewWebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` signs every delivery. It is told once."""

    secret: str
    webhook: WebhookView


class WebhookList(msgspec.Struct, frozen=True):
    """All of them; there are at most 100."""

    webhooks: list[WebhookView]


class TryView(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `status` null: there was no answer; `error` empty: it was taken."""

    at: str
    seconds: float
    status: int | None
    error: str


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A message for a webhook. `id` is its `webhook-id`, the same for every try."""

    id: str
    type: str
    state: DeliveryState
    task_id: str | None
    seq: int | None
    attempts: int
    created_at: str
    next_at: str | None
    ended_at: str | None
    tries: list[TryView]


class DeliveryPage(msgspec.Struct, frozen=True):
    """Deliveries, the newest first. `next_cursor` is the `cursor` of the next page."""

    deliveries: list[DeliveryView]
    next_cursor: str | None


class HookView(msgspec.Struct, frozen=True, kw_only=True):
    """A hook without its secret. `path` is where requests are sent to."""

    id: str
    name: str
    path: str
    scheme: HookScheme
    task: dict[str, Json]
    filters: list[str]
    header: str
    delivery_header: str
    description: str
    enabled: bool
    created_at: str
    created_by: str


class NewHookView(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is what senders sign with. It is told once."""

    secret: str
    hook: HookView


class HookList(msgspec.Struct, frozen=True):
    """All of them, by name; there are at most 200."""

    hooks: list[HookView]


class HookTried(msgspec.Struct, frozen=True, kw_only=True):
    """The task that it would make, or why it would make none."""

    task: dict[str, Json] | None
    ignored: str | None


class HookTaken(msgspec.Struct, frozen=True, kw_only=True):
    """accepted: a task was made; repeated: it was made before; ignored: none is meant."""

    status: HookOutcome
    task_id: str | None = None
    reason: str = ""


# ---- the installation -------------------------------------------------------------------


class ToolView(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that tasks can use. `effect`: what a call without a result is taken for."""

    name: str
    toolbelt: str
    where: str
    effect: str
    description: str
    source: str
    parameters: dict[str, Json]


class ToolList(msgspec.Struct, frozen=True):
    """Every installed tool."""

    tools: list[ToolView]


class ModuleView(msgspec.Struct, frozen=True):
    """An installed module, and how it is."""

    name: str
    health: str
    detail: str
    description: str


class ModuleList(msgspec.Struct, frozen=True):
    """Every installed module."""

    modules: list[ModuleView]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A model that tasks without one of their own use."""

    name: str
    provider: str
    context_tokens: int
    output_tokens_max: int
    input_usd_per_mtok: float
    output_usd_per_mtok: float
    priced: bool


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Who thinks for tasks that name no model, and why; `offers` says what would serve instead."""

    brain: str
    why: str
    models: list[ModelView]
    offers: list[str]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is `ok`, or what keeps the daemon from taking work; `faults` says why."""

    status: str
    version: str
    faults: dict[str, str] = {}
