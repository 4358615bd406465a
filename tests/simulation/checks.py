"""What must hold after every life. Each check can fail: `test_mutations` shows it."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.evolve import evolve
from agent_runtime.loop.intend import call_digest
from agent_runtime.loop.journal import summarize
from agent_runtime.loop.outcomes import CallPrepared
from agent_runtime.loop.replay import replay
from agent_runtime.loop.state import State
from agent_runtime.messages import Message
from agent_runtime.types import Effect, Limits, Status
from tests.simulation.plans import Scene
from tests.simulation.world import TASK, Chances, Life, folded, live


def run_life(seed: int, chances: Chances | None = None, scene: Scene | None = None) -> Life:
    """Live one life and check everything that must hold."""
    life = live(seed, chances, scene)
    check_life(life)
    return life


def check_life(life: Life) -> None:
    """0 lost, 0 repeated, 0 unreported, 0 overshoot, the right tree, the same decisions again."""
    violations = life.world.account.violations
    assert not violations, violations[0]
    check_log(life)
    check_effects(life)
    check_keys(life)
    check_requests(life)
    check_approvals(life)
    check_budget(life)
    check_end(life)
    check_tree(life)
    check_conversation(life)
    check_egress(life)
    check_publication(life)
    check_replay(life)


def check_log(life: Life) -> None:
    """Nothing that was acknowledged is lost; the row of the task says what its log says."""
    rows, account = life.rows, life.world.account
    head = codec.check_chain(rows, task_id=TASK)
    for seq, digest in account.acknowledged.items():
        assert rows[seq - 1].hash == digest, f"lost: acknowledged event {seq}"
    stored = list(life.events)
    for fact in account.facts:
        assert fact in stored, f"lost: {fact}"
        stored.remove(fact)
    assert all(a.at_us <= b.at_us for a, b in pairwise(rows)), "time went back"
    state = folded(rows)
    assert state == life.state, "the driver's state is not the fold of its log"
    projected = life.world.shared.tasks[TASK].summary
    # Who submitted it is said once, when it is made.
    assert projected == summarize(state, head, submitted_by=projected.submitted_by)


def check_effects(life: Life) -> None:
    """No effect without an intent, none of `once` twice, and every call is accounted for."""
    runs = life.world.account.runs
    intents = {x.call_id: x for x in life.events if isinstance(x, e.CallIntended)}
    assert len(intents) == sum(isinstance(x, e.CallIntended) for x in life.events)
    assert set(runs) <= set(intents), "an effect without an intent"
    returned = {x.call_id: x for x in life.events if isinstance(x, e.CallReturned)}
    ends = {
        x.call_id: x.resolution
        for x in life.events
        if isinstance(x, e.CallResolved) and x.resolution != "rerun"
    }
    unknown = {x.call_id for x in life.events if isinstance(x, e.EffectUnknown)}
    for call_id, intent in intents.items():
        count = runs[call_id]
        if intent.effect in (Effect.ONCE, Effect.PROBE):
            assert count <= 1, f"repeated: {call_id} took effect {count} times"
        assert (call_id in returned) != (call_id in ends), f"unreported: {call_id} has no one end"
        assert (ends.get(call_id) == "unknown") == (call_id in unknown), f"unreported: {call_id}"
        match ends.get(call_id):
            case "happened":
                assert count, f"{call_id} did not happen"
            case "not_happened":
                assert not count, f"{call_id} did happen"
            case "dropped":
                assert intent.effect in (Effect.READ, Effect.WORKSPACE), f"{call_id} was dropped"
            case None if intent.effect not in (Effect.READ, Effect.WORKSPACE):
                ok = returned[call_id].ok
                assert count or not ok, f"the result of {call_id} is not true"
                # An idempotent call may fail after a run whose result was lost.
                assert ok or not count or intent.effect is Effect.IDEMPOTENT, (
                    f"{call_id} did happen"
                )
            case _:
                pass


def check_publication(life: Life) -> None:
    """One branch and one pull request, however often its owners died, and nothing else is told."""
    remote, publication = life.world.remote, life.state.publication
    assert len(remote.requests) <= 1, "a second pull request"
    prepared = [x for x in life.events if isinstance(x, e.PublicationPrepared)]
    assert set(remote.branches.values()) <= {x.commit for x in prepared}, "an unannounced commit"
    wanted = life.state.task.publish is not None
    succeeded = life.state.conclusion is not None and (
        life.state.conclusion.status is Status.SUCCEEDED
    )
    assert (publication is not None) == (wanted and succeeded)
    if publication is not None and publication.ended is not None and publication.ended.ok:
        assert publication.prepared is not None
        assert remote.branches == {publication.prepared.branch: publication.prepared.commit}
        assert len(remote.requests) == 1


def check_keys(life: Life) -> None:
    """One idempotency key is one intended effect: no two that differ share it."""
    returned = {x.call_id for x in life.events if isinstance(x, e.CallReturned)}
    seen: set[str] = set()
    for key, calls in life.world.account.keys.items():
        assert not seen & set(calls), f"a call ran under two keys: {calls}"
        seen |= set(calls)
        assert len({(tool, repr(args)) for tool, args in calls.values()}) == 1, f"{key}: {calls}"
        for earlier in list(calls)[:-1]:
            assert earlier not in returned, f"{key} was used again after the result of {earlier}"


def check_requests(life: Life) -> None:
    """What a client asked for is made once, as it was asked for, and has one end, or the task's."""
    requests = [x for x in life.events if isinstance(x, e.CallRequested)]
    names = [each.step_id for each in requests]
    assert len(set(names)) == len(names), "one name was taken for two calls"
    ends = Counter(
        x.step_id
        for x in life.events
        if isinstance(x, e.StepSucceeded | e.StepFailed | e.StepSkipped)
    )
    intents = [x for x in life.events if isinstance(x, e.CallIntended)]
    for asked in requests:
        assert ends[asked.step_id] <= 1, f"{asked.step_id} has ended {ends[asked.step_id]} times"
        for intent in intents:
            if intent.step_id == asked.step_id:
                assert (intent.tool, intent.arguments) == (asked.tool, asked.arguments)
    if requests and not any(isinstance(x, e.CancelRequested) for x in life.events):
        exhausted = any(isinstance(x, e.BudgetExhausted) for x in life.events)
        assert exhausted, "a session has ended, and nobody wanted that"


