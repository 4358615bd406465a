"""Legal and illegal transitions, generated from the tables; and what must hold in every state."""

from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runtime.errors import IllegalEvent
from agent_runtime.loop import codec, diagram, phases
from agent_runtime.loop import events as e
from agent_runtime.loop.actions import next_actions
from agent_runtime.loop.conversation import TurnCall
from agent_runtime.loop.decide import advance, decide
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.front import front_of
from agent_runtime.loop.outcomes import Woken
from agent_runtime.loop.phases import EXECUTING, FACTS, STEP_TRANSITIONS, TASK_TRANSITIONS
from agent_runtime.loop.state import CallState, State, StepState, status_of
from agent_runtime.messages import ToolUse
from agent_runtime.types import Effect, Phase, Status, StepStatus
from tests.loop.harness import step, task
from tests.loop.samples import SAMPLES
from tests.simulation.plans import SCENES
from tests.simulation.world import TASK, Chances, Life, live

KINDS = list(codec.EVENT_TYPES.values())


@cache
def lives() -> tuple[Life, ...]:
    """Logs that together hold every phase: the named tasks, and some with crashes and faults."""
    calm = [live(0, Chances(fault=0.0, crashes=0), scene) for scene in SCENES.values()]
    return (*calm, *(live(seed, Chances(crashes=3)) for seed in range(40)))


@cache
def states() -> Mapping[Phase, State]:
    """A real state in every phase."""
    found: dict[Phase, State] = {}
    for life in lives():
        state = State(task_id=TASK)
        for row, event in zip(life.rows, life.events, strict=True):
            state = evolve(state, event, row.at_us)
            if not state.ended:
                found.setdefault(state.phase, state)
    assert set(found) == set(Phase)
    return found


# ---- the task ----------------------------------------------------------------------------


@pytest.mark.parametrize(("phase", "kind"), list(product(Phase, KINDS)))
def test_an_event_that_is_not_in_the_table_is_illegal(phase: Phase, kind: type[e.Event]) -> None:
    """Every pair of phase and event."""
    allowed = kind in TASK_TRANSITIONS[phase] or (kind in FACTS and phase is not Phase.IDLE)
    assert phases.possible(phase, kind) is allowed
    if not allowed:
        with pytest.raises(IllegalEvent, match="cannot happen in"):
            evolve(states()[phase], SAMPLES[kind.__name__], 0)


def test_the_table_decides_where_an_event_may_lead() -> None:
    """Every triple of phase, event and phase."""
    for before, kind, after in product(Phase, KINDS, Phase):
        in_table = after in TASK_TRANSITIONS[before].get(kind, ())
        is_fact = kind in FACTS and before is not Phase.IDLE
        stays = before is after or {before, after} <= EXECUTING
        expected = in_table or (is_fact and stays)
        assert phases.legal(before, kind, after) is expected, (before, kind, after)


def test_nothing_follows_the_end() -> None:
    ended = lives()[0].state
    for event in SAMPLES.values():
        if not isinstance(event, e.Continued | e.PublicationRequested):
            with pytest.raises(IllegalEvent, match="after the task's end"):
                evolve(ended, event, 0)


def test_only_an_ended_task_is_continued() -> None:
    for state in states().values():
        with pytest.raises(IllegalEvent):
            evolve(state, SAMPLES["Continued"], state.at_us)
    continued = evolve(lives()[0].state, SAMPLES["Continued"], 0)
    assert (continued.phase, status_of(continued)[0]) == (Phase.IDLE, Status.PENDING)


def test_every_phase_is_reached_and_left() -> None:
    reached = {a for row in TASK_TRANSITIONS.values() for afters in row.values() for a in afters}
    assert reached == set(Phase) == set(TASK_TRANSITIONS)


def test_an_event_about_something_unknown_is_illegal() -> None:
    state = states()[Phase.EXECUTION]
    with pytest.raises(IllegalEvent, match="which is not there"):
        evolve(state, e.CallReturned(call_id="nobody's", ok=True, output=""), 0)


def test_a_phase_that_is_told_must_be_the_fold_s() -> None:
    with pytest.raises(IllegalEvent, match="PhaseEntered tells"):
        evolve(
            states()[Phase.EXECUTION],
            e.PhaseEntered(phase=Phase.IDLE, previous=Phase.EXECUTION),
            0,
        )


def test_every_event_is_an_input_or_a_decision_and_never_both() -> None:
    inputs, decisions = set(get_args(e.InputEvent)), set(get_args(e.DecisionEvent))
    assert not inputs & decisions and inputs | decisions == set(KINDS)


