"""One tool call, from its preparation to its result, and what is done when there is none.

`prepare` changes nothing. `run` is only reached with the intent in the log. `resolve` is the effect
ledger: it proves the sandbox dead, then does what the call's effect class allows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace

import anyio
import anyio.lowlevel
import msgspec

from agent_runtime import schema
from agent_runtime.errors import (
    AgentRuntimeError,
    DeadlineExceeded,
    DiskFull,
    ResultLost,
    SandboxUnavailable,
    ToolRefused,
    UsageError,
    WorkerLost,
    WorkspaceError,
)
from agent_runtime.loop import events as e
from agent_runtime.loop import native
from agent_runtime.loop.actions import PrepareCall, ResolveCall, RunCall
from agent_runtime.loop.answering import answer
from agent_runtime.loop.approvals import decision_for, trust
from agent_runtime.loop.asking import effect_of, info_of
from agent_runtime.loop.discover import has_template, refusal
from agent_runtime.loop.forking import call_key
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.intend import call_digest
from agent_runtime.loop.outcomes import CallPrepared, Outcome
from agent_runtime.loop.recovery import OWNER_DIED
from agent_runtime.loop.state import CallState, State, StepState
from agent_runtime.ports.tools import AttachingTool, PreviewingTool, ProbingTool
from agent_runtime.redaction import Redactor
from agent_runtime.toolkit import cap
from agent_runtime.types import (
    BlobId,
    Effect,
    EffectPolicy,
    FailureKind,
    Json,
    StepStatus,
    TaskId,
    ToolCall,
    ToolInfo,
    ToolResult,
    TreeId,
    checked_result,
)

log = logging.getLogger(__name__)

Performed = tuple[Outcome, Mapping[BlobId, bytes]]

RENDER_SECONDS = 10.0
"""Deadline of filling one step's templates."""
GRACE_SECONDS = 5.0
"""What a tool that watches its own time-out has to report it, before the sandbox is killed."""
PROBE_SECONDS = 60.0
PREVIEW_SECONDS = 10.0
"""What a preview may take: the question is worth more than it."""
PREVIEW_CHARS_MAX = 20_000
"""Of a preview, head and tail: it stands in the log, and the exact arguments stand beside it."""
CHANGED_MAX = 500
"""Paths that a result names; the trees have them all."""


async def prepare(action: PrepareCall, hands: Hands) -> Outcome:
    """Condition, templates, permission, schema, effect, tree: everything before the intent."""
    step = hands.state.steps[action.step_id]
    try:
        if step.spec.when is not None and step.attempt == 0 and not await _condition(step, hands):
            return e.ConditionFalse(step_id=action.step_id)
        return await _prepared(action, step, hands)
    except UsageError as error:
        return _unprepared(action, "bad_input", str(error))
    except (WorkerLost, DeadlineExceeded) as error:
        await hands.end_worker()
        said = (await hands.redactor()).text(str(error))
        return _unprepared(action, "transient", f"while its templates were filled: {said}")
    except DiskFull:
        raise  # nothing is wrong with the step: the task stops, and goes on when there is room
    except SandboxUnavailable as error:
        # A service that does not come up is quoted in it, and has what the tools have.
        return _unprepared(action, "refused", (await hands.redactor()).text(str(error)))
    except WorkspaceError as error:
        return _unprepared(action, "refused", str(error))


async def _prepared(action: PrepareCall, step: StepState, hands: Hands) -> Outcome:
    name = step.tool
    assert name is not None
    task = hands.state.task
    info = info_of(name, hands.ports.toolbox)
    if info is None:
        near = schema.nearest(name, list(hands.state.tools))
        hint = f"; did you mean {near!r}?" if near else ""
        return _unprepared(action, "not_found", f"no tool is called {name!r}{hint}")
    if why := refusal(task, info):
        return _unprepared(action, "denied", why)
    arguments: Json = dict(step.args)
    # A model's arguments are data: only a plan's author writes templates.
    authored = step.spec.tool is not None and step.edited is None and not step.requested
    if authored and has_template(arguments):
        arguments = await _render(arguments, hands)
    if problems := schema.check(arguments, info.parameters):
        return _unprepared(action, "bad_input", f"{name}: " + "; ".join(problems))
    stated = None if step.alternative else step.spec.effect
    policy = EffectPolicy(network=task.policy.network, stated=stated)
    try:
        effect = stated or effect_of(info, arguments, policy, hands.ports.toolbox)
    except (Exception, SystemExit) as error:  # the border to a plug-in: it becomes data
        log.exception("tool %r cannot say what %r changes", name, arguments)
        return _unprepared(action, "internal", f"{name}: {type(error).__name__}: {error}")
    tree_before = ""
    if effect is not Effect.READ and info.where == "worker":
        tree_before = await hands.ports.workspaces.snapshot(_task_id(hands))
    prepared = CallPrepared(
        step_id=action.step_id,
        call_id=action.call_id,
        tool=name,
        arguments=arguments,
        effect=effect,
        tree_before=tree_before,
    )
    decision, rule = decision_for(task.policy, info, arguments)
    if decision != "ask" or trust(name, rule) in hands.state.trusted:
        return prepared
    if step.granted is not None and step.granted[1] == call_digest(prepared, task.policy):
        return prepared
    return replace(prepared, preview=await _preview(info, prepared, hands))


