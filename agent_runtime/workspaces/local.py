"""Workspaces on this machine: one directory a task below the state directory.

    <state_dir>/workspaces/<task id>/opened.json   the facts of `open`, written last
                                     work/         the clone that sandboxes see
                                     omitted.json  what of work/ belongs to the environment
                                     home/         HOME of the task's processes
                                     trees/        the private store, kept until `forget`
                                     exports/      clean checkouts for checks
                                     disk/         with a quota: work/ and home/ are in it
                                     quota.json    its size, for exports, too
                                     history/      commits of an ended run, kept until `forget`

An `open` that was interrupted leaves no `opened.json` and is simply done again. All file and git
work happens in worker threads; one operation of a task at a time.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from agent_runtime.errors import DiskFull, WorkspaceError
from agent_runtime.ports.workspaces import (
    ArtifactLimits,
    Change,
    DiskQuota,
    FoundFiles,
    LeftWork,
    OpenedWorkspace,
)
from agent_runtime.types import TaskId, TreeId, WorkspaceSpec
from agent_runtime.workspaces import artifacts, history, locks, quota
from agent_runtime.workspaces.apply import apply_patch
from agent_runtime.workspaces.branch import CommitText
from agent_runtime.workspaces.clone import branch_of, make_clone
from agent_runtime.workspaces.export import export_tree, remove_export
from agent_runtime.workspaces.files import copy_into, directory, make_temporary, remove_path
from agent_runtime.workspaces.git import Git, no_room, write_atomically
from agent_runtime.workspaces.objects import shown
from agent_runtime.workspaces.pull import make_branch_bundle
from agent_runtime.workspaces.remotes import AnyRemote, Remotes
from agent_runtime.workspaces.source import UPLOAD, Local, Remote, View, locate, upload_path
from agent_runtime.workspaces.trees import Trees, remove_locks

T = TypeVar("T")

_THREADS_MAX = 16
"""Of our own: a slow fetch must not keep other users of worker threads waiting."""
_OMITTED = "omitted.json"
_TASK_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(slots=True)
class _Task:
    """What this process knows about one task's workspace."""

    path: str
    trees: Trees
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    opened: OpenedWorkspace | None = None
    in_place: bool = False
    owner: locks.DirectoryLock | None = None

    @property
    def exports(self) -> str:
        return os.path.join(self.path, "exports")

    @property
    def disk(self) -> str:
        """Where the disk of its own is, if the task has a quota."""
        return os.path.join(self.path, "disk")

    @property
    def room(self) -> str:
        """Where the clone and HOME are."""
        return self.disk if quota.exists(self.disk) else self.path


