"""What a daemon answers, as far as it is not a task in a line (`api.views`).

The names and fields are those of the daemon's own Structs, and a test compares them; a field that
a newer daemon adds is read over.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agent_runtime.api.views import StatusName, TaskPage, TaskView
from agent_runtime.types import Json, Row

__all__ = ["StatusName", "TaskPage", "TaskView"]

ENDED: frozenset[str] = frozenset({"succeeded", "unverified", "failed", "cancelled"})
SETTLED: frozenset[str] = ENDED | {"waiting", "paused"}
"""Nothing happens by itself any more."""


class Event(msgspec.Struct, frozen=True):
    """A stored event, as the log has it; docs/events.md has each type's fields."""

    task_id: str
    seq: int
    type: str
    schema: int
    at_us: int
    data: msgspec.Raw
    prev_hash: str
    hash: str
    position: int | None = None
    """Its place among the events of all tasks, where those were asked for."""

    @property
    def fields(self) -> dict[str, Json]:
        """What the event says."""
        found = msgspec.json.decode(self.data)
        return found if isinstance(found, dict) else {}

    @property
    def row(self) -> Row:
        """For the runtime's own readers; `data` has the very bytes that the hashes are over."""
        return Row(
            self.task_id, self.seq, self.type, self.schema, self.at_us, bytes(self.data),
            self.prev_hash, self.hash,
        )  # fmt: skip


class EventPage(msgspec.Struct, frozen=True):
    """Events in their order. `next` is the `after` of the next page."""

    events: list[Event]
    next: int


class ProblemFault(msgspec.Struct, frozen=True):
    """One thing that is wrong with what was sent; `pointer` is a JSON pointer into it."""

    pointer: str
    detail: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: list[ProblemFault] = []


class BatchItem(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one task of a batch: the task, or why it was refused."""

    status: int
    task: TaskView | None = None
    problem: Problem | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    """One item for each task, in their order."""

    items: list[BatchItem]


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
    """Everything that waits for a decision."""

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
    """One thing that waits for a person. `since`: when its task last moved."""

    kind: str
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


class ReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a task is decided again as it was; `difference`: where it is not."""

    ok: bool
    task_id: str
    events: int
    inputs: int
    decisions: int
    difference: Json = None


class VerifyView(msgspec.Struct, frozen=True):
    """Whether log, blobs, trees and claims are what was written; `fault` says what is not."""

    ok: bool
    task_id: str
    seq: int | None
    fault: str | None


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


class WorkspaceView(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that was sent; `repo` is what `workspace.repo` of a task may be."""

    id: str
    repo: str


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
    """Keys by id, revoked ones too. `next_cursor` is the `cursor` of the next page."""

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
    """All of them."""

    webhooks: list[WebhookView]


class TryView(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. `status` null: there was no answer; `error` empty: it was taken."""

    at: str
    seconds: float
    status: int | None
    error: str


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """A message for a webhook. `state`: pending, delivered or failed."""

    id: str
    type: str
    state: str
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
    scheme: str
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
    """All of them, by name."""

    hooks: list[HookView]


class HookTried(msgspec.Struct, frozen=True, kw_only=True):
    """The task that a request would make, or why it would make none."""

    task: dict[str, Json] | None
    ignored: str | None


class HookTaken(msgspec.Struct, frozen=True, kw_only=True):
    """`status` accepted: a task was made; repeated: it was made before; ignored: none is meant."""

    status: str
    task_id: str | None = None
    reason: str = ""


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
    """`status` is `ok`, or what keeps the daemon from taking work."""

    status: str
    version: str
    faults: dict[str, str] = {}
