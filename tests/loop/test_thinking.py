"""The conversation with a brain: what it is told, in which order, and what its calls do."""

import json
from collections.abc import Sequence
from itertools import pairwise

import anyio
import msgspec
import pytest

from agent_runtime.loop import compaction, prompts, stuck
from agent_runtime.loop import events as e
from agent_runtime.loop.conversation import Conversation
from agent_runtime.loop.state import status_of
from agent_runtime.messages import Message, ModelChoice, ModelUsage, ToolUse
from agent_runtime.ports import ModelAnswer, ModelFault
from agent_runtime.testing import FakeVerifier, FakeWorkspaces, says
from agent_runtime.types import Check, Effect, Limits, Objective, Status, ToolResult
from tests.loop.harness import (
    FOREVER,
    NO,
    Bench,
    Script,
    asks,
    gives_up,
    step,
    task,
)

pytestmark = pytest.mark.anyio


def texts(messages: Sequence[Message]) -> list[str]:
    return [m.text for m in messages]


def conclusion(bench: Bench) -> tuple[Status, str]:
    ended = bench.of(e.TaskConcluded)[-1]
    return ended.status, ended.reason


def raw(name: str, text: str) -> ModelAnswer:
    """An answer whose only call has junk for arguments."""
    use = ToolUse(id="junk", name=name, raw=text)
    return ModelAnswer(message=Message(role="assistant", calls=(use,)), stop="calls")


# ---- what a brain is told ----------------------------------------------------------------


async def test_the_first_message_says_what_is_wanted_and_what_decides() -> None:
    bench = Bench()
    await bench.run(task())
    request = bench.model.requests[0]
    assert request.system == prompts.SYSTEM
    first, status = request.messages
    assert first.text.startswith("Goal: make it so\n") and "- ok: true" in first.text
    assert status.ref == "status" and "249 calls and turns" in status.text


async def test_the_prompt_only_grows_and_tools_keep_their_order() -> None:
    """Provider caches hold what stands before."""
    special = Script("special", toolbelt="extra", where="worker")
    answers = [asks("look"), asks("special"), asks("look", "special"), says("done")]
    bench = Bench(Script("look"), special, answers=answers)
    await bench.run(task(tools=["look"]))
    requests = bench.model.requests
    for earlier, later in pairwise(requests):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        names = [t.name for t in later.tools]
        assert names[: len(earlier.tools)] == [t.name for t in earlier.tools]
    assert "special" not in [t.name for t in requests[0].tools]
    assert requests[-1].tools[-1].name == "special"


async def test_a_message_from_a_person_reaches_the_next_turn() -> None:
    """Steering in a live turn: it does not break the observations that are awaited."""
    look = Script("look", answers=[50.0])
    bench = Bench(look, answers=[asks("look"), says("done")])
    await bench.submit(task(tools=["look"]))
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.drive)
        await anyio.sleep(10)
        await bench.say(e.Steered(by="ada", message="mind the tabs"))
    roles = [(m.role, m.text) for m in bench.model.requests[1].messages[2:]]
    assert roles[0][0] == "assistant" and roles[1] == ("tool", "ok")
    assert roles[2] == ("user", "ada says: mind the tabs")


async def test_a_message_that_comes_while_the_model_says_done_is_heard() -> None:
    bench = Bench(answers=[says("done"), says("really done")])

    async def think(place: str) -> None:
        if place == "model answered" and len(bench.model.requests) == 1:
            await bench.say(e.Steered(by="ada", message="and the docs"))

    bench.model.point = think
    await bench.run(task())
    assert len(bench.model.requests) == 2
    assert "ada says: and the docs" in texts(bench.model.requests[1].messages)


