"""A task's branch on its way to a checkout: as a bundle of base..result, made here, taken there.

The bundle is a commit and what is new in it; whoever takes it must have the base. It is made from
the task's private store alone, so it needs neither the repository that the task began from nor its
working clone. Taking it adds one pack and one new branch; working tree, index, HEAD, configuration
and hooks of the checkout are not used.
"""

from __future__ import annotations

import os
import re
import tempfile

from agent_runtime.errors import Conflict, UsageError, WorkspaceError
from agent_runtime.workspaces.branch import CommitText, give_to_owner
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir, write_atomically
from agent_runtime.workspaces.source import TAKE, Local, View, locate

_NO_OBJECT = "0" * 40
_LINE_BYTES_MAX = 4096
_LINES_MAX = 8


def make_branch_bundle(
    patch: bytes,
    *,
    objects: str,
    base_commit: str,
    branch: str,
    text: CommitText,
    at_us: int,
    bytes_max: int = 1 << 30,
) -> bytes:
    """The bundle with one branch: `patch` on `base_commit`, which `objects` has. Blocks.

    The same result gives the same commit, and so does `agent-runtime publish` on the same base.

    Raises:
        WorkspaceError: the base is not there, or the patch does not fit it alone.
    """
    with tempfile.TemporaryDirectory(prefix="agent-runtime-pull-") as place:
        git, git_dir = Git(os.path.join(place, "home")), os.path.join(place, "made")
        make_git_dir(git_dir, bare=True)
        write_atomically(
            os.path.join(git_dir, "objects/info/alternates"), os.fsencode(objects) + b"\n"
        )
        env = {"GIT_INDEX_FILE": os.path.join(git_dir, "index")}
        if base_commit:
            # Its parents are not here, and nobody needs them.
            write_atomically(os.path.join(git_dir, "shallow"), f"{base_commit}\n".encode())
            there, _, _ = git.succeeds(["cat-file", "-e", base_commit], git_dir=git_dir)
            if not there:
                raise WorkspaceError(
                    f"the commit {base_commit[:12]}, from which the task began, was not kept (the "
                    "task came from elsewhere, worked in place, or an older version ran it): "
                    "`agent-runtime diff` has its patch"
                )
            git.run(["read-tree", base_commit], git_dir=git_dir, env=env)
        if patch:
            ok, _, said = git.succeeds(
                ["apply", "--cached", "--3way", "--whitespace=nowarn"],
                git_dir=git_dir, stdin=patch, env=env,
            )  # fmt: skip
            if not ok:
                raise WorkspaceError(
                    f"the result does not fit commit {base_commit[:12] or 'none'} alone: "
                    f"{said[-500:]}; it began with uncommitted edits: commit them and run it "
                    "again, or `agent-runtime apply` it to the checkout that has them"
                )
        tree = git.run(["write-tree"], git_dir=git_dir, env=env).decode().strip()
        at = f"@{at_us // 1_000_000} +0000"
        who = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in (
                ("NAME", text.name), ("EMAIL", text.email), ("DATE", at),
            )
        }  # fmt: skip
        parents = ["-p", base_commit] if base_commit else []
        commit = git.run(
            ["-c", "commit.gpgSign=false", "commit-tree", *parents, tree],
            git_dir=git_dir, stdin=text.message.encode("utf-8", "surrogateescape"), env=env | who,
        ).decode().strip()  # fmt: skip
        ref = f"refs/heads/{branch}"
        git.run(["update-ref", ref, commit], git_dir=git_dir)
        without = [f"^{base_commit}"] if base_commit else []
        made = git.run_capped(
            ["bundle", "create", "--quiet", "-", ref, *without],
            git_dir=git_dir, bytes_max=bytes_max,
        )  # fmt: skip
        if made is None:
            raise WorkspaceError(f"the branch needs more than {bytes_max:,} bytes as a bundle")
        return made