# ---- a step ------------------------------------------------------------------------------

MOVED = {kind for row in STEP_TRANSITIONS.values() for kind in row} - {
    e.CallLost,  # the call is lost; its step runs on until the effect ledger has looked
    e.EffectUnknown,  # says what `CallResolved` has done
    e.ToolbeltActivated,  # moves the steps that want it, and no other
    e.ToolbeltFailed,
    e.PlanAdopted,  # of an earlier run, when another plan takes its place
}
ASKED = e.ApprovalRequested(
    approval_id="a1", step_id="a", subject="call", tool="look", arguments={}, digest="d",
    expires_at_us=10**18, question="May it?",
)  # fmt: skip
STARTED = e.ModelCallStarted(step_id="a", turn=1, model="m", reserved_tokens=1, reserved_usd=0.0)
STEP_EVENTS: Mapping[type[e.Event], e.AnyEvent] = {
    **{kind: SAMPLES[kind.__name__] for kind in MOVED},
    e.CallIntended: e.CallIntended(
        step_id="a", call_id="a.2", attempt=2, tool="look", arguments={}, effect="read"  # type: ignore[arg-type]
    ),
    e.ApprovalRequested: ASKED,
    e.StepFailed: e.StepFailed(step_id="a", kind="failed", reason="no"),
}  # fmt: skip


def in_status(status: StepStatus) -> State:
    """A running plan whose only step is in `status`, with an open call, question and timer."""
    intent = e.CallIntended(
        step_id="a", call_id="a.1", attempt=1, tool="look", arguments={}, effect="read"  # type: ignore[arg-type]
    )  # fmt: skip
    one = StepState(step("a", "look"), status=status, timer="retry:a:9", approval_id="a1")
    state = State(
        task_id="task_1", spec=task(step("a", "look")), stage=Phase.EXECUTION, epoch=1, alive=True,
        asking=STARTED, steps={"a": one}, calls={"a.1": CallState(intent, 1)},
        approvals={"a1": ASKED}, phase=Phase.EXECUTION,
    )  # fmt: skip
    derived = {
        StepStatus.RECOVERING: Phase.ERROR_HANDLING,
        StepStatus.EVALUATING: Phase.TOOL_TRANSITION_EVALUATION,
    }
    return replaced(state, phase=derived.get(status, Phase.EXECUTION))


def replaced(state: State, **changes: object) -> State:
    return msgspec.structs.replace(state, **changes)


BESIDE_OTHERS = frozenset(
    {e.CallIntended, e.ApprovalRequested, e.ApprovalDecided, e.ApprovalExpired, e.PreparationFailed}
)
"""A running step knows them only where a brain asked for several calls at once."""


def in_a_turn(state: State) -> State:
    """As a brain's step: one call of its turn runs, the next waits."""
    read = ToolUse(id="u", name="look", arguments={}, effect=Effect.READ)
    calls = (TurnCall(read, begun=True), TurnCall(read))
    talking = msgspec.structs.replace(
        state.steps["a"], spec=step("a", None), turn=1, turn_calls=calls
    )
    return replaced(state, steps={"a": talking})


@pytest.mark.parametrize(
    ("status", "kind"), list(product(StepStatus, sorted(MOVED, key=lambda kind: kind.__name__)))
)
def test_a_step_moves_as_its_table_says(status: StepStatus, kind: type[e.Event]) -> None:
    """Every pair of step state and event."""
    state, event = in_status(status), STEP_EVENTS[kind]
    if (status, kind) == (StepStatus.READY, e.StepEvaluated):
        # Before an attempt there is only one verdict.
        event = e.StepEvaluated(step_id="a", verdict="toolbelt", toolbelt="extra")
    if status is StepStatus.RUNNING and kind in BESIDE_OTHERS:
        state = in_a_turn(state)
    if status is StepStatus.RUNNING and kind is e.CallIntended:
        event = msgspec.structs.replace(event, call_id="a.t1.1")
    afters = STEP_TRANSITIONS[status].get(kind)
    if afters is None:
        with pytest.raises(IllegalEvent):
            evolve(state, event, 0)
    else:
        assert evolve(state, event, 0).steps["a"].status in afters


def test_an_ended_step_is_moved_by_nothing() -> None:
    for status in (StepStatus.DONE, StepStatus.FAILED, StepStatus.SKIPPED):
        assert not STEP_TRANSITIONS[status]


# ---- properties of every prefix of every log ---------------------------------------------