async def test_a_brains_step_hears_the_output_of_the_steps_that_it_needs() -> None:
    found = ToolResult(ok=True, output="line 7 is wrong", exit=0)
    bench = Bench(Script("look", answers=[found]), answers=[says("done")])
    plan = [step("a", "look"), step("b", None, goal="mend it", needs=["a"])]
    state = await bench.run(task(*plan, model="test/model"))
    told = "\n".join(texts(bench.model.requests[0].messages))
    assert "mend it" in told and "line 7 is wrong" in told
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


# ---- several calls a turn ----------------------------------------------------------------


async def test_reads_of_one_turn_run_at_the_same_time_and_answer_in_their_order() -> None:
    bench = Bench(
        Script("first", answers=[30.0, 20.0]),
        Script("second", answers=[5.0]),
        answers=[asks("first", "second", "first"), says("done")],
    )
    await bench.run(task(tools=["first", "second"]))
    log = [type(x).__name__ for x in bench.of(e.CallIntended, e.CallReturned)]
    assert log == ["CallIntended"] * 3 + ["CallReturned"] * 3
    observed = [m for m in bench.model.requests[1].messages if m.role == "tool"]
    assert [m.call_id for m in observed] == ["use_1", "use_2", "use_3"]
    returned = [x.call_id for x in bench.of(e.CallReturned)]
    assert returned == ["work.t1.1", "work.t1.2", "work.t1.0"]


async def test_writes_wait_for_all_before_them_and_reads_behind_wait_for_them() -> None:
    order: list[str] = []

    def noted(name: str, effect: Effect) -> Script:
        return Script(name, effect, answers=[5.0] * 9, work=lambda call: order.append(call.call_id))

    look, write = noted("look", Effect.READ), noted("put", Effect.IDEMPOTENT)
    bench = Bench(look, write, answers=[asks("look", "put", "look", "put"), says("done")])
    await bench.run(task(tools=["look", "put"]))
    log = [type(x).__name__[4:] for x in bench.of(e.CallIntended, e.CallReturned)]
    assert log == ["Intended", "Returned"] * 4
    assert order == [f"work.t1.{n}" for n in range(4)]


async def test_a_crash_amid_parallel_reads_runs_only_what_had_no_result() -> None:
    quick = Script("quick")
    slow = Script("slow", answers=[FOREVER])
    bench = Bench(quick, slow, answers=[asks("slow", "quick", "slow"), says("done")])
    await bench.submit(task(tools=["quick", "slow"]))
    await bench.drive_and_die(10)
    state = await bench.drive()
    assert len(quick.calls) == 1
    assert [c.call_id for c in slow.calls].count("work.t1.0") == 2
    observed = [m for m in state.conversation.messages if m.role == "tool"]
    assert [m.call_id for m in observed] == ["use_1", "use_2", "use_3"]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_call_that_a_person_must_allow_takes_its_turn() -> None:
    bench = Bench(Script("look"), answers=[asks("look", "look"), says("done")])
    await bench.submit(task(tools=["look"], policy={"approvals": {"look": "ask"}}))
    await bench.drive_and_die(10)
    assert status_of(bench.state()) == (Status.WAITING, "approval")
    assert len(bench.of(e.ApprovalRequested)) == 1, "not both at once"
    await bench.say(e.ApprovalDecided(approval_id="a1", decision="approve", by="ada"))
    await bench.drive_and_die(10)
    assert len(bench.scripts["look"].calls) == 1
    await bench.say(e.ApprovalDecided(approval_id="a2", decision="deny", by="ada"))
    state = await bench.drive()
    assert [m.failed for m in state.conversation.messages if m.role == "tool"] == [False, True]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


# ---- a brain that gets it wrong ----------------------------------------------------------


async def test_junk_for_arguments_goes_back_with_what_was_said() -> None:
    bench = Bench(Script("look"), answers=[raw("look", '{"a": '), says("done")])
    await bench.run(task(tools=["look"]))
    observed = bench.model.requests[1].messages[3]
    assert observed.failed and "'{\"a\": '" in observed.text
    assert not bench.of(e.CallIntended)