def check_approvals(life: Life) -> None:
    """Asked once, answered once, used once, for exactly what was asked, and in time."""
    open_asks: dict[str, e.ApprovalRequested] = {}
    asked: dict[str, e.ApprovalRequested] = {}
    granted: dict[str, e.ApprovalRequested] = {}
    policy = life.world.spec.policy.approvals
    for row, event in zip(life.rows, life.events, strict=True):
        match event:
            case e.Continued() | e.Forked():
                policy = event.spec.policy.approvals
                open_asks.clear()
                granted.clear()
            case e.ApprovalRequested():
                assert event.approval_id not in asked, "an approval id was used twice"
                assert all(o.step_id != event.step_id for o in open_asks.values()), "asked twice"
                if event.subject == "call":
                    assert all(
                        (g.step_id, g.digest) != (event.step_id, event.digest)
                        for g in granted.values()
                    ), "asked again for what was granted"
                asked[event.approval_id] = open_asks[event.approval_id] = event
            case e.ApprovalDecided():
                ask = open_asks.pop(event.approval_id, None)
                if ask and event.decision == "approve" and row.at_us < ask.expires_at_us:
                    granted[event.approval_id] = ask
            case e.ApprovalExpired():
                ask = open_asks.pop(event.approval_id)
                assert row.at_us >= ask.expires_at_us - 60_000_000, "it expired too soon"
            case e.CallIntended() if policy.get(event.tool, "allow") != "allow":
                assert policy[event.tool] == "ask", f"{event.tool} is denied"
                ask = granted.pop(event.approval_id, None)
                assert ask is not None, f"{event.call_id} runs without an approval"
                prepared = CallPrepared(
                    step_id=event.step_id,
                    call_id=event.call_id,
                    tool=event.tool,
                    arguments=event.arguments,
                    effect=event.effect,
                    tree_before=event.tree_before,
                )
                assert ask.digest == call_digest(prepared, life.state.task.policy), (
                    f"{event.call_id} is not what was asked"
                )
            case _:
                pass


