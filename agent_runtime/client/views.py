"""What a daemon answers: what `api.views` has, and what a client reads in its own way.

A field that a newer daemon adds is read over. What stands here has the names and fields of the
daemon's own Structs, and a test compares them.
"""

from __future__ import annotations

import msgspec

from agent_runtime.api.views import (
    Approvals,
    ApprovalView,
    ArtifactList,
    ArtifactView,
    AuditPage,
    AuditView,
    CostView,
    Decided,
    DeliveryPage,
    DeliveryView,
    Health,
    HookList,
    HookTaken,
    HookTried,
    HookView,
    InboxAnswer,
    InboxPage,
    InboxView,
    KeyPage,
    KeyView,
    ModelList,
    ModelView,
    ModuleList,
    ModuleView,
    NewHookView,
    NewKeyView,
    NewWebhookView,
    PlanView,
    ReplayView,
    Spent,
    StatusName,
    StepView,
    TaskPage,
    TaskView,
    ToolList,
    ToolView,
    TryView,
    VerifyView,
    WebhookList,
    WebhookView,
    WorkspaceView,
)
from agent_runtime.types import Json, Row

__all__ = [
    "ENDED",
    "SETTLED",
    "ApprovalView",
    "Approvals",
    "ArtifactList",
    "ArtifactView",
    "AuditPage",
    "AuditView",
    "BatchAnswer",
    "BatchItem",
    "CostView",
    "Decided",
    "DeliveryPage",
    "DeliveryView",
    "Event",
    "EventPage",
    "Health",
    "HookList",
    "HookTaken",
    "HookTried",
    "HookView",
    "InboxAnswer",
    "InboxPage",
    "InboxView",
    "KeyPage",
    "KeyView",
    "ModelList",
    "ModelView",
    "ModuleList",
    "ModuleView",
    "NewHookView",
    "NewKeyView",
    "NewWebhookView",
    "PlanView",
    "Problem",
    "ProblemFault",
    "ReplayView",
    "Spent",
    "StatusName",
    "StepView",
    "TaskPage",
    "TaskView",
    "ToolList",
    "ToolView",
    "TryView",
    "VerifyView",
    "WebhookList",
    "WebhookView",
    "WorkspaceView",
]

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