async def _preview(info: ToolInfo, prepared: CallPrepared, hands: Hands) -> str:
    """What a call would change, for the person who is asked; a note in brackets if that fails."""
    if info.name in native.NAMES:
        return ""
    tool = hands.ports.toolbox.get(info.name)
    if not isinstance(tool, PreviewingTool):
        return ""
    state = hands.state
    call = ToolCall(
        call_id=prepared.call_id,
        tool=info.name,
        arguments=prepared.arguments,
        workspace=state.workspace.mount if state.workspace else "",
        task_id=state.task_id,
        agent_id=state.task_id,
        protected=state.protected,
        timeout_seconds=PREVIEW_SECONDS,
        memory={"goal": state.task.goal},
    )
    try:
        redactor = await hands.redactor()
    except WorkspaceError as error:  # a secret cannot be read just now: nothing is shown then
        return f"[no preview: {error}]"
    try:
        if info.where == "worker":
            session = await hands.worker()
            text = await session.preview(info, call, deadline_seconds=PREVIEW_SECONDS)
        else:
            with anyio.fail_after(PREVIEW_SECONDS):
                text = str(await tool.preview(call))
    except WorkerLost as error:
        await hands.end_worker()
        text = f"[no preview: {error}]"
    except TimeoutError:
        text = f"[no preview: it was not made within {PREVIEW_SECONDS:g} s]"
    except AgentRuntimeError as error:
        text = f"[no preview: {error}]"
    except (Exception, SystemExit) as error:  # the border to a plug-in: a note to the person
        log.exception("the preview of tool %r failed for call %s", info.name, prepared.call_id)
        text = f"[no preview: {error or type(error).__name__}]"
    # Before it is cut: half a secret is one, too.
    return cap(redactor.text(text), PREVIEW_CHARS_MAX).encode("utf-8", "replace").decode()


def _unprepared(action: PrepareCall, kind: FailureKind, message: str) -> e.PreparationFailed:
    return e.PreparationFailed(step_id=action.step_id, kind=kind, message=message)


async def _condition(step: StepState, hands: Hands) -> bool:
    text = step.spec.when or ""
    if "{{" not in text:
        text = "{{ " + text + " }}"
    value = await _render(text, hands)
    if isinstance(value, str):
        return value.strip().lower() not in ("", "false", "0", "no", "none")
    return bool(value)


async def _render(template: Json, hands: Hands) -> Json:
    session = await hands.worker()
    variables = {"steps": _step_results(hands, str(template)), "goal": hands.state.task.goal}
    return await session.render(template, variables, deadline_seconds=RENDER_SECONDS)


def _step_results(hands: Hands, text: str) -> dict[str, Json]:
    """Results of the steps that a template may mean; a fallback's stands for its owner's."""
    results: dict[str, Json] = {}
    for step_id, step in hands.state.steps.items():
        standing = step
        if step.status is StepStatus.FAILED and step.spec.fallback:
            standing = hands.state.steps[step.spec.fallback]
        if step_id in text and standing.status is StepStatus.DONE and standing.result:
            found = standing.result
            results[step_id] = {"output": found.output, "exit": found.exit, "ok": found.ok}
    return results


# ---- running -----------------------------------------------------------------------------


