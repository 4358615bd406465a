"""The working clone that an agent gets: whole, independent, and with a `.git` that names nothing.

It is written under a temporary name: objects copied (never hard links, never a worktree), branches
and tags, the files of `ref` byte for byte, then the source's uncommitted edits. Only when all of it
is there is it renamed. After that the daemon never runs git on the clone's own `.git` again.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent_runtime.errors import WorkspaceError
from agent_runtime.types import WorkspaceSpec
from agent_runtime.workspaces.files import (
    Walker,
    directory,
    open_file,
    remove_entry,
    write_entry,
)
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir, redact, write_atomically
from agent_runtime.workspaces.objects import (
    CHUNK_BYTES,
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    MODE_SUBMODULE,
)
from agent_runtime.workspaces.remotes import Access, Remotes
from agent_runtime.workspaces.scan import Scan
from agent_runtime.workspaces.source import Local, Remote, View, locate, named, resolve
from agent_runtime.workspaces.trees import Trees
from agent_runtime.workspaces.write import write_listing

REMOTE_MOUNT = "/workspace"
_SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came out of making a clone."""

    base_commit: str
    mount: str
    carried: tuple[str, ...]
    notes: tuple[str, ...]


def branch_of(task_id: str) -> str:
    """The branch that a task works on."""
    return f"agent-runtime/{task_id}"


def make_clone(
    spec: WorkspaceSpec,
    *,
    branch: str,
    target: str,
    view_path: str,
    trees: Trees,
    git: Git,
    at: str | None = None,
    remotes: Remotes,
) -> Made:
    """Fill the new, empty directory `target`; `trees` knows its files afterwards. Blocks.

    `at` is the commit in place of the one of `spec.ref`; empty for none, as in a new repository.
    """
    source = locate(spec.repo)
    notes: list[str] = []
    git_dir = os.path.join(target, ".git")
    make_git_dir(git_dir, bare=False, head=f"ref: refs/heads/{branch}")
    if isinstance(source, Local):
        view = View(source, view_path, git)
        commit = at if at == "" else view.commit_of(at or spec.ref)
        view.copy_objects(os.path.join(git_dir, "objects"))
        refs = [(oid, name.replace("refs/heads/", "refs/remotes/origin/", 1))
                for oid, name in view.refs()]  # fmt: skip
        if view.shallow:
            os.replace(f"{view.path}/shallow", f"{git_dir}/shallow")
            notes.append("the repository is a shallow clone: history ends early in the workspace")
        _write_packed_refs(git_dir, refs)
        url = ""
        mount = _mount_of(source)
    else:
        view = None
        url, mount = redact(source.url), REMOTE_MOUNT
        with remotes.access(source.url) as access:
            commit = _fetch(source, access, at or spec.ref, git_dir, git)
    # The same files that the clone shows go to the private store, as one pack.
    listing = committed = _seed(commit, git_dir, trees, git) if commit else {}
    edited = view.uncommitted(commit) if view is not None and spec.include_dirty else ""
    if edited:
        listing = _seed(edited, git_dir, trees, git)
    with directory(target) as root:
        scan = Scan(trees.store)
        node, pointers = write_listing(trees.store, root, listing, now=None, scan=scan)
        _settle_git(git_dir, target, commit, branch, git)
        submodules = sorted(path for path, (mode, _) in listing.items() if mode == MODE_SUBMODULE)
        if submodules:
            notes.append(_submodules(source, submodules))
        if pointers:
            notes.append(
                f"{len(pointers)} Git LFS files stay pointer files in the workspace"
                f" ({named(pointers)}); use workspace.in_place: true if the task needs the content"
            )
        both = committed.keys() | listing.keys()
        carried = sorted(path for path in both if committed.get(path) != listing.get(path))
        if view is not None and view.source.top and spec.include_dirty:
            if commit == view.commit_of("HEAD"):
                dirty = view.dirty()
                notes += dirty.notes
                carried, trouble = _carry(view.source.top, root, dirty.paths)
                notes += trouble
            elif view.dirty().paths:
                notes.append(
                    f"uncommitted edits were not carried over: workspace.ref {spec.ref!r} is not"
                    " what is checked out"
                )
        trees.adopt(node)
    _write_config(git_dir, url)
    return Made(
        base_commit=commit,
        mount=mount,
        carried=tuple(path.decode("utf-8", "backslashreplace") for path in carried),
        notes=tuple(notes),
    )


def _mount_of(source: Local) -> str:
    """Sandboxes see a clone where its source is, so that an editable install imports the clone."""
    path = source.top
    if not path or path == "/" or any(path == p or path.startswith(p + "/") for p in _SYSTEM):
        return REMOTE_MOUNT
    return path


def _fetch(source: Remote, access: Access, ref: str, git_dir: str, git: Git) -> str:
    """Fetch branches and tags into a new repository and return the commit of `ref`."""
    shown_url = redact(source.url)
    if source.url.startswith("-"):
        raise WorkspaceError(f"workspace.repo {shown_url!r} is not a git URL")
    url, env, fds = access.url, access.env, access.fds
    try:
        head = git.run(
            ["ls-remote", "--", url, "HEAD"], git_dir=git_dir, env=env, fds=fds, network=True
        )
        refspecs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        git.run(
            ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
             "--", url, *refspecs],
            git_dir=git_dir,
            env=env,
            fds=fds,
            network=True,
        )  # fmt: skip
        if re.fullmatch("[0-9a-f]{40}", ref):
            ok, _, _ = git.succeeds(["cat-file", "-e", ref], git_dir=git_dir)
            if not ok:
                git.run(
                    ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", url, ref],
                    git_dir=git_dir,
                    env=env,
                    fds=fds,
                    network=True,
                )  # fmt: skip
    except GitFailed as error:
        raise WorkspaceError(
            f"repository {shown_url!r} cannot be fetched: {access.shown(error.stderr)[-1000:]}; a"
            " token or a key of the setting git_credentials, ssh-agent or a local clone work"
        ) from error
    out = git.run(["for-each-ref", "--format=%(refname)"], git_dir=git_dir)
    names = out.decode("utf-8", "surrogateescape").splitlines()
    if ref == "HEAD":
        return head.decode().split("\t", 1)[0].strip()
    return resolve(git, git_dir, ref, names)


