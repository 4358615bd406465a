"""The commit that leaves the daemon: made in a bare repository of ours, and pushed from there.

The base comes fresh from the remote, one commit deep. The task's patch is put on it; the blobs that
a three-way merge needs, and those that are pushed, come from the task's private store. Nothing of
the agent's clone takes part: not its `.git`, its hooks or its `origin`. The same order on the same
base makes the same commit, so a lost repository is no loss.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from agent_runtime.errors import DiskFull, PublishFailed, WorkspaceError
from agent_runtime.ports.publisher import PreparedBranch, PublishOrder
from agent_runtime.types import TreeId
from agent_runtime.workspaces.files import directory
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir
from agent_runtime.workspaces.remotes import Access
from agent_runtime.workspaces.trees import remove_locks

NAME, EMAIL = "agent-runtime", "agent-runtime@localhost"
_BASE = "refs/agent-runtime/base"
_SAID_CHARS_MAX = 800
_PACK_BYTES_MAX = 768 << 20

_DENIED = re.compile(
    r"authentication failed|permission|denied|403|401|not allowed|protected|hook declined|"
    r"could not read (username|password)|remote rejected|read-only|forbidden",
    re.IGNORECASE,
)
_GONE = re.compile(r"not found|does not exist|404|does not appear to be a git", re.IGNORECASE)
_PASSES = re.compile(
    r"timed out|timeout|connection|could not resolve|temporarily|early eof|hung up|HTTP 5\d\d|"
    r"error: 5\d\d|429|rpc failed|unexpected disconnect|reset by peer|stale info|fetch first|"
    r"cannot lock ref|failed to connect",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Remote:
    """What the remote shows: its branches of interest, and what its HEAD names."""

    refs: Mapping[str, str]
    head: str

    def branch(self, name: str) -> str:
        """Where a branch stands; empty if there is none."""
        return self.refs.get(f"refs/heads/{name}", "")


class Branches:
    """One task's bare repository at `path`. Every method blocks, and raises `PublishFailed`."""

    def __init__(self, path: str, git: Git, *, objects: str) -> None:
        self._path, self._git, self._objects = path, git, objects

    # -- the remote --

    def look(self, access: Access) -> Remote:
        """What is there now."""
        self._make()
        out = self._network(access, ["ls-remote", "--symref", "--", access.url])
        refs: dict[str, str] = {}
        head = ""
        for line in out.decode("utf-8", "surrogateescape").splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: ") and name == "HEAD":
                head = value.removeprefix("ref: ").removeprefix("refs/heads/")
            elif re.fullmatch("[0-9a-f]{40}", value):
                refs[name] = value
        return Remote(refs, head)

    # -- the commit --

    def prepare(self, order: PublishOrder, access: Access, *, shown_url: str) -> PreparedBranch:
        """Make the commit on the remote's base as it is now."""
        remote = self.look(access)
        branch = order.spec.branch or f"agent-runtime/{order.task_id}"
        base = _base_of(order, remote)
        self._check_names(branch, base, order)
        base_commit = self._fetch(access, base, remote) if base else ""
        base_tree = self._tree_of(base_commit) if base_commit else self._empty_tree()
        tree = self._put(order, base_commit)
        if tree == base_tree:
            at = f"{base} at {base_commit[:12]}" if base else "the remote"
            raise PublishFailed(
                f"nothing_to_publish: the result changes nothing on {at}", kind="bad_input"
            )
        commit = self._commit(order, tree, base_commit)
        there = remote.branch(branch)
        if branch != base and there not in ("", commit, *order.ours):
            raise PublishFailed(_somebody_elses(branch, there), kind="refused")
        # A patch on the very commit that it was made from is what was certified, by construction.
        same_base = base_commit == order.base_commit and not order.carried
        packed = None
        if not same_base and tree != order.tree:
            packed = self._pack(base_tree, tree)
        return PreparedBranch(
            url=shown_url,
            branch=branch,
            base=base,
            base_commit=base_commit,
            commit=commit,
            tree=TreeId(tree),
            base_tree=TreeId(base_tree),
            packed=packed,
        )

    def push(self, order: PublishOrder, prepared: PreparedBranch, access: Access) -> bool:
        """Push the prepared commit, unless it is there."""
        remote = self.look(access)
        there = remote.branch(prepared.branch)
        if there == prepared.commit:
            return True
        if prepared.base and remote.branch(prepared.base) != prepared.base_commit:
            raise PublishFailed(
                f"the branch {prepared.base!r} has moved while its checks ran",
                kind="failed",
                moved=True,
            )
        on_base = prepared.branch == prepared.base
        if not on_base and there and there not in order.ours:
            raise PublishFailed(_somebody_elses(prepared.branch, there), kind="refused")
        if not self._has(prepared.commit):
            self._fetch(access, prepared.base, remote)
            made = self._commit(order, self._put(order, prepared.base_commit), prepared.base_commit)
            if made != prepared.commit:
                raise PublishFailed("the commit is another one now", kind="failed", moved=True)
        ref = f"refs/heads/{prepared.branch}"
        # Compared and set by the server: of two that push at once, one is told.
        self._network(
            access,
            ["push", "--quiet", "--no-verify",
             f"--force-with-lease={ref}:{there}", "--", access.url, f"{prepared.commit}:{ref}"],
        )  # fmt: skip
        return False

    # -- helpers --

    def _make(self) -> None:
        if os.path.exists(os.path.join(self._path, "HEAD")):
            # What a killed owner left; the lease says that nobody else is at work here.
            with directory(self._path) as fd:
                remove_locks(fd)
            return
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        make_git_dir(self._path, bare=True)

    def _alternates(self) -> dict[str, str]:
        return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": self._objects} if self._objects else {}

    def _check_names(self, branch: str, base: str, order: PublishOrder) -> None:
        ok, _, _ = self._git.succeeds(
            ["check-ref-format", f"refs/heads/{branch}"], git_dir=self._path
        )
        if not ok or branch.startswith("-") or branch == "HEAD":
            raise PublishFailed(
                f"git does not allow a branch called {branch!r}; choose another publish.branch",
                kind="bad_input",
            )
        if branch == base and order.spec.pr != "none":
            raise PublishFailed(
                f"publish.branch and its base are both {base!r}: a pull request needs two; choose "
                "another branch, or say pr: none",
                kind="bad_input",
            )
        if not base and order.spec.pr != "none":
            raise PublishFailed(
                "the remote has no branch yet that a pull request could go to: say pr: none",
                kind="bad_input",
            )

    def _fetch(self, access: Access, base: str, remote: Remote) -> str:
        """The newest commit of `base`, with its files."""
        known = remote.branch(base)
        if not self._has(known):
            self._network(
                access,
                ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1",
                 "--no-auto-maintenance", "--", access.url, f"+refs/heads/{base}:{_BASE}"],
            )  # fmt: skip
            # Between our look and this it may have moved: what is here counts.
            known = self._run(["rev-parse", "--verify", _BASE]).decode().strip()
        return known

    def _has(self, commit: str) -> bool:
        if not commit:
            return False
        there, _, _ = self._git.succeeds(
            ["cat-file", "-e", f"{commit}^{{tree}}"], git_dir=self._path, env=self._alternates()
        )
        return there

    def _tree_of(self, commit: str) -> str:
        return self._run(["rev-parse", "--verify", f"{commit}^{{tree}}"]).decode().strip()

    def _empty_tree(self) -> str:
        return self._run(["hash-object", "-t", "tree", "-w", "--stdin"]).decode().strip()

    def _put(self, order: PublishOrder, base_commit: str) -> str:
        """The tree of the base with the task's patch on it."""
        index = os.path.join(self._path, "index")
        with suppress(FileNotFoundError):
            os.unlink(index)
        env = {"GIT_INDEX_FILE": index}
        if base_commit:
            self._run(["read-tree", base_commit], env=env)
        if order.patch:
            ok, _, said = self._git.succeeds(
                ["apply", "--cached", "--3way", "--whitespace=nowarn"],
                git_dir=self._path,
                stdin=order.patch,
                env=env | self._alternates(),
            )
            if not ok:
                unmerged = self._run(["ls-files", "-u", "-z"], env=env).split(b"\0")[:-1]
                paths = sorted({os.fsdecode(each.split(b"\t", 1)[1]) for each in unmerged})
                where = ", ".join(map(repr, paths[:5])) or said[-_SAID_CHARS_MAX:]
                raise PublishFailed(
                    f"base_conflict: the result does not fit the base as it is now "
                    f"({base_commit[:12]}): {where}; run the task again on the new base, or take "
                    "the branch with `agent-runtime pull` and merge by hand",
                    kind="failed",
                )
        return self._run(["write-tree"], env=env).decode().strip()

    def _commit(self, order: PublishOrder, tree: str, base_commit: str) -> str:
        parents = ["-p", base_commit] if base_commit else []
        at = f"@{order.at_us // 1_000_000} +0000"
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (("NAME", NAME), ("EMAIL", EMAIL), ("DATE", at))
        }
        out = self._run(
            ["-c", "commit.gpgSign=false", "commit-tree", *parents, tree],
            stdin=order.message.encode("utf-8", "surrogateescape"),
            env=who,
        )
        return out.decode().strip()

    def _pack(self, *trees: str) -> bytes:
        packed = self._run(
            ["pack-objects", "--revs", "--stdout", "-q"],
            stdin="".join(f"{tree}\n" for tree in dict.fromkeys(trees)).encode(),
        )
        if len(packed) > _PACK_BYTES_MAX:
            raise PublishFailed("the new base is too large to be checked again", kind="failed")
        return packed

    def _run(
        self, arguments: list[str], *, stdin: bytes = b"", env: Mapping[str, str] = {}
    ) -> bytes:
        return self._git.run(
            arguments, git_dir=self._path, stdin=stdin, env={**self._alternates(), **env}
        )

    def _network(self, access: Access, arguments: list[str]) -> bytes:
        try:
            return self._git.run(
                arguments,
                git_dir=self._path,
                env={**self._alternates(), **access.env},
                fds=access.fds,
                network=True,
            )
        except DiskFull:
            raise
        except GitFailed as error:
            raise _told(access.shown(error.stderr)) from None
        except WorkspaceError as error:
            raise PublishFailed(access.shown(str(error)), kind="transient") from None


