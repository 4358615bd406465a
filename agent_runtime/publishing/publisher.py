"""The `Publisher` of this machine: `branches` with the credentials of `hosts`, then a forge."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

from agent_runtime.errors import DiskFull, PublishFailed, UsageError, WorkspaceError
from agent_runtime.ports.publisher import OpenedRequest, PreparedBranch, PublishOrder
from agent_runtime.publishing.addresses import GitAddress
from agent_runtime.publishing.branches import Branches
from agent_runtime.publishing.hosts import GitHosts
from agent_runtime.types import TaskId, TaskSpec
from agent_runtime.workspaces.files import remove_path
from agent_runtime.workspaces.git import Git
from agent_runtime.workspaces.remotes import Access
from agent_runtime.workspaces.source import UPLOAD, Local, locate, origin_of

T = TypeVar("T")
_THREADS_MAX = 8
"""Of our own: a slow push must not keep other users of worker threads waiting."""
_TASK_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class GitPublisher:
    """Keeps `<state_dir>/publishing/<task id>`, a bare repository, until the task is forgotten."""

    def __init__(self, state_dir: str, hosts: GitHosts) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self._root = os.path.join(self._state_dir, "publishing")
        self._git = Git(os.path.join(self._root, ".git-home"))
        self._hosts = hosts
        self._limiter: anyio.CapacityLimiter | None = None

    # -- the port --

    async def check(self, task: TaskSpec) -> None:
        """Refuse what could not be published as things stand. See `Publisher.check`.

        Whoever waits an hour for a branch must not learn then that it has nowhere to go.
        """
        publish, workspace = task.publish, task.workspace
        if publish is None:
            return
        if workspace is None:
            raise UsageError("publish: the task has no workspace, so it has no branch")

        def run() -> None:
            try:
                url = self._url(workspace.repo, publish.push)
                self._hosts.check(url)
                address = self._hosts.parse(url)
            except (WorkspaceError, PublishFailed) as error:
                raise UsageError(f"publish.push: {error}") from error
            if publish.pr == "none":
                return
            if not self._hosts.forge_of(address):
                raise UsageError(f"publish.pr: {_no_forge(address)}")
            if not self._hosts.may_have_token(address):
                raise UsageError(f"publish.pr: {_no_token(address)}")

        await self._in_thread(run)

    async def prepare(self, order: PublishOrder) -> PreparedBranch:
        """Make the commit on the newest base. See `Publisher.prepare`."""

        def run() -> PreparedBranch:
            address = self._address(order)
            if order.spec.pr != "none":
                self._forge(address)
            with self._access(address) as access:
                branches = self._branches(order.task_id)
                return branches.prepare(order, access, shown_url=address.url)

        return await self._in_thread(run)

    async def push(self, order: PublishOrder, prepared: PreparedBranch) -> bool:
        """Push the branch, unless it is there. See `Publisher.push`."""

        def run() -> bool:
            with self._access(self._hosts_parse(prepared.url)) as access:
                return self._branches(order.task_id).push(order, prepared, access)

        return await self._in_thread(run)

    async def open_request(
        self, order: PublishOrder, prepared: PreparedBranch, *, title: str, body: str
    ) -> OpenedRequest:
        """Open the pull request, or find it. See `Publisher.open_request`."""

        def run() -> OpenedRequest:
            address = self._hosts_parse(prepared.url)
            forge_name = self._forge(address)
            # Imported here, where a forge is asked: HTTP takes a tenth of a second.
            from agent_runtime.publishing.forges import FORGES

            forge = FORGES[forge_name](
                api=self._hosts.api_of(address),
                address=address,
                token=self._token(address),
                ca=self._hosts.ca_of(address),
            )
            draft = order.spec.pr == "draft"
            marker = f"<!-- agent-runtime {order.task_id} {prepared.commit} -->"
            return forge.open_request(prepared, title=title, body=body, draft=draft, marker=marker)

        return await self._in_thread(run)

    async def forget(self, task_id: TaskId) -> None:
        """Remove the bare repository. Safe to repeat."""
        await self._in_thread(lambda: remove_path(self._place(task_id)))

    # -- helpers --

    def _address(self, order: PublishOrder) -> GitAddress:
        return self._hosts_parse(self._url(order.repo, order.spec.push))

    def _url(self, repo: str, push: str) -> str:
        """Where `push` leads; `origin` is where the repository comes from."""
        if push != "origin":
            return push
        why = f"it is origin, and {repo[:200]!r} has no remote of that name"
        if repo.startswith(UPLOAD):
            why, push = "it is origin, and a repository that was sent has none", ""
        else:
            try:
                source = locate(repo)
                push = origin_of(source, self._git) if isinstance(source, Local) else repo
            except WorkspaceError as error:
                raise PublishFailed(f"it is origin: {error}", kind="bad_input") from error
        if not push:
            raise PublishFailed(f"{why}: write the URL into publish.push", kind="bad_input")
        return push

    def _hosts_parse(self, url: str) -> GitAddress:
        try:
            return self._hosts.parse(url)
        except WorkspaceError as error:
            raise PublishFailed(str(error), kind="bad_input") from error

    def _forge(self, address: GitAddress) -> str:
        """The forge's kind, if a pull request can be opened there at all: asked before the push."""
        name = self._hosts.forge_of(address)
        if not name:
            raise PublishFailed(_no_forge(address), kind="bad_input")
        if not self._token(address):
            raise PublishFailed(_no_token(address), kind="denied")
        return name

    def _token(self, address: GitAddress) -> str:
        try:
            return self._hosts.token(address)
        except WorkspaceError as error:
            raise PublishFailed(str(error), kind="denied") from error

    @contextmanager
    def _access(self, address: GitAddress) -> Iterator[Access]:
        try:
            opened = self._hosts.access(address.url)
            access = opened.__enter__()
        except WorkspaceError as error:
            cause = error.__cause__
            if isinstance(cause, PublishFailed):
                raise cause from None
            raise PublishFailed(str(error), kind="refused") from error
        try:
            yield access
        finally:
            opened.__exit__(None, None, None)

    def _branches(self, task_id: TaskId) -> Branches:
        objects = os.path.join(self._state_dir, "workspaces", task_id, "trees", "store", "objects")
        return Branches(
            self._place(task_id),
            self._git,
            objects=objects if os.path.isdir(objects) else "",
        )

    def _place(self, task_id: TaskId) -> str:
        if not _TASK_ID.fullmatch(task_id):
            raise PublishFailed(f"{task_id!r} cannot name a directory", kind="failed")
        return os.path.join(self._root, task_id)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS_MAX)
        return await anyio.to_thread.run_sync(_named(function), limiter=self._limiter)


def _named(function: Callable[[], T]) -> Callable[[], T]:
    """What git says here is about the publication."""

    def run() -> T:
        try:
            return function()
        except DiskFull:
            raise  # it decides nothing about the branch
        except WorkspaceError as error:
            raise PublishFailed(str(error), kind="failed") from error

    return run


def _no_forge(address: GitAddress) -> str:
    return (
        f"{address.netloc!r} is no forge that is known: name `forge: github` or `forge: gitlab` "
        "for it in the setting git_credentials, or say pr: none"
    )


def _no_token(address: GitAddress) -> str:
    return (
        f"no token for {address.place!r}: a pull request needs one; name it in the setting "
        "git_credentials, or say pr: none"
    )