class LocalWorkspaces:
    """The `Workspaces` port on this machine's disk; several processes may share `state_dir`."""

    def __init__(self, state_dir: str, *, remotes: Remotes | None = None) -> None:
        self._uploads = os.path.join(os.path.abspath(state_dir), "uploads")
        self._remotes = remotes or AnyRemote()
        self._root = os.path.join(os.path.abspath(state_dir), "workspaces")
        self._locks_dir = os.path.join(os.path.abspath(state_dir), "locks")
        self._git = Git(os.path.join(self._root, ".git-home"))
        self._tasks: dict[TaskId, _Task] = {}
        self._limiter: anyio.CapacityLimiter | None = None

    async def check(self, spec: WorkspaceSpec, *, at: str = "") -> None:
        """Refuse at once a repository on this machine that no `open` could use.

        With `at` it must also hold that commit, which a task that shall go on began with.

        Raises:
            WorkspaceError: it is missing or none; the message says what would work.
        """
        spec = self._found(spec)
        source = await self._in_thread(locate, spec.repo)
        if spec.in_place:
            _require_checkout(source, spec)
        elif isinstance(source, Remote):
            self._remotes.check(source.url)
        elif at and isinstance(source, Local):
            await self._in_thread(_require_commit, source, at, self._git)

    # -- open and close --

    async def open(
        self,
        task_id: TaskId,
        spec: WorkspaceSpec,
        *,
        disk: DiskQuota | None = None,
        left: LeftWork | None = None,
    ) -> OpenedWorkspace:
        """Make the working clone, or find the one that an earlier `open` finished.

        Waits while another task owns an in-place directory. No sandbox of the task may be alive.
        With `disk` the clone and HOME get a disk of their own where that can be had (`notes` say if
        not); an in-place directory never does.
        A repository of its own inside the working tree is not carried over; initialised submodules
        are refused, others left empty. With `left` an ended run is gone on with.

        Raises:
            WorkspaceError: the repository cannot be used; the message says what would work.
        """
        task = self._task(task_id)
        async with task.lock:
            if await self._in_thread(self._facts, task) is None:
                spec = self._found(spec)
            if spec.in_place and task.owner is None:
                source = await self._in_thread(locate, spec.repo)
                if isinstance(source, Local):
                    task.owner = await locks.take(self._locks_dir, source.name)
            try:
                return await self._in_thread(self._open, task_id, task, spec, disk, left)
            except BaseException:
                self._let_go(task)
                raise

    def _open(
        self,
        task_id: TaskId,
        task: _Task,
        spec: WorkspaceSpec,
        disk: DiskQuota | None,
        left: LeftWork | None,
    ) -> OpenedWorkspace:
        if opened := self._facts(task):
            if quota.exists(task.disk):
                quota.mount(task.disk)
            _tidy(task, opened)
            return opened
        # What a caller may traverse: a sandbox runs under another user id than a root daemon.
        os.makedirs(task.path, mode=0o711, exist_ok=True)
        quota.remove(task.disk)
        _clear(task.exports)
        for name in os.listdir(task.path):
            if name.startswith(("opening-", "keeping-")) or name == "work":
                remove_path(os.path.join(task.path, name))
        said = self._take_disk(task, disk)
        task.trees.create()
        opening = make_temporary(task.path if spec.in_place else task.room, "opening-", mode=0o711)
        try:
            opened = self._make(task_id, task, spec, opening, left)
        finally:
            remove_path(opening)
        opened = replace(opened, disk=said)
        write_atomically(
            os.path.join(task.path, "opened.json"),
            msgspec.json.encode({"in_place": spec.in_place, "facts": opened}),
            durable=True,
        )
        task.opened, task.in_place = opened, spec.in_place
        return opened

    def _take_disk(self, task: _Task, disk: DiskQuota | None) -> str:
        """Make the task's disk of its own, if it shall have one; how that went, in words."""
        if disk is None:
            return ""
        if reason := quota.unavailable(self._root):
            return f"none: {reason}"
        quota.make(task.disk, disk)
        write_atomically(os.path.join(task.path, "quota.json"), msgspec.json.encode(disk))
        return f"{quota.MEANS}, {disk.bytes / (1 << 20):,.0f} MiB, {quota.inodes(disk):,} files"

    def _make(
        self,
        task_id: TaskId,
        task: _Task,
        spec: WorkspaceSpec,
        opening: str,
        left: LeftWork | None,
    ) -> OpenedWorkspace:
        view_path = os.path.join(opening, "view")
        task.trees.fresh()
        if spec.in_place:
            made_here = self._make_in_place(task, spec, view_path)
            return made_here if left is None else _gone_on(task, made_here, left)
        if left is not None:
            _require(task, left.base_tree, left.tree)
            spec = msgspec.structs.replace(spec, include_dirty=False)
        work = os.path.join(opening, "work")
        final = os.path.join(task.room, "work")
        os.mkdir(work, 0o755)
        branch = branch_of(task_id)
        made = make_clone(
            spec,
            branch=branch,
            target=work,
            view_path=view_path,
            trees=task.trees,
            git=self._git,
            at=None if left is None else left.base_commit,
            remotes=self._remotes,
        )
        history.remember(task.path, os.path.join(work, ".git"))
        os.rename(work, final)
        notes = made.notes
        if left is not None:
            with_git = history.bring_back(task.path, os.path.join(final, ".git"))
            task.trees.restore(final, left.tree, with_git=with_git)
            if not with_git:
                notes += (_NO_HISTORY,)
        else:
            tree = task.trees.snapshot(final, with_git=True)
        return OpenedWorkspace(
            path=final,
            mount=made.mount,
            base_commit=made.base_commit,
            base_tree=tree if left is None else left.base_tree,
            branch=branch,
            carried=made.carried,
            notes=notes,
        )

    def _make_in_place(self, task: _Task, spec: WorkspaceSpec, view_path: str) -> OpenedWorkspace:
        source = _require_checkout(locate(spec.repo), spec)
        view = View(source, view_path, self._git)
        commit = view.commit_of("HEAD")
        if view.commit_of(spec.ref) != commit:
            raise WorkspaceError(
                f"workspace.in_place works on what is checked out; workspace.ref {spec.ref!r} is"
                " another commit: check it out first, or drop in_place"
            )
        dirty = view.dirty()
        tree = task.trees.snapshot(source.top, with_git=False)
        notes = ["in place: the task changes this very directory, and nothing is ever rolled back"]
        if specials := task.trees.specials():
            notes.append(f"pipes, sockets or devices are not versioned: {', '.join(specials[:5])}")
        return OpenedWorkspace(
            path=source.top,
            mount=source.top,
            base_commit=commit,
            base_tree=tree,
            carried=tuple(path.decode("utf-8", "backslashreplace") for path in dirty.paths),
            notes=tuple(notes),
        )

    async def scratch(self, task_id: TaskId, *, disk: DiskQuota | None = None) -> str:
        """The task's HOME on the host: outside the workspace, gone with `close`."""
        task = self._task(task_id)
        async with task.lock:
            return await self._in_thread(self._scratch, task, disk)

    def _scratch(self, task: _Task, disk: DiskQuota | None) -> str:
        if quota.exists(task.disk):
            quota.mount(task.disk)
        elif not os.path.exists(os.path.join(task.path, "home")) and self._facts(task) is None:
            os.makedirs(task.path, mode=0o711, exist_ok=True)
            self._take_disk(task, disk)  # a task without a workspace: HOME is all that it has
        home = os.path.join(task.room, "home")
        os.makedirs(home, mode=0o700, exist_ok=True)
        return home

    async def close(self, task_id: TaskId) -> None:
        """Remove clone, scratch and exports; keep the trees. Never touches an in-place directory.

        Safe to repeat. No sandbox of the task may be alive.
        """
        task = self._task(task_id)
        async with task.lock:
            try:
                await self._in_thread(self._close, task)
            finally:
                self._let_go(task)

    def _close(self, task: _Task) -> None:
        opened = self._facts(task)
        if opened is not None and not task.in_place:
            # Nothing of the result hangs on it: files, and not commits, are handed over.
            with suppress(OSError):
                history.keep(task.path, os.path.join(opened.path, ".git"))
        # First the facts: from here on there is no workspace, whatever a kill leaves of it.
        task.opened = None
        task.trees.omit = frozenset()
        for name in ("opened.json", _OMITTED):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(task.path, name))
        quota.remove(task.disk)
        for name in ("work", "home", "exports"):
            _clear(os.path.join(task.path, name))

    async def forget(self, task_id: TaskId) -> None:
        """Remove everything of the task. Safe to repeat."""
        await self.close(task_id)
        await self._in_thread(remove_path, self._task(task_id).path)
        del self._tasks[task_id]

    # -- versions --

    async def snapshot(self, task_id: TaskId) -> TreeId:
        """The tree of the workspace now: raw bytes of everything but `.git`, at any depth.

        It also keeps the state of `.git` for `restore`. After a crash, restore before the first
        snapshot: a snapshot says "this is how it shall be".
        """
        return await self._locked(task_id, self._snapshot)

    def _snapshot(self, task: _Task) -> TreeId:
        opened = self._need_open(task)
        return task.trees.snapshot(opened.path, with_git=not task.in_place)

    async def restore(self, task_id: TaskId, tree: TreeId) -> None:
        """Make the workspace equal to `tree`; ignored and untracked files included.

        Branches, stash, index and everything else of `.git` go back to how they were at the last
        snapshot that gave `tree`. No sandbox of the task may be alive.

        Raises:
            WorkspaceError: the workspace is in place, or the tree is unknown.
        """
        await self._locked(task_id, functools.partial(self._restore, tree=tree))

    def _restore(self, task: _Task, *, tree: TreeId) -> None:
        opened = self._need_open(task)
        if task.in_place:
            raise WorkspaceError(
                f"{opened.path!r} is used in place, and such a directory is never rolled back;"
                " look at it yourself, or run the task without workspace.in_place"
            )
        task.trees.restore(opened.path, tree)

    async def changes(self, task_id: TaskId, before: TreeId, after: TreeId) -> list[Change]:
        """What differs, sorted by path. A path that is not UTF-8 is spelled with `\\xff`."""
        return await self._locked(task_id, lambda task: task.trees.changes(before, after))

    async def patch(self, task_id: TaskId, before: TreeId, after: TreeId) -> bytes:
        """A binary-safe patch that `git apply` takes."""
        return await self._locked(task_id, lambda task: task.trees.patch(before, after))

    async def listing(self, task_id: TaskId, tree: TreeId) -> dict[str, str]:
        """Every file and link of a tree: path to object id."""

        def listed(task: _Task) -> dict[str, str]:
            return {shown(path): oid for path, (_, oid) in task.trees.listing(tree).items()}

        return await self._locked(task_id, listed)

    async def furnish(self, task_id: TaskId, copies: Mapping[str, str], *, home: str) -> None:
        """Put what belongs to the environment into the working copy (path to source) and HOME.

        The copies are part of no tree from now on; a rollback leaves them alone. Safe to repeat.
        """
        await self._locked(task_id, functools.partial(self._furnish, copies=copies, home=home))

    def _furnish(self, task: _Task, *, copies: Mapping[str, str], home: str) -> None:
        opened = self._need_open(task)
        # First the names: whatever a kill leaves of the copies, no tree has it.
        task.trees.omit = frozenset(f"/{path}" for path in copies)
        write_atomically(
            os.path.join(task.path, _OMITTED), msgspec.json.encode(sorted(copies)), durable=True
        )
        for path, source in copies.items():
            copy_into(source, opened.path, path)
        if home:
            copy_into(home, task.room, "home")

    async def require(self, task_id: TaskId, trees: Sequence[TreeId]) -> None:
        """Are these trees still kept? `WorkspaceError` if not."""
        await self._locked(task_id, lambda task: _require(task, *trees))

    async def find(
        self, task_id: TaskId, tree: TreeId, patterns: Sequence[str], *, limits: ArtifactLimits
    ) -> FoundFiles:
        """The files that globs below the workspace mean. No link is followed, none is a file."""
        return await self._locked(
            task_id, lambda task: artifacts.find(task.trees, tree, patterns, limits)
        )

    async def without_ignored(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, patterns: Sequence[str]
    ) -> TreeId:
        """`tree` without the new files that `patterns` mean and a `.gitignore` of `base` names."""
        return await self._locked(
            task_id,
            lambda task: artifacts.without_ignored(task.trees, tree, base, patterns, self._git),
        )

    async def take_out(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str], target: str
    ) -> None:
        """Write files of a tree below `target`, see `artifacts.take_out`."""
        await self._locked(
            task_id, lambda task: artifacts.take_out(task.trees, tree, paths, target)
        )

    async def contents(
        self, task_id: TaskId, tree: TreeId, paths: Sequence[str]
    ) -> dict[str, bytes | None]:
        """What these paths hold in a tree; None for what is no regular file there."""
        return await self._locked(task_id, lambda task: task.trees.contents(tree, paths))

    async def pack(self, task_id: TaskId, trees: Sequence[TreeId]) -> bytes:
        """These trees with all their files as one git pack."""
        return await self._locked(task_id, lambda task: task.trees.pack(trees))

    async def unpack(self, task_id: TaskId, trees: Sequence[TreeId], packed: bytes) -> None:
        """Take in trees of a task that was worked on elsewhere, see `Trees.unpack`."""
        await self._locked(task_id, lambda task: _unpack(task, trees, packed))

    async def branch_bundle(
        self, task_id: TaskId, patch: bytes, *, base_commit: str, message: str, at_us: int
    ) -> bytes:
        """The task's branch for a checkout that has the base, see `pull.make_branch_bundle`."""

        def run(task: _Task) -> bytes:
            if not task.trees.exists():
                raise WorkspaceError(
                    "the versions of the workspace are gone (removed by `agent-runtime gc`, or by "
                    "hand); `agent-runtime diff` has the patch"
                )
            return make_branch_bundle(
                patch,
                objects=os.path.join(task.trees.store.path, "objects"),
                base_commit=base_commit,
                branch=branch_of(task_id),
                text=CommitText(message=message),
                at_us=at_us,
            )

        return await self._locked(task_id, run)

    async def fork(self, task_id: TaskId, fork_id: TaskId) -> None:
        """Give another task the versions and commits of this one. Safe to repeat.

        Where that cannot be told apart, the state of `.git` is a later one than the tree beside it:
        a tree that came twice has the state of the last time.

        Raises:
            WorkspaceError: the versions are gone.
        """
        fork = self._task(fork_id)
        async with fork.lock:
            await self._locked(task_id, functools.partial(self._fork, fork=fork))

    def _fork(self, task: _Task, *, fork: _Task) -> None:
        if not task.trees.exists():
            raise WorkspaceError(
                "the versions of the workspace are gone (removed by `agent-runtime gc`, or by hand)"
            )
        os.makedirs(fork.path, mode=0o711, exist_ok=True)
        fork.trees.take_over(task.trees)
        # Without its commits a fork has the files, and says so.
        with suppress(OSError, WorkspaceError):
            history.take_over(fork.path, task.path, os.path.join(task.room, "work", ".git"))

    async def export(
        self, task_id: TaskId, tree: TreeId, *, base: TreeId, protected: Sequence[str]
    ) -> tuple[str, TreeId]:
        """A clean checkout of `tree` with the protected files of `base` and no others.

        Returns the directory (caller removes it with `discard`) and the tree of what it holds, as
        read back from the disk. It has no `.git`.
        """
        return await self._locked(
            task_id,
            lambda task: export_tree(
                task.trees,
                task.exports,
                tree=tree,
                base=base,
                protected=protected,
                disk=self._disk_of(task),
            ),
        )

    def _disk_of(self, task: _Task) -> DiskQuota | None:
        """What the task was given, if that can be had here."""
        try:
            with open(os.path.join(task.path, "quota.json"), "rb") as file:
                disk = msgspec.json.decode(file.read(), type=DiskQuota)
        except FileNotFoundError:
            return None
        return None if quota.unavailable(self._root) else disk

    async def discard(self, path: str) -> None:
        """Remove an exported directory. Safe to repeat."""
        if not re.fullmatch(re.escape(self._root) + r"/[^/]+/exports/[^/]+", path):
            raise WorkspaceError(f"{path!r} is not a directory that `export` made")
        await self._in_thread(remove_export, path)

    async def apply(
        self,
        task_id: TaskId,
        patch: bytes,
        checkout: str,
        *,
        base_commit: str = "",
        check_only: bool = False,
    ) -> list[str]:
        """Apply a task's result to a user's checkout, see `apply.apply_patch`.

        Works after `close`, and after `forget` as far as the checkout has the objects itself.
        """
        task = self._task(task_id)
        objects = os.path.join(task.trees.store.path, "objects") if task.trees.exists() else ""
        return await self._in_thread(
            lambda: apply_patch(
                patch,
                checkout,
                base_commit=base_commit,
                check_only=check_only,
                objects=objects,
                git=self._git,
            )
        )

    # -- helpers --

    def _found(self, spec: WorkspaceSpec) -> WorkspaceSpec:
        """The same with the path of an upload. `WorkspaceError` if that is not here."""
        if not spec.repo.startswith(UPLOAD):
            return spec
        path = upload_path(self._uploads, spec.repo)
        if not os.path.isdir(path):
            raise WorkspaceError(
                f"{spec.repo!r} is not here: it was never sent, or removed because no task used "
                "it; send the repository again"
            )
        return msgspec.structs.replace(spec, repo=path)

    def _task(self, task_id: TaskId) -> _Task:
        if task_id not in self._tasks:
            if not _TASK_ID.fullmatch(task_id):
                raise WorkspaceError(f"{task_id!r} cannot name a directory")
            path = os.path.join(self._root, task_id)
            self._tasks[task_id] = _Task(path, Trees(os.path.join(path, "trees"), self._git))
        return self._tasks[task_id]

    def _facts(self, task: _Task) -> OpenedWorkspace | None:
        if task.opened is None:
            with (
                suppress(FileNotFoundError),
                open(os.path.join(task.path, "opened.json"), "rb") as file,
            ):
                stored = msgspec.json.decode(file.read(), type=_Stored)
                task.opened, task.in_place = stored.facts, stored.in_place
            with suppress(FileNotFoundError), open(os.path.join(task.path, _OMITTED), "rb") as file:
                paths = msgspec.json.decode(file.read(), type=list[str])
                task.trees.omit = frozenset(f"/{path}" for path in paths)
        return task.opened

    def _need_open(self, task: _Task) -> OpenedWorkspace:
        opened = self._facts(task)
        if opened is None:
            raise WorkspaceError(f"the workspace {task.path!r} is not open; open it first")
        return opened

    def _let_go(self, task: _Task) -> None:
        if task.owner is not None:
            task.owner.release()
            task.owner = None

    async def _locked(self, task_id: TaskId, function: Callable[[_Task], T]) -> T:
        task = self._task(task_id)
        async with task.lock:
            return await self._in_thread(function, task)

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(_THREADS_MAX)
        return await anyio.to_thread.run_sync(
            functools.partial(_with_named_errors, function, *args), limiter=self._limiter
        )


