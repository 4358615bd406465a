"""The port for what leaves: a branch that is pushed, and the request that it be pulled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent_runtime.types import PublishSpec, TaskId, TaskSpec, TreeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOrder:
    """One task's result, and where it is to go. Equal orders make equal commits."""

    task_id: TaskId
    repo: str
    """`workspace.repo` of the task: `origin` means where that comes from."""
    ref: str
    spec: PublishSpec
    base_commit: str
    """What the task began from; empty: a repository without commits."""
    carried: bool
    """Did it begin with uncommitted edits? The patch is about those, too."""
    tree: TreeId
    """What was certified."""
    patch: bytes
    message: str
    at_us: int
    """When the end was decided: the commit's time."""
    ours: tuple[str, ...] = ()
    """Commits that an earlier try may have pushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBranch:
    """The commit that is to leave; see `events.PublicationPrepared`."""

    url: str
    """Without user and password."""
    branch: str
    base: str
    base_commit: str
    commit: str
    tree: TreeId
    base_tree: TreeId
    packed: bytes | None = None
    """Both trees for `Workspaces.unpack`, if what was certified is not what the commit holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRequest:
    """A pull request. `found`: it was there."""

    url: str
    number: int
    found: bool


class Publisher(Protocol):
    """Brings a branch to a git remote and asks for it to be pulled, with credentials of its own.

    Every operating error is `PublishFailed`, and says nothing secret.
    """

    async def check(self, task: TaskSpec) -> None:
        """Refuse what could not be published as things stand, without a connection.

        Raises:
            UsageError: `publish` names what is no address, or one that may not be reached; `origin`
                names none; or a pull request is wanted where none can be opened.
        """

    async def prepare(self, order: PublishOrder) -> PreparedBranch:
        """Make the commit on the newest base, here. Safe to repeat."""

    async def push(self, order: PublishOrder, prepared: PreparedBranch) -> bool:
        """Push the branch, unless it is there: True then. Never forces away what is not ours.

        Fails with `moved` when the base is no longer the prepared one.
        """

    async def open_request(
        self, order: PublishOrder, prepared: PreparedBranch, *, title: str, body: str
    ) -> OpenedRequest:
        """Open the pull request, or find the one that there is for the branch.

        An open one of an earlier publication gets the new text.
        """

    async def forget(self, task_id: TaskId) -> None:
        """Remove what `prepare` made. Safe to repeat."""
