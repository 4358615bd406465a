"""The result becomes a commit on a new branch, and nothing else of the repository changes.

The commit is made in a repository of ours with an index of ours, from the base commit and the
patch; then it enters the user's repository as one pack and one new ref. Working tree, index, HEAD,
configuration and hooks are not used, let alone changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass

import anyio.to_thread

from agent_runtime.errors import ApplyConflict, Conflict, UsageError, WorkspaceError
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir
from agent_runtime.workspaces.source import TAKE, Local, View, locate

_NO_OBJECT = "0" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitText:
    """What a commit says beside its tree: the message, and who made it."""

    message: str
    name: str = "agent-runtime"
    email: str = "agent-runtime@localhost"


async def commit_branch(
    patch: bytes, checkout: str, *, branch: str, base_commit: str, text: CommitText, objects: str
) -> str:
    """Make branch `branch` with one commit, `patch` on `base_commit`, and return the commit's id.

    `objects` is an object directory that has the patch's old versions ("" for none): it lets a
    patch be merged that began with uncommitted edits.

    Raises:
        Conflict: the branch exists; nothing was changed.
        ApplyConflict: the patch does not fit the base commit; nothing was changed.
        UsageError: no branch can have that name.
        WorkspaceError: not a repository, or it does not have the base commit.
    """

    def run() -> str:
        with tempfile.TemporaryDirectory(prefix="agent-runtime-branch-") as temporary:
            git = Git(os.path.join(temporary, "home"))
            work = _Work(temporary, checkout, objects, git)
            work.check(branch, base_commit)
            commit = work.commit(patch, base_commit, text)
            work.hand_over(commit, base_commit, branch)
            return commit

    return await anyio.to_thread.run_sync(run)


class _Work:
    """A bare repository of ours beside a view of the user's."""

    def __init__(self, temporary: str, checkout: str, objects: str, git: Git) -> None:
        source = locate(checkout, TAKE)
        if not isinstance(source, Local):
            raise WorkspaceError(f"{checkout!r} is not a repository on this machine")
        self._source, self._git = source, git
        self._view = View(source, os.path.join(temporary, "view"), git)
        self._git_dir = os.path.join(temporary, "work")
        make_git_dir(self._git_dir, bare=True)
        if self._view.shallow:
            shutil.copyfile(f"{self._view.path}/shallow", f"{self._git_dir}/shallow")
        others = [os.path.join(source.common_dir, "objects"), objects]
        with open(f"{self._git_dir}/objects/info/alternates", "wb") as file:
            file.write(b"".join(os.fsencode(path) + b"\n" for path in others if path))
        self._env = {"GIT_INDEX_FILE": os.path.join(self._git_dir, "index")}

    def check(self, branch: str, base_commit: str) -> None:
        """Is the name free and legal, and is the base there?"""
        ref = f"refs/heads/{branch}"
        legal, _, _ = self._git.succeeds(["check-ref-format", ref], git_dir=self._git_dir)
        if not legal or branch.startswith("-") or branch == "HEAD":
            raise UsageError(f"git does not allow a branch called {branch!r}; choose another name")
        if ref in (name for _, name in self._view.refs()):
            raise Conflict(
                f"branch {branch!r} exists in {self._source.name!r}; nothing was changed: choose "
                "another name, or delete it"
            )
        if base_commit:
            there, _, _ = self._git.succeeds(
                ["cat-file", "-e", f"{base_commit}^{{commit}}"], git_dir=self._view.path
            )
            if not there:
                raise WorkspaceError(
                    f"{self._source.name!r} does not have the commit {base_commit}, from which the "
                    "task started: fetch it, or give the repository that has it"
                )

    def commit(self, patch: bytes, base_commit: str, text: CommitText) -> str:
        """The commit, in our repository."""
        if base_commit:
            self._run(["read-tree", base_commit])
        if patch:
            self._apply(patch, base_commit)
        tree = self._run(["write-tree"]).decode().strip()
        parents = ["-p", base_commit] if base_commit else []
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", text.name), ("EMAIL", text.email))
        }
        out = self._git.run(
            ["-c", "commit.gpgSign=false", "commit-tree", *parents, tree],
            git_dir=self._git_dir,
            stdin=text.message.encode("utf-8", "surrogateescape"),
            env=self._env | who,
        )
        return out.decode().strip()

    def _apply(self, patch: bytes, base_commit: str) -> None:
        arguments = ["apply", "--cached", "--3way", "--whitespace=nowarn"]
        ok, _, said = self._git.succeeds(
            arguments, git_dir=self._git_dir, stdin=patch, env=self._env
        )
        if not ok:
            unmerged = self._run(["ls-files", "-u", "-z"]).split(b"\0")[:-1]
            paths = sorted({os.fsdecode(record.split(b"\t", 1)[1]) for record in unmerged})
            where = ", ".join(map(repr, paths[:5])) or said[-500:]
            raise ApplyConflict(
                f"the result does not fit commit {base_commit[:12] or 'none'} alone: {where}; "
                "nothing was changed. If the task began with uncommitted edits, commit them and "
                "run it again, or apply the result to the checkout that has them"
            )

    def hand_over(self, commit: str, base_commit: str, branch: str) -> None:
        """Give the user's repository the objects, then the ref; either may fail, neither harms."""
        base = f"^{base_commit}\n" if base_commit else ""
        # A pack, because it is self-contained: what lies in another store's objects comes along.
        pack = self._git.run(
            ["pack-objects", "--revs", "--stdout", "-q"],
            git_dir=self._git_dir,
            stdin=f"{commit}\n{base}".encode(),
        )
        out = self._git.run(["index-pack", "--stdin"], git_dir=self._view.path, stdin=pack)
        name = f"pack-{out.decode().split()[-1]}"
        common = self._source.common_dir
        for ending in ("pack", "idx", "rev"):
            give_to_owner(os.path.join(common, "objects", "pack", f"{name}.{ending}"), common)
        ref = f"refs/heads/{branch}"
        try:
            self._git.run(
                ["update-ref", "--no-deref", ref, commit, _NO_OBJECT], git_dir=self._view.path
            )
        except GitFailed as error:
            raise Conflict(
                f"branch {branch!r} cannot be made in {self._source.name!r}; nothing else was "
                f"changed: {error.stderr[-500:]}"
            ) from error
        path = os.path.join(common, ref)
        while path != os.path.join(common, "refs", "heads"):
            give_to_owner(path, common)
            path = os.path.dirname(path)

    def _run(self, arguments: list[str]) -> bytes:
        return self._git.run(arguments, git_dir=self._git_dir, env=self._env)


def give_to_owner(path: str, repository: str) -> None:
    """What root makes in somebody's repository must stay his to change."""
    if os.geteuid() == 0:
        owner = os.stat(repository)
        with suppress(FileNotFoundError):
            os.lchown(path, owner.st_uid, owner.st_gid)
