"""Where a task's repository comes from: a local path, looked at without running it, or a URL.

A local repository is read through a *view*: a `GIT_DIR` of ours whose `objects` and `refs` point to
the repository's. Its configuration, hooks and index are not used, and nothing in it is written, not
even a time stamp of its index.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from agent_runtime.errors import WorkspaceError
from agent_runtime.workspaces.git import Git, make_git_dir
from agent_runtime.workspaces.objects import shown

UPLOAD = "upload:"
"""Begins `workspace.repo` where the repository was sent to the daemon; its SHA-256 follows."""
UNCOMMITTED = "refs/agent-runtime/uncommitted"
"""In an upload: what was not committed, as a commit on what was checked out."""
_UPLOAD = re.compile(r"upload:([0-9a-f]{64})\Z")
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*://")
_SCP = re.compile(r"^(?:[\w.-]+@)?[\w.-]+:(?!//)")
_ALTERNATES_DEPTH_MAX = 5
_NAMED_MAX = 5
"""How many paths a note spells out."""


@dataclass(frozen=True, slots=True)
class Local:
    """A repository on this machine. `top` is its working tree; empty if it is bare."""

    top: str
    git_dir: str
    common_dir: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.top or self.common_dir


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository behind a URL."""

    url: str


@dataclass(slots=True)
class Dirty:
    """What differs from HEAD in a working tree."""

    paths: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


_BEGIN: Final = "run `git init && git add -A && git commit -m start` there first"
TAKE: Final = "name a checkout of the repository that the task worked on"
"""The way out for who brings a result: a repository that is only begun has not its commits."""


def locate(repo: str, way_out: str = _BEGIN) -> Local | Remote:
    """What `repo` names; `way_out` is told where there is no repository.

    Raises:
        WorkspaceError: nothing there, not a repository, inside one, or of a kind we cannot use.
    """
    if not repo or "\0" in repo:
        raise WorkspaceError(f"workspace.repo is {repo!r}; give a path or a git URL")
    if repo.startswith("file://"):
        return _locate_path(unquote(repo.removeprefix("file://")), way_out)
    if _URL.match(repo):
        return Remote(repo)
    if _SCP.match(repo) and not os.path.lexists(repo):
        return Remote(repo)
    return _locate_path(repo, way_out)


def upload_path(root: str, name: str) -> str:
    """Where an upload's bare repository is. `WorkspaceError` if `name` can be none's."""
    found = _UPLOAD.match(name)
    if found is None:
        raise WorkspaceError(f"{name!r} is no name of an upload: `upload:` and 64 hex digits")
    return os.path.join(root, found[1], "repo.git")


def origin_of(source: Local, git: Git) -> str:
    """The URL of a local repository's `origin`; empty if it names none. Its config is only read."""
    path = os.path.join(source.common_dir, "config")
    if not os.path.exists(path):
        return ""
    with tempfile.TemporaryDirectory(prefix="agent-runtime-view-") as place:
        ok, out, _ = git.succeeds(
            ["config", "--file", path, "--no-includes", "--get", "remote.origin.url"],
            git_dir=place,
        )
    return out.decode("utf-8", "replace").strip() if ok else ""


def _locate_path(repo: str, way_out: str) -> Local:
    path = os.path.realpath(repo)
    if not os.path.exists(path):
        raise WorkspaceError(f"repository {repo!r} does not exist; give a path or a git URL")
    if not os.path.isdir(path):
        raise WorkspaceError(f"repository {repo!r} is a file; give the directory of a repository")
    if found := _git_dir_of(path):
        return found
    parent = path
    while (parent := os.path.dirname(parent)) != "/":
        if _git_dir_of(parent):
            raise WorkspaceError(
                f"{repo!r} lies inside the repository {parent!r}; use workspace.repo: {parent!r}"
            )
    raise WorkspaceError(f"{repo!r} is not a git repository; {way_out}")