async def test_three_answers_in_a_row_without_use_end_the_task_and_are_charged() -> None:
    empty = says("", tokens=50)
    bench = Bench(answers=[empty] * 9)
    state = await bench.run(task())
    status, reason = conclusion(bench)
    assert status is Status.FAILED and "could not be used" in reason and "empty" in reason
    assert len(bench.model.requests) == stuck.FORMAT_ERRORS_MAX
    assert state.usage.tokens == 150


async def test_an_answer_that_was_cut_is_no_claim_to_be_done() -> None:
    answer = ModelAnswer(message=Message(role="assistant", text="I will now"), stop="length")
    bench = Bench(answers=[answer, says("done")])
    await bench.run(task())
    assert len(bench.model.requests) == 2
    assert any("too long" in text for text in texts(bench.model.requests[1].messages))


async def test_a_tool_that_does_not_exist_is_named_with_the_nearest() -> None:
    bench = Bench(Script("look"), answers=[asks("lock"), says("done")])
    await bench.run(task(tools=["look"]))
    observed = bench.model.requests[1].messages[3]
    assert observed.failed and "did you mean 'look'?" in observed.text


async def test_a_brain_in_circles_is_told_once_and_stopped_the_second_time() -> None:
    bench = Bench(Script("look"), answers=[asks("look")] * 50)
    await bench.run(task(tools=["look"]))
    status, reason = conclusion(bench)
    assert status is Status.FAILED and "(stuck)" in reason and "same result 4 times" in reason
    assert len(bench.model.requests) == 2 * stuck.SAME_MAX
    nudges = [t for t in texts(bench.model.requests[-1].messages) if "in circles" in t]
    assert len(nudges) == 1


async def test_the_same_error_three_times_is_a_circle_too() -> None:
    no = Script("look", answers=[NO] * 50)
    answers = [says("", ("look", {"text": str(n)})) for n in range(50)]
    bench = Bench(no, answers=answers)
    await bench.run(task(tools=["look"]))
    assert len(bench.model.requests) == 2 * stuck.ERRORS_MAX


async def test_a_claim_without_any_work_is_never_believed() -> None:
    bench = Bench(judge=lambda files: False, answers=[says("it is done")] * 9)
    await bench.run(task())
    status, reason = conclusion(bench)
    assert status is Status.UNVERIFIED and reason.startswith("check_failed")
    assert len(bench.of(e.ReplanRequested)) == 2
    reasons = [t for t in texts(bench.model.requests[-1].messages) if "Verification failed" in t]
    assert len(reasons) == 2


# ---- faults, and the next model ----------------------------------------------------------

TWO = (ModelChoice(name="first", provider="a"), ModelChoice(name="second", provider="b"))


async def test_after_three_more_tries_the_next_model_is_asked() -> None:
    bench = Bench(answers=[gives_up("overload")] * 4)
    bench.model.models = TWO
    state = await bench.run(task())
    assert [r.model.name for r in bench.model.requests] == ["first"] * 4 + ["second"]
    assert [c.strategy for c in bench.of(e.RecoveryChosen)] == ["retry"] * 3 + ["alternative"]
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_what_a_provider_asks_for_is_waited_for() -> None:
    bench = Bench(answers=[gives_up("rate", 17.0)])
    await bench.run(task())
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [17_000]


async def test_a_rate_limit_without_another_model_is_queued_as_long_as_there_is_time() -> None:
    bench = Bench(answers=[gives_up("rate")] * 20)
    state = await bench.run(task(limits=Limits(seconds=300.0)))
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)][3:5] == [60_000, 60_000]
    assert state.conclusion is not None and "limits.seconds" in state.conclusion.reason


async def test_a_refused_key_goes_to_the_next_model_at_once() -> None:
    bench = Bench(answers=[gives_up("auth")])
    bench.model.models = TWO
    await bench.run(task())
    assert [r.model.name for r in bench.model.requests] == ["first", "second"]