async def run(action: RunCall, hands: Hands) -> Performed:
    """Run an intended call. Whatever a tool does wrong is data; no result is `CallLost`."""
    intent = hands.state.calls[action.call_id].intent
    if intent.tool in native.NAMES:
        return await _returned(intent, await answer(intent, hands), hands, sandbox="")
    info = hands.ports.toolbox.find(intent.tool)
    if info is None:
        missing = f"tool {intent.tool!r} is not installed any more"
        return e.CallReturned(call_id=action.call_id, ok=False, output=missing,
                              kind="not_found"), {}  # fmt: skip
    try:
        call = await _tool_call(action, intent, hands)
        if info.toolbelt in hands.state.toolbelts:
            await hands.use_toolbelt(info.toolbelt)
        result = await _execute(info, call, hands, action.seconds)
    except (DeadlineExceeded, TimeoutError) as error:
        await hands.end_worker()
        message = str(error) or f"no answer within {action.seconds:g} s"
        return e.CallLost(call_id=action.call_id, reason="timeout", message=message), {}
    except (WorkerLost, ResultLost) as error:
        await hands.end_worker()
        said = cap((await hands.redactor()).text(str(error)), 2000)
        return e.CallLost(call_id=action.call_id, reason="worker_died", message=said), {}
    except DiskFull as error:
        # Nothing of the call has run, and its intent is stored: it must have a result.
        result = ToolResult(ok=False, kind="transient", output=str(error))
    except AgentRuntimeError as error:
        # The sandbox or a module did not start: nothing of the call has run.
        result = ToolResult(ok=False, kind="refused", output=str(error))
    if result.kind == "timeout":
        # The tool ended its own process; what it left half-done is the effect ledger's business.
        if intent.effect is not Effect.READ:
            await hands.end_worker()
        said = (await hands.redactor()).text(result.output)
        message = cap(said, 2000) or f"it timed out after {action.seconds:g} s"
        return e.CallLost(call_id=action.call_id, reason="timeout", message=message), {}
    kind = hands.ports.sandbox.name if info.where == "worker" else ""
    opened = hands.state.workspace
    another = kind if opened is not None and opened.sandbox not in ("", kind) else ""
    return await _returned(intent, result, hands, sandbox=another)