def _git_dir_of(path: str) -> Local | None:
    dot_git = os.path.join(path, ".git")
    if os.path.isdir(dot_git) and os.path.isfile(os.path.join(dot_git, "HEAD")):
        return Local(path, dot_git, dot_git)
    if os.path.isfile(dot_git):
        with open(dot_git, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(65_536)
        if not text.startswith("gitdir:"):
            return None
        git_dir = os.path.realpath(os.path.join(path, text.removeprefix("gitdir:").strip()))
        if not os.path.isfile(os.path.join(git_dir, "HEAD")):
            raise WorkspaceError(
                f"{path!r} is a worktree or submodule of {git_dir!r}, which does not exist;"
                " run `git worktree repair` there"
            )
        common_dir = git_dir
        with (
            suppress(FileNotFoundError),
            open(os.path.join(git_dir, "commondir"), encoding="utf-8") as file,
        ):
            common_dir = os.path.realpath(os.path.join(git_dir, file.read().strip()))
        return Local(path, git_dir, common_dir)
    if all(os.path.exists(os.path.join(path, name)) for name in ("HEAD", "objects", "refs")):
        top = os.path.dirname(path) if os.path.basename(path) == ".git" else ""
        if top:
            raise WorkspaceError(f"{path!r} is the inside of a repository; use {top!r}")
        return Local("", path, path)
    return None


class View:
    """A local repository as our git sees it; `path` is a directory of ours, used as `GIT_DIR`."""

    def __init__(self, source: Local, path: str, git: Git) -> None:
        self.source = source
        self.path = path
        self._git = git
        self._check_kind()
        make_git_dir(path, bare=not source.top)
        shutil.copyfile(os.path.join(source.git_dir, "HEAD"), os.path.join(path, "HEAD"))
        for name in ("refs", "objects"):
            shutil.rmtree(os.path.join(path, name))
            os.symlink(os.path.join(source.common_dir, name), os.path.join(path, name))
        os.symlink(os.path.join(source.common_dir, "packed-refs"), f"{path}/packed-refs")
        # The source's own attributes file would bring its filters into `git status`; ours stays.
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{source.common_dir}/info/exclude", f"{path}/info/exclude")
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{source.common_dir}/shallow", f"{path}/shallow")
        self.shallow = os.path.exists(os.path.join(path, "shallow"))

    def _check_kind(self) -> None:
        name = self.source.name
        config_path = os.path.join(self.source.common_dir, "config")
        settings: dict[str, str] = {}
        if os.path.exists(config_path):
            ok, out, said = self._git.succeeds(
                ["config", "--file", config_path, "--no-includes", "--list", "-z"],
                git_dir=os.path.dirname(self.path),
            )
            if not ok:
                raise WorkspaceError(f"the configuration of {name!r} cannot be read: {said}")
            for item in out.decode("utf-8", "replace").split("\0")[:-1]:
                key, _, value = item.partition("\n")
                settings[key.lower()] = value.lower()
        if settings.get("extensions.objectformat", "sha1") != "sha1":
            raise WorkspaceError(
                f"{name!r} uses the SHA-256 object format, which is not supported; push it to a"
                " repository made with `git init --object-format=sha1`"
            )
        if settings.get("extensions.refstorage", "files") != "files":
            raise WorkspaceError(
                f"{name!r} keeps its refs as a reftable, which is not supported; run"
                " `git refs migrate --ref-format=files` there"
            )
        partial = "extensions.partialclone" in settings or any(
            key.startswith("remote.") and key.endswith(".promisor") and value != "false"
            for key, value in settings.items()
        )
        if partial:
            raise WorkspaceError(
                f"{name!r} is a partial clone: files may be missing; run `git fetch --refetch"
                " --no-filter && git config --unset-all extensions.partialClone && git config"
                " --unset-all remote.origin.promisor` there, or clone it again without --filter"
            )

    # -- refs --

    def refs(self) -> list[tuple[str, str]]:
        """(object, full name) of every branch and tag."""
        out = self._git.run(
            ["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"],
            git_dir=self.path,
        )
        lines = out.decode("utf-8", "surrogateescape").splitlines()
        return [(line[:40], line[41:]) for line in lines]

    def commit_of(self, ref: str) -> str:
        """The commit of a ref; empty for the HEAD of a repository without commits.

        Raises:
            WorkspaceError: there is no such ref; the message names near ones.
        """
        return resolve(self._git, self.path, ref, [name for _, name in self.refs()])

    def uncommitted(self, commit: str) -> str:
        """Of an upload: the commit with the edits that were made on `commit`; empty if none."""
        if self.source.top:
            return ""
        ok, out, _ = self._git.succeeds(
            ["rev-list", "--parents", "--max-count=1", "--end-of-options", UNCOMMITTED],
            git_dir=self.path,
        )
        found = out.decode().split() if ok else []
        return found[0] if found[1:] == [commit] else ""

    # -- objects --

    def copy_objects(self, target: str) -> None:
        """Copy every object file, never linking: a later chown must not reach the user's packs."""
        for tries_left in (2, 1, 0):
            try:
                for source in self._object_directories():
                    _copy_objects(source, target)
                return
            except FileNotFoundError:
                # A `git gc` in the source replaced packs while we copied: look again.
                if not tries_left:
                    raise

    def _object_directories(self) -> Iterator[str]:
        todo = [(os.path.join(self.source.common_dir, "objects"), 0)]
        seen: set[str] = set()
        while todo:
            path, depth = todo.pop()
            path = os.path.realpath(path)
            if path in seen or not os.path.isdir(path):
                continue
            seen.add(path)
            yield path
            with (
                suppress(FileNotFoundError),
                open(os.path.join(path, "info", "alternates"), "rb") as file,
            ):
                if depth < _ALTERNATES_DEPTH_MAX:
                    lines = [os.fsdecode(line) for line in file.read().splitlines() if line]
                    todo += [(os.path.join(path, line), depth + 1) for line in lines]

    # -- uncommitted edits --

    def dirty(self) -> Dirty:
        """Tracked files that differ from HEAD, and untracked ones that are not ignored."""
        found = Dirty()
        index_path = os.path.join(self.path, "private-index")
        with suppress(FileNotFoundError):
            # With its time stamp: git compares it with a file's to know that a look is needed.
            shutil.copy2(os.path.join(self.source.git_dir, "index"), index_path)
        for name in os.listdir(self.source.git_dir):
            if name.startswith("sharedindex."):
                shutil.copy2(f"{self.source.git_dir}/{name}", f"{self.path}/{name}")
        out = self._git.run(
            ["status", "--porcelain=v2", "-z", "--untracked-files=all", "--no-renames",
             "--ignore-submodules=all"],
            git_dir=self.path,
            work_tree=self.source.top,
            env={"GIT_INDEX_FILE": index_path},
        )  # fmt: skip
        nested: list[bytes] = []
        unmerged: list[bytes] = []
        for record in out.split(b"\0")[:-1]:
            match record[:1]:
                case b"1":
                    found.paths.append(record.split(b" ", 8)[8])
                case b"u":
                    unmerged.append(record.split(b" ", 10)[10])
                case b"?" if record.endswith(b"/"):
                    nested.append(record[2:-1])
                case b"?":
                    found.paths.append(record[2:])
                case _:
                    pass
        found.paths += unmerged
        found.paths.sort()
        if nested:
            found.notes.append(
                f"not carried over, repositories of their own: {named(nested)}; commit them as"
                " submodules or remove their .git"
            )
        if unmerged:
            found.notes.append(f"carried over with conflict markers: {named(unmerged)}")
        if specials := sorted(_specials(self.source.top)):
            found.notes.append(f"not carried over, pipes, sockets or devices: {named(specials)}")
        return found


def resolve(git: Git, git_dir: str, ref: str, names: Sequence[str]) -> str:
    """The commit that `ref` means; empty for an unborn HEAD. `WorkspaceError` names near refs."""
    if ref.startswith("-") or not ref or "\0" in ref or "\n" in ref:
        raise WorkspaceError(f"workspace.ref {ref!r} is not a ref: it may not begin with '-'")
    short = [re.sub(r"^refs/(heads|tags|remotes/origin)/", "", name) for name in names]
    for candidate in (ref, f"refs/remotes/origin/{ref}"):
        ok, out, _ = git.succeeds(
            ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{candidate}^{{commit}}"],
            git_dir=git_dir,
        )
        if ok:
            return out.decode().strip()
    if ref == "HEAD" and not names:
        return ""
    near = difflib.get_close_matches(ref, short, n=3, cutoff=0.5) or sorted(set(short))[:3]
    hint = f"near: {', '.join(near)}" if near else "it has no branch and no tag"
    raise WorkspaceError(f"workspace.ref {ref!r} names no commit of the repository; {hint}")


def named(paths: Sequence[bytes]) -> str:
    """A few paths for a note, and how many more there are."""
    text = ", ".join(repr(shown(path)) for path in paths[:_NAMED_MAX])
    more = len(paths) - _NAMED_MAX
    return f"{text} and {more} more" if more > 0 else text


def _specials(top: str) -> Iterator[bytes]:
    """Pipes, sockets and devices: git never mentions them, and a reader would wait for ever."""
    todo = [os.fsencode(top)]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != b".git":
                        todo.append(entry.path)
                elif not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
                    yield os.path.relpath(entry.path, os.fsencode(top))


def _copy_objects(source: str, target: str) -> None:
    # Loose objects first: a concurrent gc writes a pack before it removes what it packed. So a
    # loose one that is gone is in a pack that is still to come; and a gc in the background, which
    # a large commit starts, removes them for seconds.
    for name in sorted(os.listdir(source)):
        if re.fullmatch("[0-9a-f]{2}", name):
            with suppress(FileNotFoundError):
                for file_name in os.listdir(os.path.join(source, name)):
                    with suppress(FileNotFoundError):
                        _copy_object(source, target, name, file_name)
    pack_path = os.path.join(source, "pack")
    if os.path.isdir(pack_path):
        # A pack's index comes last: git looks for packs by their index.
        for file_name in sorted(os.listdir(pack_path), key=lambda n: n.endswith(".idx")):
            if re.fullmatch(r"pack-\w+\.(pack|idx|rev|mtimes)", file_name):
                _copy_object(source, target, "pack", file_name)


def _copy_object(source: str, target: str, directory: str, name: str) -> None:
    final = os.path.join(target, directory, name)
    if not name.startswith("tmp_") and not os.path.exists(final):
        os.makedirs(os.path.dirname(final), exist_ok=True)
        _copy_regular(os.path.join(source, directory, name), final)


def _copy_regular(source: str, target: str) -> None:
    # A link among the objects could name any file of the daemon (CVE-2022-39253).
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as reader:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            with open(target, "xb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
            os.chmod(target, 0o444)