def _seed(commit: str, git_dir: str, trees: Trees, git: Git) -> dict[bytes, tuple[int, str]]:
    pack_path = os.path.join(trees.store.path, "objects", "pack", "pack")
    tree = f"{commit}^{{tree}}"
    # As the store, which borrows the clone's objects: the two may lie on different disks, and git
    # writes a pack where its own objects are before it is renamed.
    git.run(
        ["pack-objects", "--quiet", "--revs", "--window=0", pack_path],
        git_dir=trees.store.path,
        stdin=f"{tree}\n".encode(),
        env={"GIT_ALTERNATE_OBJECT_DIRECTORIES": os.path.join(git_dir, "objects")},
    )
    # The commit too: a branch can be made of the result when the clone is gone.
    told = git.run(["cat-file", "commit", commit], git_dir=git_dir)
    git.run(["hash-object", "-t", "commit", "-w", "--stdin"], git_dir=trees.store.path, stdin=told)
    oid = git.run(["rev-parse", "--verify", tree], git_dir=git_dir).decode().strip()
    return trees.store.listing(oid)


def _settle_git(git_dir: str, target: str, commit: str, branch: str, git: Git) -> None:
    """Branch and index, so that the agent's first `git status` shows the carried edits only."""
    if not commit:
        return
    ref_path = os.path.join(git_dir, "refs", "heads", *branch.split("/"))
    os.makedirs(os.path.dirname(ref_path), exist_ok=True)
    write_atomically(ref_path, f"{commit}\n".encode())
    git.run(["read-tree", commit], git_dir=git_dir)
    # Exit 1 means that a file looks different: the user will see it in `git status`.
    git.run(["update-index", "-q", "--refresh"], git_dir=git_dir, work_tree=target, codes=(0, 1))


def _write_packed_refs(git_dir: str, refs: Sequence[tuple[str, str]]) -> None:
    lines = sorted((name, oid) for oid, name in refs)
    text = "# pack-refs with: sorted \n" + "".join(f"{oid} {name}\n" for name, oid in lines)
    write_atomically(os.path.join(git_dir, "packed-refs"), text.encode("utf-8", "surrogateescape"))


def _write_config(git_dir: str, url: str) -> None:
    """What the agent's git gets: no credential, no hook, an identity for its commits."""
    text = (
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
        "\tlogallrefupdates = true\n"
        "[user]\n\tname = agent-runtime\n\temail = agent-runtime@localhost\n"
    )
    if url and not re.search(r'[\n\0"\\]', url):
        text += f'[remote "origin"]\n\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n'
    write_atomically(os.path.join(git_dir, "config"), text.encode())
    os.unlink(os.path.join(git_dir, "info", "attributes"))


def _submodules(source: Local | Remote, paths: Sequence[bytes]) -> str:
    top = os.fsencode(source.top) if isinstance(source, Local) else b""
    filled = [p for p in paths if top and os.path.exists(os.path.join(top, p, b".git"))]
    if filled:
        raise WorkspaceError(
            f"the repository has initialised submodules ({named(filled)}), which a workspace cannot"
            " take along; run `git submodule deinit --all`, or use workspace.in_place: true"
        )
    return f"submodules are left empty in the workspace: {named(paths)}"


def _carry(top: str, root: int, paths: Sequence[bytes]) -> tuple[list[bytes], list[str]]:
    """Copy uncommitted paths as they are: raw bytes, links as links, what is gone is removed."""
    specials: list[bytes] = []
    carried: list[bytes] = []
    present: list[tuple[bytes, os.stat_result]] = []
    with directory(top) as source_root, Walker(source_root) as source:
        for path in sorted(paths):
            facts = _look(source, path)
            _remove(root, path)
            if facts is None:
                carried.append(path)
            elif stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                present.append((path, facts))
            elif stat.S_ISDIR(facts.st_mode):
                carried.append(path)  # a directory took the file's place; what it holds is listed
            else:
                specials.append(path)
        with Walker(root, create=True) as target:
            for path, facts in present:
                mode, chunks = _read(source, path, facts)
                write_entry(target, path, mode, chunks)
                carried.append(path)
    notes = [f"not carried over, pipes, sockets or devices: {named(specials)}"] if specials else []
    return sorted(carried), notes


def _look(walker: Walker, path: bytes) -> os.stat_result | None:
    try:
        below, name = walker.parent(path)
        return os.stat(name, dir_fd=below, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None  # gone, or below something that took its directory's place
        raise


def _remove(root: int, path: bytes) -> None:
    with Walker(root) as target:
        facts = _look(target, path)
        if facts is not None:
            below, name = target.parent(path)
            remove_entry(name, below=below, is_directory=stat.S_ISDIR(facts.st_mode))


def _read(walker: Walker, path: bytes, facts: os.stat_result) -> tuple[int, Iterator[bytes]]:
    below, name = walker.parent(path)
    if stat.S_ISLNK(facts.st_mode):
        return MODE_LINK, iter([os.readlink(name, dir_fd=below)])
    mode = MODE_EXECUTABLE if facts.st_mode & 0o100 else MODE_FILE
    return mode, _chunks(open_file(name, below=below))


def _chunks(fd: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
    finally:
        os.close(fd)
