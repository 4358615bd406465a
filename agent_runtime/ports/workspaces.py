"""The port for working copies and their versions, and the files that are found in those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_runtime.types import TaskId, TreeId, WorkspaceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskQuota:
    """How much a task's working copy and HOME may take together, and each of its checkouts."""

    bytes: int
    inodes: int | None = None
    """Files, directories and links; None: one for 16 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedWorkspace:
    """A task's workspace on disk. `mount` is where sandboxes see it."""

    path: str
    mount: str
    base_commit: str
    """Commit the task started from; empty in a repository with no commit."""
    base_tree: TreeId
    """What the task started from, uncommitted edits included."""
    branch: str = ""
    carried: tuple[str, ...] = ()
    """Uncommitted paths that were carried over."""
    notes: tuple[str, ...] = ()
    """What a user should know (a shallow clone, LFS pointers, ignored submodules)."""
    disk: str = ""
    """The means by which a `DiskQuota` holds, or why it does not; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs between two trees. `kind` is git's letter: A, D, M or T."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftWork:
    """What an ended run left, to be gone on with: its own base, and the last tree."""

    base_commit: str
    base_tree: TreeId
    tree: TreeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactLimits:
    """Of one task's artifacts together."""

    files: int = 1000
    bytes: int = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A regular file of a tree, with the SHA-256 of its content in hex."""

    path: str
    bytes: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What patterns mean in a tree, sorted by path."""

    files: tuple[FoundFile, ...] = ()
    missing: tuple[str, ...] = ()
    """Patterns of which nothing is among `files`."""
    left_out: tuple[str, ...] = ()
    """What matched and is not among `files`, and why, in words."""


class Workspaces(Protocol):
    """Working copies, versioned in a private store that no sandbox sees.

    Trees stay after `close`, until `forget`. Operating errors are `WorkspaceError`; of these
    `DiskFull` says nothing about the task: it stops, and is resumed when there is room.
    """

    async def check(self, spec: WorkspaceSpec, *, at: str = "") -> None:
        """Refuse what no `open` could use, as far as a quick look tells; nothing is made.

        `at` is the commit that a task which shall go on began with.
        """

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        """Make the working clone, or find the one that a first, interrupted `open` finished.

        Waits while another task owns an in-place directory. `disk` is the first `open`'s or
        `scratch`'s to say; where it cannot be had, `notes` say so. With `left` the clone is made
        from that commit and holds that tree, and it has the commits of the earlier run, or the
        notes say why not. An in-place directory is taken as it is.
        """

    async def require(self, task_id: TaskId, trees: Sequence[TreeId]) -> None:
        """Are these trees still kept? `WorkspaceError` if not."""

    async def snapshot(self, task_id: TaskId) -> TreeId:
        """The tree of the workspace now: raw bytes of everything but `.git`."""

    async def restore(self, task_id: TaskId, tree: TreeId) -> None:
        """Make the workspace equal to `tree`; ignored and untracked files included."""

    async def changes(self, task_id: TaskId, before: TreeId, after: TreeId) -> list[Change]:
        """What differs, sorted by path."""

    async def patch(self, task_id: TaskId, before: TreeId, after: TreeId) -> bytes:
        """A binary-safe patch that `git apply` takes."""

    async def find(
        self, task_id: TaskId, tree: TreeId, patterns: Sequence[str], *, limits: ArtifactLimits
    ) -> FoundFiles:
        """The files that globs below the workspace mean. No link is followed, none is a file."""

    async def without_ignored(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, patterns: Sequence[str]
    ) -> TreeId:
        """`tree` without the new files that `patterns` mean and a `.gitignore` of `base` names."""

    async def take_out(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str], target: str
    ) -> None:
        """Write files of a tree below the directory `target`, which is made if need be.

        All or none: a path that is none, and a file that is there with another content, are refused
        before anything is written. What lies at `target` is never followed out of it.

        Raises:
            UsageError: `target` cannot be written.
            Conflict: a file is in the way.
        """

    async def contents(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str]
    ) -> dict[str, bytes | None]:
        """What these paths hold in a tree; None for what is no regular file there."""

    async def pack(self, task_id: TaskId, trees: Sequence[TreeId]) -> bytes:
        """These trees with all their files as one text of bytes, for `unpack` elsewhere."""

    async def unpack(self, task_id: TaskId, trees: Sequence[TreeId], packed: bytes) -> None:
        """Take in trees of a task that was worked on elsewhere; there is no workspace of it here.

        From then on `changes` and `patch` know them. Safe to repeat. `packed` may come from
        anybody.

        Raises:
            WorkspaceError: it is nothing that `pack` made, or one of `trees` is not whole in it.
        """

    async def branch_bundle(
        self, task_id: TaskId, patch: bytes, *, base_commit: str, message: str, at_us: int
    ) -> bytes:
        """A git bundle with the task's branch: `patch` on `base_commit`, which the taker must have.

        Works after `close`. Equal results make equal commits.
        """

    async def fork(self, task_id: TaskId, fork_id: TaskId) -> None:
        """Give another task, which has none, every version of this one, and its commits.

        Nothing of `task_id` is changed, and it may be worked on meanwhile. Then `open` makes the
        fork's own working copy. Safe to repeat.
        """

    async def export(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, protected: Sequence[str]
    ) -> tuple[str, TreeId]:
        """A clean checkout in a new directory: `tree` with protected files as in `base`.

        Returns the directory (caller removes it with `discard`) and the tree of what it holds.
        """

    async def discard(self, path: str) -> None:
        """Remove an exported directory."""

    async def scratch(self, task_id: TaskId, *, disk: DiskQuota | None = None) -> str:
        """The task's HOME on the host: outside the workspace, gone with `close`."""

    async def close(self, task_id: TaskId) -> None:
        """Remove working clone and scratch; keep the trees. Never touches an in-place directory."""

    async def forget(self, task_id: TaskId) -> None:
        """Remove everything of the task (retention)."""
