"""Why: what a decision rests on, for every kind of decision, and the way down to the task file."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

import agent_runtime
from agent_runtime.loop import events as e
from agent_runtime.loop.why import BECAUSE_MAX, chain, why
from tests.loop import recorded

Log = Sequence[e.AnyEvent]
PACKAGE = Path(agent_runtime.__file__).parent


def scene(name: str) -> Log:
    return recorded.scene(name).events


def of(events: Log, kind: type[e.Event], number: int = 0, **fields: object) -> int:
    """The number of the event of this type and with these fields."""
    found = [
        seq
        for seq, event in enumerate(events, 1)
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items())
    ]
    return found[number]


def grounds(events: Log, seq: int) -> list[e.AnyEvent]:
    return [events[n - 1] for n in why(events, seq).because]


def kinds(events: Log, seq: int) -> list[str]:
    return [type(event).__name__ for event in grounds(events, seq)]


def test_every_decision_rests_on_something_earlier_and_has_a_rule() -> None:
    """Every kind of decision there is."""
    seen: set[type[e.Event]] = set()
    for events in recorded.histories():
        for seq, event in enumerate(events, 1):
            found = why(events, seq)
            assert all(0 < n < seq for n in found.because), (seq, event, found)
            assert len(found.because) <= BECAUSE_MAX and found.rule
            if isinstance(event, e.DecisionEvent):
                assert found.because, (seq, event)
                assert type(event).__name__ in (PACKAGE / found.file).read_text(encoding="utf-8")
                seen.add(type(event))
            else:
                assert not found.file
    assert seen == set(get_args(e.DecisionEvent))


def test_every_chain_leads_to_what_somebody_wanted() -> None:
    """No event hangs in the air: below everything there is a task file or a wish."""
    for events in recorded.histories():
        for seq in range(1, len(events) + 1):
            links = chain(events, seq, 99)
            ends = [events[link.seq - 1] for link in links if not link.grounds.because]
            assert any(isinstance(end, e.OutsideFact) for end in ends), (seq, events[seq - 1])
            assert len({link.seq for link in links}) == len(links), "an event came twice"


def test_a_chain_ends_at_its_depth() -> None:
    events = scene("writes")
    last = len(events)
    assert [link.depth for link in chain(events, last, 0)] == [0]
    assert max(link.depth for link in chain(events, last, 2)) == 2
    assert chain(events, last, 2)[0].seq == last


def test_a_call_rests_on_its_plan_and_on_what_its_step_needs() -> None:
    events = scene("writes")
    first, second = of(events, e.CallIntended), of(events, e.CallIntended, step_id="b")
    assert kinds(events, first) == ["PlanAdopted"]
    assert grounds(events, second) == [
        events[of(events, e.PlanAdopted) - 1], e.StepSucceeded(step_id="a")
    ]  # fmt: skip


def test_a_call_that_a_person_allowed_rests_on_the_answer() -> None:
    events = scene("approvals")
    found = grounds(events, of(events, e.CallIntended))
    assert isinstance(found[0], e.ApprovalDecided) and found[0].decision == "approve"
    decided = events.index(found[0]) + 1
    assert kinds(events, decided) == ["ApprovalRequested"]


def test_a_call_of_a_model_rests_on_its_turn() -> None:
    events = scene("model")
    found = grounds(events, of(events, e.CallIntended))
    assert isinstance(found[0], e.ModelReplied) and found[0].turn == 1


def test_a_model_is_asked_again_because_of_what_its_calls_gave() -> None:
    events = scene("model")
    again = of(events, e.ModelCallStarted, turn=2)
    assert "CallReturned" in kinds(events, again)


@pytest.mark.parametrize(
    ("name", "kind", "call_id"),
    [("writes", e.StepSucceeded, "b.1"), ("fallback", e.StepEvaluated, "a.1")],
)
def test_an_evaluation_rests_on_the_result(name: str, kind: type[e.Event], call_id: str) -> None:
    """A step that comes out well has succeeded; only what else is found is an event of its own."""
    events = scene(name)
    found = grounds(events, of(events, kind, step_id=call_id[0]))
    assert isinstance(found[0], e.CallReturned) and found[0].call_id == call_id


def test_a_step_whose_effect_is_unknown_rests_on_who_said_to_go_on() -> None:
    events = scene("unknown effect goes on")
    done = of(events, e.StepSucceeded, step_id="a")
    [evaluated] = grounds(events, done)
    assert isinstance(evaluated, e.StepEvaluated) and evaluated.verdict == "good"


def test_a_recovery_counts_the_failures_before_it() -> None:
    events = scene("fallback")
    given_up = of(events, e.RecoveryChosen, -1, step_id="a")
    failures = [event for event in grounds(events, given_up) if isinstance(event, e.StepEvaluated)]
    assert len(failures) == 2 and all(event.verdict == "failed" for event in failures)
    assert "retry as often as the step says" in why(events, given_up).rule
    assert why(events, given_up).file == "loop/recovery.py"


def test_a_step_that_was_skipped_rests_on_what_went_wrong() -> None:
    events = scene("abort beside a neighbour")
    skipped = of(events, e.StepSkipped, step_id="c")
    assert any(isinstance(event, e.StepFailed) for event in grounds(events, skipped))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("writes", "VerificationEnded"),
        ("continued after a cancel", "CancelRequested"),
        ("abort beside a neighbour", "StepFailed"),
        ("model plans again", "VerificationEnded"),
    ],
)
def test_an_end_rests_on_what_decided_it(name: str, first: str) -> None:
    events = scene(name)
    assert kinds(events, of(events, e.TaskConcluded))[0] == first


def test_an_unknown_effect_rests_on_the_ledger_and_the_call() -> None:
    events = scene("unknown effect fails")
    unknown = of(events, e.EffectUnknown)
    assert kinds(events, unknown) == ["CallResolved", "CallIntended"]
    assert kinds(events, of(events, e.CallResolved)) == ["CallLost", "CallIntended"]