async def test_a_fault_says_in_the_end_what_the_provider_said() -> None:
    bench = Bench(answers=[ModelFault(kind="auth", message="the key is refused")])
    await bench.run(task())
    status, reason = conclusion(bench)
    assert status is Status.FAILED and "the key is refused" in reason and "auth" in reason


# ---- planning ----------------------------------------------------------------------------

LONG = "Mend it. " * 200
PLAN = {
    "requirements": ["it is mended"],
    "steps": [
        {"id": "look", "goal": "find the cause", "needs": []},
        {"id": "mend", "goal": "mend it", "needs": ["look"]},
    ],
    "objectives": [{"id": "own", "command": "pytest -q"}],
}


def plan(**changes: object) -> ModelAnswer:
    return says(json.dumps({**PLAN, **changes}))


async def test_a_large_task_is_planned_by_one_structured_call() -> None:
    bench = Bench(answers=[plan(), says("found"), says("mended")])
    spec = msgspec.structs.replace(task(), goal=LONG)
    state = await bench.run(spec)
    first, second, third = bench.model.requests
    assert first.answer_schema is not None and second.answer_schema is None
    assert first.tools == second.tools, "the prefix stays"
    adopted = bench.of(e.PlanAdopted)[0]
    assert adopted.source == "model" and [s.id for s in adopted.steps] == ["look", "mend"]
    assert adopted.objectives == [], "given checks are not replaced"
    assert "mend it" in third.messages[-2].text
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_checks_of_a_models_own_are_worth_less() -> None:
    """Without given objectives the model proposes some: they are self_chosen."""
    bench = Bench(answers=[plan(), says("found"), says("mended")])
    state = await bench.run(task(objectives=[]))
    assert state.task.objectives == [
        Objective(id="own", check=Check(command="pytest -q"), origin="self_chosen")
    ]


async def test_a_plan_that_cannot_be_used_goes_back_and_in_the_end_one_step_must_do() -> None:
    bad = [
        says("I would rather not."),
        plan(steps=[{"id": "a", "goal": "x", "needs": ["b"]}]),
        says("{}"),
    ]
    bench = Bench(answers=[*bad, says("done")])
    state = await bench.run(msgspec.structs.replace(task(), goal=LONG))
    assert [r.answer_schema is None for r in bench.model.requests] == [False] * 3 + [True]
    told = "\n".join(texts(bench.model.requests[3].messages))
    assert "no JSON object" in told and "needs 'b', which is no step before it" in told
    assert bench.of(e.PlanAdopted)[0].source == "single"
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_fault_while_planning_is_recovered_like_any_other() -> None:
    bench = Bench(answers=[gives_up("overload"), plan(), says("a"), says("b")])
    state = await bench.run(msgspec.structs.replace(task(), goal=LONG))
    assert [c.delay_ms for c in bench.of(e.RecoveryChosen)] == [1000]
    assert bench.of(e.PlanAdopted)[0].source == "model"
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_crash_while_planning_asks_again_and_charges_both() -> None:
    bench = Bench(answers=[plan(), says("a"), says("b")])

    async def think(place: str) -> None:
        if place == "ask model" and not bench.model.requests:
            await anyio.sleep(60)

    bench.model.point = think
    await bench.submit(msgspec.structs.replace(task(), goal=LONG))
    await bench.drive_and_die(10)
    bench.model.point = lambda place: anyio.sleep(0)
    state = await bench.drive()
    assert len(bench.of(e.ModelCallSettled)) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert state.usage.reserved_tokens == 0


# ---- without a brain ---------------------------------------------------------------------


async def test_without_a_brain_a_task_waits_and_says_what_would_serve() -> None:
    bench = Bench()
    spec = msgspec.structs.replace(task(), model=None)
    state = await bench.run(spec)
    assert status_of(state) == (Status.WAITING, "brain")
    assert bench.of(e.BrainFound)[0].offers == ["name a model"]


