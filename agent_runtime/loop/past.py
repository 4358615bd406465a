"""Looking back in a log: which earlier event is meant by one that names a step, a call, a timer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent_runtime.loop import events as e
from agent_runtime.types import StepSpec

RESULTS = (
    e.CallReturned,
    e.CallResolved,
    e.PreparationFailed,
    e.ModelReplied,
    e.ModelFailed,
    e.ModelCallSettled,
    e.ApprovalDecided,
    e.ApprovalExpired,
    e.ToolbeltFailed,
    e.EffectUnknown,
)
"""What gives a step something to be evaluated."""
STEP_ENDS = (e.StepSucceeded, e.StepSkipped, e.StepFailed)
TASK_FILES = (e.TaskSubmitted, e.Continued, e.Forked)
"""They say what the task is from there on."""


class Past:
    """The events before the one in question, numbered from 1."""

    def __init__(self, events: Sequence[e.AnyEvent]) -> None:
        self.events = events

    def back(
        self, *kinds: type[Any], where: Callable[[Any], bool] = lambda _: True, since: int = 0
    ) -> Iterator[int]:
        """Numbers above `since` of what is of these kinds, the newest first."""
        for seq in range(len(self.events), since, -1):
            event = self.events[seq - 1]
            if isinstance(event, kinds) and where(event):
                yield seq

    def last(self, *kinds: type[Any], where: Callable[[Any], bool] = lambda _: True) -> int:
        """The newest such number, or 0."""
        return next(self.back(*kinds, where=where), 0)

    def event(self, seq: int) -> Any:
        return self.events[seq - 1]

    # -- about one step --

    def task_file(self) -> int:
        return self.last(*TASK_FILES)

    def plan(self, step_id: str) -> int:
        return self.last(e.PlanAdopted, where=lambda x: any(s.id == step_id for s in x.steps))

    def source(self, step_id: str) -> int:
        """What made the step: a plan, or a client that asked for a call in an open one."""
        return self.plan(step_id) or self.last(
            e.CallRequested, where=lambda x: x.step_id == step_id
        )

    def spec(self, step_id: str) -> StepSpec | None:
        adopted = self.plan(step_id)
        steps = self.event(adopted).steps if adopted else []
        return next((step for step in steps if step.id == step_id), None)

    def ends(self, step_ids: Sequence[str]) -> list[int]:
        """How each of these steps ended, and what stood in for it."""
        found: list[int] = []
        for step_id in step_ids:
            ended = self.end(step_id)
            if ended and isinstance(failed := self.event(ended), e.StepFailed) and failed.fallback:
                found += self.ends([failed.fallback])
            found.append(ended)
        return found

    def end(self, step_id: str) -> int:
        return self.last(*STEP_ENDS, where=lambda x: x.step_id == step_id)

    def needs(self, step_id: str) -> list[int]:
        spec = self.spec(step_id)
        return self.ends(spec.needs) if spec else []

    def step_of(self, event: Any) -> str:
        """The step that a call's or an approval's event is about."""
        if isinstance(event, e.CallReturned | e.CallResolved | e.CallLost | e.EffectUnknown):
            made = self.last(e.CallIntended, where=lambda x: x.call_id == event.call_id)
            return str(self.event(made).step_id) if made else ""
        if isinstance(event, e.ApprovalDecided | e.ApprovalExpired):
            asked = self.asked(event.approval_id)
            return str(self.event(asked).step_id) if asked else ""
        return str(getattr(event, "step_id", ""))

    def asked(self, approval_id: str) -> int:
        return self.last(e.ApprovalRequested, where=lambda x: x.approval_id == approval_id)

    def results(self, step_id: str) -> list[int]:
        """What came back for a step since it was last evaluated, or since its turn began."""
        since = self.last(
            e.StepEvaluated,
            where=lambda x: x.step_id == step_id and x.verdict != "toolbelt",
        )
        found = self.back(*RESULTS, where=lambda x: self._is_of(x, step_id), since=since)
        return list(found)

    def _is_of(self, event: Any, step_id: str) -> bool:
        # A toolbelt has no step: whoever waited for it was told.
        return isinstance(event, e.ToolbeltFailed) or self.step_of(event) == step_id

    def origin(self, step_id: str, turn: int | None) -> int:
        """What asked for the next call of a step: a model's turn, the plan, or a client."""
        replied = self.last(e.ModelReplied, where=lambda x: x.step_id == step_id)
        return replied if turn is not None and replied else self.source(step_id)