def check_budget(life: Life) -> None:
    """Nothing is started beyond a run's limits, and no reservation is left open."""
    limits, exhausted, state = life.world.spec.limits, False, State(task_id=TASK)
    for row, event in zip(life.rows, life.events, strict=True):
        if isinstance(event, e.Continued):
            _check_usage(state, limits)
            limits, exhausted = event.spec.limits, False
        exhausted = exhausted or isinstance(event, e.BudgetExhausted)
        if isinstance(event, e.CallIntended | e.ModelCallStarted):
            assert not exhausted, "overshoot: a start after the end of the budget"
            assert state.usage.steps < limits.steps, "overshoot: limits.steps"
        if isinstance(event, e.ModelCallStarted):
            tokens = state.usage.tokens + state.usage.reserved_tokens
            assert tokens + event.reserved_tokens <= limits.tokens, "overshoot: limits.tokens"
            usd = state.usage.usd + state.usage.reserved_usd
            assert usd + event.reserved_usd <= limits.usd + 1e-9, "overshoot: limits.usd"
        state = evolve(state, event, row.at_us)
    _check_usage(life.state, limits)


def _check_usage(state: State, limits: Limits) -> None:
    usage = state.usage
    assert usage.steps <= limits.steps, "overshoot: limits.steps"
    # The world's model keeps to what was reserved for it.
    assert usage.tokens <= limits.tokens, "overshoot: limits.tokens"
    assert usage.usd <= limits.usd + 1e-9, "overshoot: limits.usd"
    assert usage.steps >= 0 and usage.running_us >= 0
    assert not usage.reserved_tokens and abs(usage.reserved_usd) < 1e-9, "a reservation is open"
    # Cleaning up, verifying and waiting before a retry are not cut short by the clock.
    assert usage.running_us <= limits.seconds * 1e6 + 60e6, "overshoot: limits.seconds"


def check_end(life: Life) -> None:
    """One terminal decision a run, its event last, nothing left alive, success only by proof."""
    assert isinstance(life.events[-1], e.TaskEnded)
    assert not life.world.sessions, "a sandbox is alive after the end"
    assert life.state.calls == {} and life.state.asking is None
    if life.world.spec.workspace is not None:
        assert TASK in life.world.workspaces.closed, "the working copy is still there"
    for events in runs_of(life):
        check_run_end(events)


def runs_of(life: Life) -> list[list[e.AnyEvent]]:
    """The events of each run; all but the first begin with `Continued`."""
    runs: list[list[e.AnyEvent]] = [[]]
    for event in life.events:
        if isinstance(event, e.Continued):
            assert isinstance(runs[-1][-1], e.TaskEnded), "continued before its end"
            runs.append([])
        runs[-1].append(event)
    return runs


def check_run_end(events: list[e.AnyEvent]) -> None:
    concluded = [x for x in events if isinstance(x, e.TaskConcluded)]
    assert len(concluded) == 1
    opened = any(isinstance(x, e.WorkspaceOpened) and x.path for x in events)
    kept = [x for x in events if isinstance(x, e.WorkKept)]
    assert bool(kept) is opened, "the last tree was not looked at"
    verified = [x for x in events if isinstance(x, e.VerificationEnded)]
    if concluded[0].status is Status.SUCCEEDED:
        assert verified and verified[-1].ok, "succeeded without a proof"
    cancelled = any(isinstance(x, e.CancelRequested) for x in events)
    assert cancelled or concluded[0].status is not Status.CANCELLED
    assert "plan_stuck" not in concluded[0].reason and "crash_loop" not in concluded[0].reason


