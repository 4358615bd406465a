"""Doing the steps of a publication: what the core asks for, through the `Publisher` port.

What goes wrong is an outcome, so that the core decides about it. The result that was certified is
pushed as it is; on another base the same checks run again first, on the tree of the new commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import anyio

from agent_runtime.errors import AgentRuntimeError, DiskFull, PublishFailed
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.calls import Performed
from agent_runtime.loop.hands import Hands
from agent_runtime.loop.outcomes import Outcome
from agent_runtime.loop.publishing import Publish, commit_message, replace
from agent_runtime.ports.publisher import PreparedBranch, Publisher, PublishOrder
from agent_runtime.report import report_of
from agent_runtime.report_page import markdown_of
from agent_runtime.types import BlobId, FailureKind, TreeId

BODY_CHARS_MAX = 60_000
"""A forge refuses a text of 65,536 characters."""
SECONDS_MAX = 2400.0
"""Of one step without its checks: a push of a large repository over a slow line."""

Verified = Callable[
    [Hands, TreeId, TreeId], Awaitable[tuple[e.VerificationEnded, Mapping[BlobId, bytes]]]
]
"""Runs the task's checks: (base, tree)."""


async def prepare(hands: Hands, verified: Verified) -> Performed:
    """Make the commit on the remote's base as it is now, and check it there if need be."""
    try:
        with anyio.fail_after(SECONDS_MAX):
            made = await _publisher(hands).prepare(await _order(hands))
        found: e.VerificationEnded | None = None
        blobs: Mapping[BlobId, bytes] = {}
        if made.packed is not None:
            # The sandbox of the task is dead: its working copy was looked at in the end.
            trees = sorted({made.base_tree, made.tree})
            await hands.ports.workspaces.unpack(hands.lease.task_id, trees, made.packed)
            found, blobs = await verified(hands, made.base_tree, made.tree)
            if found.tree != made.tree and found.ok:
                raise PublishFailed(
                    f"the checks saw tree {found.tree}, and the commit holds {made.tree}",
                    kind="failed",
                )
    except DiskFull:
        raise  # a full disk decides nothing: it goes on when there is room
    except (AgentRuntimeError, TimeoutError, OSError) as error:
        return _failed("prepare", error), {}
    prepared = e.PublicationPrepared(
        url=made.url,
        branch=made.branch,
        base=made.base,
        base_commit=made.base_commit,
        commit=made.commit,
        tree=made.tree,
        verification=found,
    )
    return prepared, blobs


async def publish(action: Publish, hands: Hands) -> Outcome:
    """Look whether the step is done, and do it if not."""
    publication = hands.state.publication
    assert publication is not None and publication.prepared is not None
    told = publication.prepared
    prepared = PreparedBranch(
        url=told.url,
        branch=told.branch,
        base=told.base,
        base_commit=told.base_commit,
        commit=told.commit,
        tree=TreeId(told.tree),
        base_tree=TreeId(""),
    )
    publisher = _publisher(hands)
    try:
        with anyio.fail_after(SECONDS_MAX):
            order = await _order(hands)
            if action.what == "push":
                found = await publisher.push(order, prepared)
                return e.PublicationDone(what="push", found=found)
            title = publication.spec.title or order.message.partition("\n")[0]
            body = await _body(hands)
            opened = await publisher.open_request(order, prepared, title=title, body=body)
    except DiskFull:
        raise
    except (AgentRuntimeError, TimeoutError, OSError) as error:
        return _failed(action.what, error)
    return e.PublicationDone(
        what="pull_request", found=opened.found, url=opened.url, number=opened.number
    )


def _publisher(hands: Hands) -> Publisher:
    publisher = hands.ports.publisher
    if publisher is None:
        raise PublishFailed("this installation cannot publish", kind="refused")
    return publisher


def _failed(what: e.PublicationStep, error: Exception) -> e.PublicationFailed:
    if isinstance(error, PublishFailed):
        return e.PublicationFailed(
            what=what,
            kind=error.kind,
            message=str(error),
            retry_after_seconds=error.retry_after_seconds,
            moved=error.moved,
        )
    said = f"it had no end within {SECONDS_MAX:g} s"
    kind: FailureKind = "transient" if isinstance(error, OSError) else "failed"
    return e.PublicationFailed(what=what, kind=kind, message=str(error) or said)


async def _order(hands: Hands) -> PublishOrder:
    state = hands.state
    workspace, found, publication = state.workspace, state.verification, state.publication
    assert publication is not None and state.conclusion is not None
    if workspace is None or found is None or state.task.workspace is None:
        raise PublishFailed("the task has no workspace, so it has no branch", kind="refused")
    patch = await hands.ports.store.get_blob(BlobId(found.patch_blob))
    return PublishOrder(
        task_id=hands.lease.task_id,
        repo=state.task.workspace.repo,
        ref=state.task.workspace.ref,
        spec=publication.spec,
        base_commit=workspace.base_commit,
        carried=bool(workspace.carried),
        tree=TreeId(found.tree),
        patch=patch,
        message=commit_message(state),
        at_us=state.created_at_us,
        ours=state.published,
    )


async def _body(hands: Hands) -> str:
    """The task's report. Whoever reviews it sees what was checked, and what was not."""
    rows = await hands.ports.store.load(hands.lease.task_id)
    events = [codec.decode(row) for row in rows]
    # As it is about to be: nobody reads there about a task that has not ended.
    state, publication = hands.state, hands.state.publication
    assert publication is not None
    publication = replace(publication, ended=e.PublicationEnded(ok=True))
    state = replace(state, ended=True, publication=publication)
    found, patch = state.verification, None
    if found is not None and found.tree:
        patch = await hands.ports.store.get_blob(BlobId(found.patch_blob))
    text = markdown_of(report_of(state, rows[: state.seq], events[: state.seq], patch))
    if len(text) > BODY_CHARS_MAX:
        text = f"{text[:BODY_CHARS_MAX]}\n\n(cut: `agent-runtime report` has all of it)\n"
    return text