def pull_branch(bundle: bytes, checkout: str, *, branch: str = "") -> tuple[str, str, bool]:
    """Take a bundle of one branch into the repository at `checkout`. Blocks.

    Returns the branch's name, its commit, and whether it was made now: the same one again changes
    nothing.

    Raises:
        Conflict: another branch has that name; nothing was changed.
        UsageError: no branch can have that name.
        WorkspaceError: not a repository here, or it does not have the base; or no such bundle.
    """
    base, commit, told, pack = _parts(bundle)
    name = branch or told
    source = locate(checkout, TAKE)
    if not isinstance(source, Local):
        raise WorkspaceError(f"{checkout!r} is not a repository on this machine")
    with tempfile.TemporaryDirectory(prefix="agent-runtime-pull-") as place:
        git = Git(os.path.join(place, "home"))
        view = View(source, os.path.join(place, "view"), git)
        ref = f"refs/heads/{name}"
        legal, _, _ = git.succeeds(["check-ref-format", ref], git_dir=view.path)
        if not legal or name.startswith("-") or name == "HEAD":
            raise UsageError(f"git does not allow a branch called {name!r}; choose another name")
        there = {full: oid for oid, full in view.refs()}.get(ref)
        if there == commit:
            return name, commit, False
        if there is not None:
            raise Conflict(
                f"branch {name!r} exists in {source.name!r}, at {there[:12]}; nothing was changed: "
                "choose another name with --branch, or delete it"
            )
        if base:
            has, _, _ = git.succeeds(["cat-file", "-e", f"{base}^{{tree}}"], git_dir=view.path)
            if not has:
                raise WorkspaceError(
                    f"{source.name!r} does not have the commit {base}, from which the task began: "
                    "fetch it, or name the repository that has it"
                )
        try:
            out = git.run(
                ["index-pack", "--stdin", "--fix-thin", "--strict"], git_dir=view.path, stdin=pack
            )
            kind = git.run(["cat-file", "-t", commit], git_dir=view.path).strip()
        except GitFailed as error:
            raise WorkspaceError(f"the bundle is not whole: {error.stderr[-500:]}") from error
        if kind != b"commit":
            raise WorkspaceError(f"the bundle's branch is a {kind.decode()}, and no commit")
        pack_name = f"pack-{out.decode().split()[-1]}"
        for ending in ("pack", "idx", "rev"):
            path = os.path.join(source.common_dir, "objects", "pack", f"{pack_name}.{ending}")
            give_to_owner(path, source.common_dir)
        try:
            git.run(["update-ref", "--no-deref", ref, commit, _NO_OBJECT], git_dir=view.path)
        except GitFailed as error:
            raise Conflict(
                f"branch {name!r} cannot be made in {source.name!r}: {error.stderr[-500:]}"
            ) from error
        path = os.path.join(source.common_dir, ref)
        while path != os.path.join(source.common_dir, "refs", "heads"):
            give_to_owner(path, source.common_dir)
            path = os.path.dirname(path)
        return name, commit, True


def _parts(bundle: bytes) -> tuple[str, str, str, bytes]:
    """Base commit ("" for none), commit, branch and pack of a bundle with one branch."""
    lines: list[str] = []
    at = 0
    for _ in range(_LINES_MAX):
        end = bundle.find(b"\n", at, at + _LINE_BYTES_MAX)
        if end < 0:
            break
        line, at = bundle[at:end].decode("utf-8", "replace"), end + 1
        if not line:
            break
        lines.append(line)
    found = [re.fullmatch(r"([0-9a-f]{40}) refs/heads/(.+)", line) for line in lines]
    branches = [each for each in found if each is not None]
    bases = [line[1:41] for line in lines if line.startswith("-")]
    if not lines or not lines[0].startswith("# v") or len(branches) != 1 or len(bases) > 1:
        raise WorkspaceError("this is no bundle of a task's branch")
    return bases[0] if bases else "", branches[0][1], branches[0][2], bundle[at:]