@st.composite
def prefixes(draw: st.DrawFn) -> tuple[State, int]:
    """The state after some events of some life, and a moment not before them."""
    life = draw(st.sampled_from(lives()))
    count = draw(st.integers(1, len(life.rows)))
    state = State(task_id=TASK)
    for row, event in zip(life.rows[:count], life.events[:count], strict=True):
        state = evolve(state, event, row.at_us)
    return state, state.at_us + draw(st.integers(0, 10**6))


@settings(max_examples=150, deadline=None)
@given(prefixes())
def test_at_most_one_action_has_a_key_and_asking_twice_gives_the_same(
    prefix: tuple[State, int],
) -> None:
    state, at_us = prefix
    wanted = next_actions(state)
    assert len({action.key for action in wanted}) == len(wanted)
    assert next_actions(state) == wanted
    assert decide(state, Woken(), at_us) == decide(state, Woken(), at_us)


@settings(max_examples=200, deadline=None)
@given(prefixes())
def test_the_front_is_every_step_that_can_move(prefix: tuple[State, int]) -> None:
    """It is made anew only by some events: it must be what all of them would make of it."""
    state, _ = prefix
    assert state.front == front_of(state)


@settings(max_examples=150, deadline=None)
@given(prefixes())
def test_what_is_settled_stays_settled_and_something_goes_on(prefix: tuple[State, int]) -> None:
    """Level-triggered: after a decision there is work, or somebody else has to do something."""
    state, at_us = prefix
    if not state.alive:
        return
    _, settled = advance(state, Woken(), at_us)
    assert decide(settled, Woken(), at_us) == ()
    waits = status_of(settled)[0] in (Status.PAUSED, Status.WAITING)
    assert next_actions(settled) or waits or settled.ended


@settings(max_examples=100, deadline=None)
@given(prefixes())
def test_a_cancel_is_possible_at_any_moment_and_nothing_new_starts(
    prefix: tuple[State, int],
) -> None:
    state, at_us = prefix
    if state.ended or state.conclusion:
        return
    cancelled = evolve(state, e.CancelRequested(by="me"), at_us)
    events, after = advance(cancelled, Woken(), at_us)
    assert not any(isinstance(x, e.CallIntended | e.ModelCallStarted) for x in events)
    if state.alive and not state.calls:
        assert after.conclusion is not None and after.conclusion.status is Status.CANCELLED


@settings(max_examples=100, deadline=None)
@given(prefixes())
def test_a_new_owner_is_possible_at_any_moment(prefix: tuple[State, int]) -> None:
    state, at_us = prefix
    if state.ended:
        return
    taken = e.LeaseTaken(epoch=state.epoch + 1, owner="next")
    _, after = advance(state, taken, at_us)
    assert after.alive or after.ended, "or nothing was left to do"
    assert after.usage.running_us == state.usage.running_us
    assert after.ended or next_actions(after) or status_of(after)[0] is not Status.RUNNING


@pytest.mark.parametrize("waits_for", ["timer", "wants_toolbelt"])
def test_what_a_skipped_step_waited_for_comes_too_late(waits_for: str) -> None:
    """Seeds 798173255 and 798183428: a timer fired in the moment in which its step was skipped."""
    found = 0
    for life in lives():
        state = State(task_id=TASK)
        for row, event in zip(life.rows, life.events, strict=True):
            state = evolve(state, event, row.at_us)
            for step_id, waiting in state.steps.items():
                if not (name := getattr(waiting, waits_for)):
                    continue
                if state.conclusion is None and state.stage is not Phase.EXECUTION:
                    continue  # a continued task that has not come to its steps: nothing waits yet
                late: e.TimerFired | e.ToolbeltActivated = (
                    e.TimerFired(timer=name)
                    if waits_for == "timer"
                    else e.ToolbeltActivated(toolbelt=name, tools=[])
                )
                if state.conclusion is None:
                    skipped = e.StepSkipped(step_id=step_id, reason="the task is aborted")
                    after = advance(evolve(state, skipped, row.at_us), late, row.at_us)[1]
                    # What a client asked for is kept by its name alone once it has ended.
                    gone = after.steps.get(step_id)
                    assert step_id in after.past or (
                        gone is not None and gone.status is StepStatus.SKIPPED
                    )
                    found += 1
                elif not state.ended:
                    after = advance(state, late, row.at_us)[1]
                    assert after.steps.get(step_id) == waiting
    assert found > 10


# ---- the page ----------------------------------------------------------------------------


def test_the_page_of_the_phases_is_fresh() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "phases.md"
    assert page.read_text() == diagram.page(), f"stale; run: {diagram.COMMAND}"