def _base_of(order: PublishOrder, remote: Remote) -> str:
    """The branch that is to be changed; empty if the remote has none at all."""
    if told := order.spec.base:
        if not remote.branch(told):
            raise PublishFailed(
                f"the remote has no branch {told!r}, which publish.base names", kind="not_found"
            )
        return told
    if remote.branch(order.ref):
        return order.ref
    if remote.head and remote.branch(remote.head):
        return remote.head
    if not any(name.startswith("refs/heads/") for name in remote.refs):
        return ""
    raise PublishFailed(
        "the remote does not say which of its branches is the default: name publish.base",
        kind="bad_input",
    )


def _somebody_elses(branch: str, there: str) -> str:
    return (
        f"the remote has a branch {branch!r} already, at {there[:12]}, and this task did not push "
        "it: choose another publish.branch, or delete that one"
    )


def _told(said: str) -> PublishFailed:
    """What git's words mean for the next try."""
    # The server's own words first: what follows them is git's advice.
    message = f"git: {said[-_SAID_CHARS_MAX:]}"
    if _PASSES.search(said) and not re.search(r"remote rejected|hook declined", said):
        return PublishFailed(message, kind="transient")
    if _DENIED.search(said):
        return PublishFailed(message, kind="denied")
    return PublishFailed(message, kind="not_found" if _GONE.search(said) else "failed")
