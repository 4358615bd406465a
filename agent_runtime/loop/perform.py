"""Doing one action: the shell's side of every order that the core can give.

Returns what came back and the blobs it names. Operating errors become outcomes here, so that the
core decides about them; only the log's own errors go through.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import assert_never

import anyio
import msgspec

from agent_runtime.errors import (
    AgentRuntimeError,
    DiskFull,
    NotFound,
    PluginError,
    SandboxUnavailable,
    SetupFailed,
    WorkspaceError,
)
from agent_runtime.loop import actions as a
from agent_runtime.loop import asking, calls, publication
from agent_runtime.loop import events as e
from agent_runtime.loop.analyze import analyze
from agent_runtime.loop.budget import seconds_left
from agent_runtime.loop.calls import Performed
from agent_runtime.loop.discover import discover
from agent_runtime.loop.grades import grade_of
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.outcomes import BrainLooked, Outcome
from agent_runtime.loop.project_notes import is_note, is_skill, opening_block
from agent_runtime.loop.publishing import PreparePublication, Publish
from agent_runtime.loop.state import may_think
from agent_runtime.ports.sandbox import Probe
from agent_runtime.ports.verifier import CheckOutcome
from agent_runtime.ports.workspaces import FoundFiles
from agent_runtime.resources import described
from agent_runtime.types import BlobId, TreeId
from agent_runtime.verdicts import Seen, TestsSeen, stored

log = logging.getLogger(__name__)

Blobs = Mapping[BlobId, bytes]

EMPTY_TREE = TreeId("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
"""Git's id of the tree without entries."""
CHANGED_MAX = 2000
NOTES_MAX = 200
"""Files for agents that are looked into: a repository of a thousand packages may have as many."""
NOTE_BYTES_MAX = 100_000


async def perform(action: a.Action, hands: Hands) -> Performed:
    """Do `action` and return its outcome and the blobs that belong to it."""
    match action:
        case a.OpenWorkspace():
            if hands.state.task.workspace is not None:
                # Before anything is made. Not an outcome: that there is no sandbox here does not
                # decide about the task, which goes on where there is one.
                await hands.ports.sandbox.probe()
            return await _guarded(_open_workspace(hands))
        case a.PrepareEnvironment():
            return await _prepare_environment(hands)
        case a.Analyze():
            return await _guarded(_analyze(hands))
        case a.DiscoverTools():
            analysis = hands.state.analysis
            facts = analysis.facts if analysis is not None else {}
            return discover(hands.state.task, hands.ports.toolbox, facts), {}
        case a.ActivateToolbelt(toolbelt):
            return await _activate(toolbelt, hands), {}
        case a.PrepareCall():
            return await calls.prepare(action, hands), {}
        case a.RunCall():
            return await calls.run(action, hands)
        case a.ResolveCall():
            return await calls.resolve(action, hands), {}
        case a.WaitTimer():
            return await _wait(action, hands), {}
        case a.FindBrain(_, model):
            return BrainLooked(await asking.find_brain(hands), model), {}
        case a.AskModel():
            return await asking.ask(action, hands), {}
        case a.Verify():
            return await _verify(hands)
        case a.KeepWork():
            return await _keep_work(hands), {}
        case PreparePublication():
            return await publication.prepare(hands, _verified)
        case Publish():
            return await publication.publish(action, hands), {}
        case a.CleanUp():
            return e.CleanedUp(problems=await hands.clean_up()), {}
        case _:
            assert_never(action)


async def _guarded(opening: Coroutine[None, None, Outcome]) -> Performed:
    """Task-wide trouble is an outcome: error handling decides."""
    try:
        return await opening, {}
    except DiskFull:
        raise  # a full disk does not decide about a task: it goes on when there is room
    except SetupFailed as error:
        return e.InitiationFailed(kind="failed", message=str(error)), {}
    except SandboxUnavailable as error:
        return e.InitiationFailed(kind="refused", message=str(error)), {}
    except (WorkspaceError, NotFound) as error:
        return e.InitiationFailed(kind="not_found", message=str(error)), {}
    except OSError as error:
        return e.InitiationFailed(kind="transient", message=f"{type(error).__name__}: {error}"), {}