class _Stored(msgspec.Struct, frozen=True):
    in_place: bool
    facts: OpenedWorkspace


def _with_named_errors(function: Callable[..., T], *args: object) -> T:
    """Turn an error of the file system into one that the caller can act on."""
    disks = [arg.disk for arg in args if isinstance(arg, _Task)]
    try:
        return function(*args)
    except (OSError, DiskFull) as error:
        no_space = isinstance(error, DiskFull) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        if no_space and disks and quota.is_used_up(disks[0]):
            raise WorkspaceError(quota.full(disks[0])) from error
        if isinstance(error, DiskFull):
            raise
        if no_space:
            raise no_room(error) from error
        raise WorkspaceError(f"the workspace cannot be used: {error}") from error


def _clear(path: str) -> None:
    quota.unmount_below(path)
    remove_path(path)


_NO_HISTORY = (
    "commits of the earlier run are not here (the task came from elsewhere, or they were too"
    " large); its files are, as uncommitted edits"
)


def _require(task: _Task, *trees: TreeId) -> None:
    try:
        task.trees.require(*trees)
    except WorkspaceError as error:
        raise WorkspaceError(
            "the versions of the workspace are gone (removed by `agent-runtime gc`, or by hand), "
            f"so the task cannot go on; run a new one: {error}"
        ) from error


