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
from agent_runtime.workspaces.source import Local, locate, origin_of

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

    def check(self, task: TaskSpec) -> None:
        """Refuse what could never be published, without a connection. `UsageError` says why."""
        publish = task.publish
        if publish is None:
            return
        if task.workspace is None:
            raise UsageError("publish: the task has no workspace, so it has no branch")
        if publish.push == "origin":
            return
        try:
            self._hosts.check(publish.push)
            address = self._hosts.parse(publish.push)
        except WorkspaceError as error:
            raise UsageError(f"publish.push: {error}") from error
        if publish.pr != "none" and not self._hosts.forge_of(address):
            raise UsageError(f"publish.pr: {_no_forge(address)}")

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
        push = order.spec.push
        if push != "origin":
            return self._hosts_parse(push)
        try:
            source = locate(order.repo)
            if isinstance(source, Local):
                push = origin_of(source, self._git)
        except WorkspaceError as error:
            raise PublishFailed(f"publish.push is origin: {error}", kind="bad_input") from error
        else:
            if not isinstance(source, Local):
                push = order.repo
        if not push:
            raise PublishFailed(
                f"publish.push is origin, and {order.repo!r} has no remote of that name: write the "
                "URL into publish.push",
                kind="bad_input",
            )
        return self._hosts_parse(push)

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
            raise PublishFailed(
                f"no token for {address.place!r}: a pull request needs one; name it in the setting "
                "git_credentials, or say pr: none",
                kind="denied",
            )
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