async def _open_workspace(hands: Hands) -> Outcome:
    task = hands.state.task
    if task.workspace is None:
        return e.WorkspaceOpened()
    earlier, left = hands.state.workspace, hands.left
    opened = await hands.ports.workspaces.open(
        hands.lease.task_id, task.workspace, disk=hands.disk, left=left
    )
    probe = await hands.ports.sandbox.probe()
    return e.WorkspaceOpened(
        path=opened.path,
        mount=opened.mount,
        base_commit=opened.base_commit,
        base_tree=opened.base_tree,
        branch=opened.branch,
        # Of a continued task the first run has carried them over.
        carried=list(opened.carried if left is None or earlier is None else earlier.carried),
        notes=list(opened.notes),
        sandbox=probe.name,
        limits=_limits(hands, probe, opened.disk),
    )


def _limits(hands: Hands, probe: Probe, disk: str) -> dict[str, str]:
    """Which limits hold, and by what means."""
    said = described(hands.limits)
    limits = {name: f"{said[name]}, {means}" for name, means in probe.limits.items()}
    return {**limits, "disk": disk or "not limited"}


async def _prepare_environment(hands: Hands) -> Performed:
    """Setup's own output is kept: nobody can find out later why an environment is as it is."""
    blobs: dict[BlobId, bytes] = {}

    async def prepare() -> Outcome:
        limit = hands.state.task.limits.seconds
        with anyio.move_on_after(max(seconds_left(hands.state), 0.0)) as scope:
            made = await hands.prepare_environment()
        if scope.cancelled_caught:
            raise SetupFailed(
                f"budget_exhausted: limits.seconds is {limit:g}, and the environment's setup was "
                "not over by then; give the task more, or its setup less to do"
            )
        return e.EnvironmentPrepared(
            environment=made.environment,
            cached=made.cached,
            seconds=round(made.seconds, 3),
            output_blob=_keep(made.output, blobs) if made.output else "",
            notes=list(made.notes),
        )

    outcome, _ = await _guarded(prepare())
    return outcome, blobs


async def _analyze(hands: Hands) -> Outcome:
    workspace, task = hands.state.workspace, hands.state.task
    if workspace is None or not workspace.base_tree:
        return analyze(task, [])
    base = TreeId(workspace.base_tree)
    found = await hands.ports.workspaces.changes(hands.lease.task_id, EMPTY_TREE, base)
    paths = [change.path for change in found]
    notes = await _project_notes(hands, base, paths) if may_think(task) else ""
    return analyze(task, paths, project_notes=notes)


async def _project_notes(hands: Hands, tree: TreeId, paths: Sequence[str]) -> str:
    """What the repository tells agents, for the first message; without the task's secrets."""
    found = [path for path in paths if is_note(path) or is_skill(path)]
    # Those at the top first: they speak for all of the repository.
    wanted = sorted(found, key=lambda path: (path.count("/"), path))[:NOTES_MAX]
    if not wanted:
        return ""
    read = await hands.ports.workspaces.contents(hands.lease.task_id, tree, wanted)
    texts = [
        (path, data[:NOTE_BYTES_MAX].decode("utf-8", "replace"))
        for path, data in read.items()
        if data is not None and b"\0" not in data
    ]
    return (await hands.redactor()).text(opening_block(texts))


async def _activate(toolbelt: str, hands: Hands) -> Outcome:
    try:
        names = await hands.use_toolbelt(toolbelt)
    except (NotFound, PluginError) as error:
        return e.ToolbeltFailed(toolbelt=toolbelt, message=str(error))
    return e.ToolbeltActivated(toolbelt=toolbelt, tools=names)


async def _wait(action: a.WaitTimer, hands: Hands) -> Outcome:
    if action.until_us:
        # Wall time may jump either way: look again at least once a minute.
        while (left := (action.until_us - hands.ports.clock.now_us()) / 1e6) > 0:
            await anyio.sleep(min(left, 60.0))
    else:
        await anyio.sleep(action.delay_ms / 1000)
    return e.TimerFired(timer=action.timer)


async def _keep_work(hands: Hands) -> Outcome:
    """The last tree and the artifacts; every process of the task is dead first."""
    state, ports, task_id = hands.state, hands.ports, hands.lease.task_id
    patterns = [artifact.path for artifact in state.task.artifacts]
    tree = ""
    try:
        await hands.end_worker()
        await ports.sandbox.reap(state.task_id)
        tree = await ports.workspaces.snapshot(task_id)
        found = FoundFiles()
        if patterns:
            limits = ports.artifact_limits
            found = await ports.workspaces.find(task_id, tree, patterns, limits=limits)
    except (AgentRuntimeError, OSError) as error:
        if isinstance(error, DiskFull) and state.conclusion is None:
            raise  # the task goes on when there is room; one that ends may give its room back
        why = f"the workspace could not be read: {error}"
        return e.WorkKept(tree=tree, missing=patterns, left_out=[why])
    return e.WorkKept(
        tree=tree,
        artifacts=[
            e.Artifact(
                path=file.path, bytes=file.bytes, sha256=file.sha256, executable=file.executable
            )
            for file in found.files
        ],
        missing=list(found.missing),
        left_out=list(found.left_out),
    )