async def test_a_waiting_task_can_be_given_a_model() -> None:
    bench = Bench()
    await bench.run(msgspec.structs.replace(task(), model=None))
    await bench.say(e.ResumeRequested(by="ada", model="test/model"))
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_a_new_owner_looks_again_for_a_brain() -> None:
    """A key may have been set meanwhile."""
    bench = Bench()
    await bench.run(msgspec.structs.replace(task(), model=None))
    await bench.drive()
    assert [x.kind for x in bench.of(e.BrainFound)] == ["none", "none"]


async def test_a_plan_without_gaps_needs_no_brain() -> None:
    bench = Bench(Script("look"))
    await bench.run(task(step("a", "look")))
    assert not bench.of(e.BrainFound)


async def test_a_connected_client_can_be_the_brain() -> None:
    bench = Bench(Script("look"))
    spec = task(tools=["look"], model="client")
    state = await bench.run(spec)
    assert status_of(state) == (Status.WAITING, "brain")
    use = ToolUse(id="c1", name="look", arguments={})
    await bench.say(e.ModelReplied(step_id="work", turn=1, text="", calls=[use], by="ide"))
    state = await bench.drive()
    assert len(bench.scripts["look"].calls) == 1
    assert status_of(state) == (Status.WAITING, "brain")
    await bench.say(e.ModelReplied(step_id="work", turn=2, text="done", calls=[], by="ide"))
    state = await bench.drive()
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert not bench.of(e.ModelCallSettled), "no owner's end charges a client's turn"


# ---- find_tools and recall ---------------------------------------------------------------


async def test_find_tools_brings_a_toolbelt_and_shows_its_tools() -> None:
    special = Script("special", toolbelt="extra", where="worker")
    bench = Bench(special, answers=[
        says("", ("find_tools", {"query": "something special"})), asks("special"), says("done"),
    ])  # fmt: skip
    await bench.run(task())
    assert "special" not in [t.name for t in bench.model.requests[0].tools]
    assert bench.of(e.StepEvaluated)[0].toolbelt == "extra"
    assert "special" in [t.name for t in bench.model.requests[1].tools]
    assert len(special.calls) == 1


async def test_recall_shows_what_was_cut_page_by_page() -> None:
    long = "".join(f"line {n}\n" for n in range(4_000))
    look = Script("look", answers=[ToolResult(ok=True, output=long, exit=0)])
    bench = Bench(look, answers=[
        asks("look"),
        says("", ("recall", {"ref": "work.t1.0", "start": 15_000})),
        says("", ("recall", {"ref": "work.t9.9"})),
        says("done"),
    ])  # fmt: skip
    state = await bench.run(task(tools=["look"]))
    cut, recalled, missing = (m for m in state.conversation.messages if m.role == "tool")
    assert "cut …]" in cut.text and len(cut.text) <= 10_000
    assert recalled.text.splitlines()[1:] == long[15_000:24_500].splitlines()
    assert missing.failed and "nothing is called 'work.t9.9'" in missing.text


# ---- compaction --------------------------------------------------------------------------


def history(turns: int, chars: int) -> Conversation:
    messages = [Message(role="user", text="Goal: x", ref="")]
    for n in range(turns):
        use = ToolUse(id=f"u{n}", name="look", arguments={"text": "z" * 50})
        messages += [
            Message(role="user", text="[status]", ref="status"),
            Message(role="assistant", text=f"turn {n}", calls=(use,), ref=f"work.t{n}"),
            Message(role="tool", text="o" * chars, call_id=f"u{n}", ref=f"work.t{n}.0"),
        ]
        if n % 10 == 3:
            messages.append(Message(role="user", text=f"ada says: obligation {n}"))
    return Conversation().with_messages(*messages)