async def _execute(info: ToolInfo, call: ToolCall, hands: Hands, seconds: float) -> ToolResult:
    if info.where == "worker":
        session = await hands.worker()
        with hands.egress.during(call.call_id):
            return await session.call(info, call, deadline_seconds=seconds + GRACE_SECONDS)
    tool = hands.ports.toolbox.get(info.name)
    with anyio.CancelScope(deadline=anyio.current_time() + seconds):
        try:
            return checked_result(info.name, await tool.execute(call))
        except ToolRefused as error:
            return ToolResult(ok=False, kind="refused", output=str(error), paths=error.paths)
        except (TimeoutError, ResultLost):
            raise
        except anyio.get_cancelled_exc_class() as error:
            # Ours goes on up. Another is the tool's own, such as a future that somebody cancelled.
            await anyio.lowlevel.checkpoint_if_cancelled()
            return _defect(info, call, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in: it becomes data
            return _defect(info, call, error)
    raise TimeoutError


def _redacted(result: ToolResult, redactor: Redactor) -> ToolResult:
    """The same without secrets: from here on it is stored and shown."""
    if not redactor:
        return result
    data = result.data
    if data is not None:
        data = redactor.json(msgspec.json.decode(msgspec.json.encode(data, enc_hook=str)))
    return replace(
        result,
        output=redactor.text(result.output),
        raw=None if result.raw is None else redactor.redact(result.raw),
        data=data,
    )


def _defect(info: ToolInfo, call: ToolCall, error: BaseException) -> ToolResult:
    log.error("tool %r failed in call %s", info.name, call.call_id, exc_info=error)
    message = f"{info.name!r} failed with {type(error).__name__}: {error}"
    return ToolResult(ok=False, kind="internal", output=message)


async def _returned(
    intent: e.CallIntended, result: ToolResult, hands: Hands, *, sandbox: str
) -> Performed:
    blobs: dict[BlobId, bytes] = {}
    result = _redacted(result, await hands.redactor())
    output = cap(result.output)
    blob_id = ""
    full = result.raw if result.raw is not None else result.output.encode("utf-8", "replace")
    if result.raw is not None or output != result.output:
        blob_id = hashlib.sha256(full).hexdigest()
        blobs[BlobId(blob_id)] = full
    tree_after, changed = "", list[str]()
    if intent.tree_before:
        before = TreeId(intent.tree_before)
        workspaces, task_id = hands.ports.workspaces, _task_id(hands)
        try:
            tree_after = after = await workspaces.snapshot(task_id)
            if after != before:
                changed = [c.path for c in await workspaces.changes(task_id, before, after)]
        except (WorkspaceError, OSError) as error:
            # What came back is known and is not lost because the tree cannot be read just now.
            log.warning("no tree after call %s: %s", intent.call_id, error)
    returned = e.CallReturned(
        call_id=intent.call_id,
        ok=result.ok,
        output=_unicode(output),
        exit=result.exit,
        kind=result.kind or ("" if result.ok else "failed"),
        output_blob=blob_id,
        output_bytes=len(full),
        tree_after=tree_after,
        changed=changed[:CHANGED_MAX],
        paths=list(result.paths),
        data=result.data,
        sandbox=sandbox,
    )
    return returned, blobs


def _unicode(text: str) -> str:
    """`text` itself, unless it holds what no log can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


async def _tool_call(action: RunCall, intent: e.CallIntended, hands: Hands) -> ToolCall:
    state = hands.state
    env = state.environment.env if state.environment else state.task.environment.env
    step = state.steps[intent.step_id]
    return ToolCall(
        call_id=intent.call_id,
        tool=intent.tool,
        arguments=intent.arguments,
        workspace=state.workspace.mount if state.workspace else "",
        task_id=state.task_id,
        agent_id=state.task_id,
        idempotency_key=_idempotency_key(state, state.calls[intent.call_id], step),
        protected=state.protected,
        env={**env, **await hands.granted()},
        timeout_seconds=action.seconds,
        memory={"goal": state.task.goal},
    )


def _idempotency_key(state: State, call: CallState, step: StepState) -> str:
    """See `forking.step_key`. A fork keeps the parent's name where that may have been used."""
    key = call_key(step, call)
    return f"{state.keys.get(key, state.task_id)}/{key}"


# ---- the effect ledger -------------------------------------------------------------------


async def resolve(action: ResolveCall, hands: Hands) -> e.CallResolved:
    """What can be known about a call without a result; its sandbox is proven dead first."""
    call = hands.state.calls[action.call_id]
    intent = call.intent
    await hands.end_worker()
    await hands.ports.sandbox.reap(hands.state.task_id)

    def resolved(resolution: e.Resolution, message: str = "") -> e.CallResolved:
        text = message or call.message or OWNER_DIED
        return e.CallResolved(
            call_id=action.call_id,
            resolution=resolution,
            message=text,
        )

    repeat: e.Resolution = "rerun" if action.again else "dropped"
    match intent.effect:
        case Effect.READ:
            return resolved(repeat)
        case Effect.WORKSPACE:
            if hands.in_place or not intent.tree_before:
                return resolved("unknown", "the user's own directory is never rolled back")
            try:
                await hands.ports.workspaces.restore(_task_id(hands), TreeId(intent.tree_before))
            except DiskFull:
                raise  # it can still be rolled back when there is room
            except (WorkspaceError, OSError) as error:
                return resolved("unknown", f"the workspace could not be rolled back: {error}")
            return resolved(repeat)
        case Effect.IDEMPOTENT:
            # Under the same key: the receiver recognises it.
            return resolved("rerun" if action.again else "unknown")
        case Effect.TASK:
            if not action.again:
                return resolved("unknown")
            if not await _attached(intent, action, hands):
                return resolved("unknown", "it may be running elsewhere, under an id nobody knows")
            return resolved("rerun")
        case Effect.PROBE:
            happened = await _probe(intent, action, hands)
            if happened is None:
                return resolved("unknown", "its probe could not tell")
            if happened:
                return resolved("happened", "its probe found that it had happened")
            return resolved("rerun" if action.again else "not_happened")
        case Effect.ONCE:
            return resolved("unknown")


async def _attached(intent: e.CallIntended, action: ResolveCall, hands: Hands) -> bool:
    """Does a daemon tool know what became of a call? One that cannot say recognises its calls."""
    info = hands.ports.toolbox.find(intent.tool)
    if info is None or info.where != "daemon":
        return True
    tool = hands.ports.toolbox.get(intent.tool)
    if not isinstance(tool, AttachingTool):
        return True
    look = RunCall(action.call_id, 0, PROBE_SECONDS)
    try:
        with anyio.fail_after(PROBE_SECONDS):
            return await tool.attached(await _tool_call(look, intent, hands)) is True
    except (Exception, SystemExit):  # the border to a plug-in: not knowing is an answer
        log.exception("tool %r cannot attach to call %s", intent.tool, intent.call_id)
        return False


async def _probe(intent: e.CallIntended, action: ResolveCall, hands: Hands) -> bool | None:
    """Ask a daemon tool's probe; one that fails or takes too long could not tell."""
    info = hands.ports.toolbox.find(intent.tool)
    if info is None or info.where != "daemon":
        return None
    tool = hands.ports.toolbox.get(intent.tool)
    if not isinstance(tool, ProbingTool):
        return None
    look = RunCall(action.call_id, 0, PROBE_SECONDS)
    try:
        with anyio.fail_after(PROBE_SECONDS):
            happened = await tool.probe(await _tool_call(look, intent, hands))
            return happened if isinstance(happened, bool) else None
    except (Exception, SystemExit):  # the border to a plug-in: not knowing is an answer
        log.exception("the probe of tool %r failed for call %s", intent.tool, intent.call_id)
        return None


def _task_id(hands: Hands) -> TaskId:
    return hands.lease.task_id