async def _verify(hands: Hands) -> Performed:
    """Every process of the task is dead first; then the checks run on a clean checkout."""
    state, ports, task_id = hands.state, hands.ports, hands.lease.task_id
    await hands.end_worker()
    workspace = state.workspace
    if workspace is None or not workspace.path:
        return _nothing_verified("no_workspace: a task without a repository has no branch"), {}
    try:
        await ports.sandbox.reap(state.task_id)
        base = TreeId(workspace.base_tree)
        kept = state.kept.tree if state.kept is not None else ""
        tree = TreeId(kept) if kept else await ports.workspaces.snapshot(task_id)
        if state.task.artifacts:
            patterns = [artifact.path for artifact in state.task.artifacts]
            tree = await ports.workspaces.without_ignored(
                task_id, tree, base=base, patterns=patterns
            )
        return await _verified(hands, base, tree)
    except DiskFull:
        raise
    except (WorkspaceError, SandboxUnavailable, AgentRuntimeError, OSError) as error:
        return _nothing_verified(f"verification_failed: {error}"), {}


async def _verified(hands: Hands, base: TreeId, tree: TreeId) -> tuple[e.VerificationEnded, Blobs]:
    """How the checks end on `tree`, and how they ended on `base`."""
    state, ports, task_id = hands.state, hands.ports, hands.lease.task_id
    found = await ports.verifier.verify(
        task_id,
        objectives=state.task.objectives,
        base=base,
        tree=tree,
        protected=state.protected,
        sandbox=ports.sandbox,
        furnished=hands.furnished,
    )
    patch = await ports.workspaces.patch(task_id, base, found.tree)
    changed = [c.path for c in await ports.workspaces.changes(task_id, base, found.tree)]
    blobs: dict[BlobId, bytes] = {}
    checks = [_check_result(check, blobs) for check in found.checks]
    ok = found.ok and bool(checks)
    verified = e.VerificationEnded(
        ok=ok,
        grade=grade_of(checks) if ok else "",
        tree=found.tree,
        base_tree=base,
        checks=checks,
        protected_changed=list(found.protected_changed),
        suspects=list(found.suspects),
        patch_blob=_keep(patch, blobs),
        patch_bytes=len(patch),
        changed=changed[:CHANGED_MAX],
        message="" if found.checks else "no_objectives: nothing says when this task is done",
        sandbox=ports.sandbox.name,
    )
    return verified, blobs


def _check_result(check: CheckOutcome, blobs: dict[BlobId, bytes]) -> e.CheckResult:
    before = check.before
    return e.CheckResult(
        id=check.id,
        command=check.command,
        expected_exit=check.expected_exit,
        exit=check.exit,
        ok=check.ok,
        passed=check.passed,
        min_passed=check.min_passed,
        ran=check.ran,
        output=check.output,
        reason=check.reason,
        flaky=check.flaky,
        origin=check.origin,
        tests=_tests(check.seen, blobs),
        compared=check.compared,
        countered=list(check.countered),
        before=None
        if before is None
        else e.Baseline(
            exit=before.exit,
            ok=before.ok,
            passed=before.passed,
            ran=before.ran,
            reason=before.reason,
            tests=_tests(before.seen, blobs),
        ),
    )


def _tests(seen: Seen, blobs: dict[BlobId, bytes]) -> TestsSeen:
    tests, names = stored(seen)
    return msgspec.structs.replace(tests, blob=_keep(names, blobs)) if names else tests


def _nothing_verified(message: str) -> e.VerificationEnded:
    return e.VerificationEnded(
        ok=False,
        tree="",
        base_tree="",
        checks=[],
        protected_changed=[],
        patch_blob="",
        patch_bytes=0,
        changed=[],
        message=message,
    )


def _keep(data: bytes, blobs: dict[BlobId, bytes]) -> str:
    blob_id = BlobId(hashlib.sha256(data).hexdigest())
    blobs[blob_id] = data
    return blob_id