def test_old_outputs_go_first_and_can_be_recalled_by_name() -> None:
    before = history(30, 5_000)
    found = compaction.choose(before)
    assert found is not None and found[0] == "outputs"
    after = found[1]
    assert compaction.size(after) < compaction.size(before) * 0.5
    cleared = [m for m in after.messages if m.role == "tool" and "recall" in m.text]
    assert len(cleared) == 30 - compaction.TURNS_KEPT
    assert '"work.t0.0"' in cleared[0].text


def test_what_binds_stays_byte_for_byte_whatever_is_cut() -> None:
    before = history(30, 100)
    found = compaction.choose(before)
    assert found is not None and found[0] == "turns"
    after = found[1].messages

    def binding(messages: Sequence[Message]) -> list[Message]:
        return [m for m in messages if m.role == "user" and m.ref == ""]

    assert binding(after) == binding(before.messages)
    newest = [m for m in before.messages if m.role == "assistant"][-compaction.TURNS_KEPT]
    assert after[after.index(newest) :] == before.messages[before.messages.index(newest) :]
    summary = next(m for m in after if m.ref == "summary")
    assert all(f"(work.t{n}.0)" in summary.text for n in range(24))


def test_a_second_compaction_keeps_the_first_ones_summary() -> None:
    once = compaction.compacted(history(30, 100), "turns")
    more = history(20, 100).messages[1:]
    twice = compaction.compacted(once.with_messages(*more), "turns")
    summaries = [m for m in twice.messages if m.ref == "summary"]
    assert len(summaries) == 1 and "(work.t0.0)" in summaries[0].text


async def test_a_conversation_that_fills_the_window_is_compacted_and_goes_on() -> None:
    small = ModelChoice(name="small", context_tokens=9_000, output_tokens_max=500)
    outputs = [ToolResult(ok=True, output=f"{n} " + "x" * 3_000, exit=0) for n in range(20)]
    answers = [says("", ("look", {"text": str(n)})) for n in range(20)]
    bench = Bench(Script("look", answers=list(outputs)), answers=[*answers, says("done")])
    bench.model.models = (small,)
    state = await bench.run(task(tools=["look"]))
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED
    assert bench.of(e.HistoryCompacted)
    for request in bench.model.requests:
        assert request.messages[0] == bench.model.requests[0].messages[0]
        assert sum(len(m.text) for m in request.messages) // 3 < 9_000


async def test_a_prompt_that_the_provider_finds_too_long_is_compacted_once() -> None:
    outputs = [ToolResult(ok=True, output=f"{n} " + "x" * 3_000, exit=0) for n in range(9)]
    answers = [says("", ("look", {"text": str(n)})) for n in range(9)]
    bench = Bench(
        Script("look", answers=list(outputs)),
        answers=[*answers, gives_up("context"), says("done")],
    )
    state = await bench.run(task(tools=["look"]))
    assert len(bench.of(e.HistoryCompacted)) == 1
    assert state.conclusion is not None and state.conclusion.status is Status.SUCCEEDED


async def test_the_providers_own_count_of_tokens_is_believed() -> None:
    counted = says("", "look")
    counted = ModelAnswer(
        message=counted.message, stop="calls", usage=ModelUsage(input=1_000, output=10)
    )
    bench = Bench(Script("look"), answers=[counted, says("done")])
    await bench.run(task(tools=["look"]))
    first, second = bench.of(e.ModelCallStarted)
    assert second.reserved_tokens < first.reserved_tokens, "the estimate was on the safe side"


# ---- what the repository says ------------------------------------------------------------


async def test_the_repositorys_notes_and_skills_stand_in_the_first_message() -> None:
    bench = Bench()
    files = {
        "a.py": "x",
        "AGENTS.md": "Run the tests with tox.",
        "skills/release/SKILL.md": "---\nname: release\ndescription: how to release\n---\n",
    }
    bench.workspaces = FakeWorkspaces(files)
    bench.verifier = FakeVerifier(bench.workspaces, lambda files: True)
    await bench.run(task())
    first = bench.model.requests[0].messages[0].text
    assert "Run the tests with tox." in first and "release" in first