def check_tree(life: Life) -> None:
    """The workspace is what the log says it is, and no half of a write is left."""
    world = life.world
    if TASK not in world.workspaces.files or life.state.workspace is None:
        return
    if any(isinstance(x, e.CallResolved) and x.resolution == "unknown" for x in life.events):
        if world.spec.workspace and world.spec.workspace.in_place:
            return  # the user's own directory is never rolled back, and the log says so
    text = world.workspaces.files[TASK]["a"]
    assert text.count("<") == text.count(">"), f"half a write is left: {text!r}"
    expected = life.state.workspace.base_tree
    intents = {x.call_id: x for x in life.events if isinstance(x, e.CallIntended)}
    for event in life.events:
        if isinstance(event, e.CallReturned) and event.tree_after:
            assert intents[event.call_id].tree_before == expected, "it met another tree"
            expected = event.tree_after
        if isinstance(event, e.WorkKept):
            assert event.tree == expected, "it kept another tree"
        if isinstance(event, e.CallResolved) and intents[event.call_id].tree_before:
            assert intents[event.call_id].tree_before == expected, "it met another tree"
    assert world.workspaces.tree_of(TASK) == expected, "the tree is not the log's"


def _check_messages(messages: Sequence[Message]) -> None:
    """What every provider wants: each call's observation right behind it, in order, once."""
    waiting: list[str] = []
    for message in messages:
        if message.role == "tool":
            assert waiting and waiting.pop(0) == message.call_id, "an observation of no call"
            continue
        assert not waiting, "a call without its observation"
        waiting = [use.id for use in message.calls]
    assert not waiting, "a call without its observation"
    assert messages[0].text.startswith("Goal: "), "the task is not the first message"
    assert messages[-1].ref == "status", "the newest message does not say where the task stands"


def check_conversation(life: Life) -> None:
    """The history is append-only, and a step that talks to the model has the task to itself."""
    asked = life.world.account.asked
    rewritten = 0
    for earlier, later in pairwise(asked):
        rewritten += later[: len(earlier)] != earlier
    compactions = sum(isinstance(event, e.HistoryCompacted) for event in life.events)
    assert rewritten <= compactions, "the history was rewritten"
    for messages in asked:
        _check_messages(messages)
    talking = ""
    for event in life.events:
        match event:
            case e.ModelCallStarted():
                assert talking in ("", event.step_id), "two conversations at once"
                talking = event.step_id
            case e.CallIntended():
                assert talking in ("", event.step_id), f"{event.call_id} began in a conversation"
            case (
                e.StepSucceeded(step_id=step_id)
                | e.StepFailed(step_id=step_id)
                | e.StepSkipped(step_id=step_id)
            ) if step_id == talking:
                talking = ""
            case e.PlanAdopted(source=source) if source != "unfinished":
                talking = ""  # a continuation's own plan gives the old one's steps up
            case _:
                pass


def check_egress(life: Life) -> None:
    """What left a sandbox is in the log: all of it, once, and under the call that did it."""
    logged: Counter[tuple[str, str]] = Counter()
    ended: set[str] = set()
    for event in life.events:
        match event:
            case e.EgressObserved():
                for entry in event.entries:
                    logged[entry.kind, entry.host] += entry.count
                    late = set(entry.source.split(", ")) & ended
                    assert entry.kind != "opened" or not late, f"late: {late} returned before"
            case e.CallReturned():
                ended.add(event.call_id)
            case _:
                pass
    told = Counter((record.kind, record.host) for record in life.world.record)
    assert logged == told, f"egress: {logged} in the log, {told} happened"


def check_replay(life: Life) -> None:
    """The recorded inputs, fed to the core in recorded order, give the recorded decisions."""
    found = replay(life.rows)
    assert found.difference is None, (
        f"decided differently at {found.difference.seq}: {found.difference.words}"
    )
    assert found.appends[-1][1] == found.inputs + found.decisions == len(life.rows)