def _require_commit(source: Local, commit: str, git: Git) -> None:
    with tempfile.TemporaryDirectory(prefix="agent-runtime-view-") as place:
        view = View(source, os.path.join(place, "view"), git)
        ok, _, _ = git.succeeds(["cat-file", "-e", f"{commit}^{{commit}}"], git_dir=view.path)
    if not ok:
        raise WorkspaceError(
            f"commit {commit}, with which it began, is no longer in {source.name!r}; fetch it "
            "there again, or run a new task"
        )


def _gone_on(task: _Task, opened: OpenedWorkspace, left: LeftWork) -> OpenedWorkspace:
    """An in-place directory as it is now, with the base that the task began with."""
    _require(task, left.base_tree)
    notes = opened.notes
    if opened.base_tree != left.tree:
        notes += ("in place: what was changed here since the earlier run counts as the task's",)
    return replace(
        opened, base_commit=left.base_commit, base_tree=left.base_tree, carried=(), notes=notes
    )


def _unpack(task: _Task, trees: Sequence[TreeId], packed: bytes) -> None:
    # What a caller may traverse, as for an opened one.
    os.makedirs(task.path, mode=0o711, exist_ok=True)
    task.trees.unpack(trees, packed)


def _require_checkout(source: Local | Remote, spec: WorkspaceSpec) -> Local:
    if not isinstance(source, Local) or not source.top:
        raise WorkspaceError(
            f"workspace.in_place needs a checkout on this machine, and {spec.repo!r} is none;"
            " clone it and name the clone, or leave in_place out"
        )
    return source


def _tidy(task: _Task, opened: OpenedWorkspace) -> None:
    """What a killed process left: lock files of the clone's git, clean checkouts."""
    _clear(task.exports)
    if not task.in_place:
        with suppress(FileNotFoundError), directory(os.path.join(opened.path, ".git")) as git_fd:
            remove_locks(git_fd)
