"""The result reaches the user's checkout: cleanly, merged three-way, or not at all.

The touched files, uncommitted edits included, are copied to a stage of ours; git applies the patch
there. Only when all of it worked are the results moved into the checkout, so a conflict leaves it
exactly as it was. The checkout's index, configuration, hooks and filters are not used. Applying the
same patch again changes nothing.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress

import anyio.to_thread

from agent_runtime.errors import ApplyConflict, WorkspaceError
from agent_runtime.workspaces.files import Walker, directory, open_file, write_entry
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir
from agent_runtime.workspaces.objects import (
    CHUNK_BYTES,
    MODE_EXECUTABLE,
    MODE_FILE,
    MODE_LINK,
    Listing,
    ObjectStore,
    shown,
)
from agent_runtime.workspaces.scan import Scan, signature_of
from agent_runtime.workspaces.source import TAKE, Local, locate, named

_INDEX = re.compile(rb"\nindex [0-9a-f]{40}\.\.([0-9a-f]{40})(?: (\d{6}))?")
_MODE = re.compile(rb"\nnew (?:file )?mode (\d{6})")
_GLOB = re.compile(rb"[\\*?\[]")
_TEXT_BYTES_MAX = 16 << 20
"""Larger files are taken as they are, whatever their line ends."""


async def apply(
    patch: bytes,
    checkout: str,
    *,
    base_commit: str,
    check_only: bool = False,
    objects: str = "",
) -> list[str]:
    """`apply_patch` for callers without a `LocalWorkspaces`."""

    def run() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="agent-runtime-") as home:
            return apply_patch(
                patch,
                checkout,
                base_commit=base_commit,
                check_only=check_only,
                objects=objects,
                git=Git(home),
            )

    return await anyio.to_thread.run_sync(run)


def apply_patch(
    patch: bytes,
    checkout: str,
    *,
    base_commit: str,
    check_only: bool,
    objects: str,
    git: Git,
) -> list[str]:
    """Apply `patch` to the working tree at `checkout`; returns the paths that changed. Blocks.

    `objects` is an object directory that has the patch's old versions, for the three-way merge.

    Raises:
        ApplyConflict: names the paths in conflict; the checkout is as it was.
        WorkspaceError: not a checkout, or not a patch.
    """
    source = locate(checkout, TAKE)
    if not isinstance(source, Local) or not source.top:
        raise WorkspaceError(f"{checkout!r} is not a checkout on this machine")
    if not patch:
        return []
    with tempfile.TemporaryDirectory(prefix="agent-runtime-apply-") as temporary:
        stage = _Stage(temporary, source, objects, git)
        try:
            results = stage.results_of(patch)
        except GitFailed as error:
            raise WorkspaceError(f"this is not a patch that git understands: {error}") from error
        paths = sorted(results)
        with directory(source.top) as root:
            found = _look_all(root, paths)
            before = stage.fill(root, found, lf=b"\r" not in patch)
            done = [path for path in paths if before.get(path) == results[path]]
            conflicts = stage.apply(patch, paths, done)
            if conflicts:
                raise ApplyConflict(
                    f"the result conflicts with {source.top!r} in {named(conflicts)}; nothing was"
                    f" changed. {_ways_out(conflicts, stage.added, base_commit)}"
                )
            after = stage.scan()
            changed = sorted(
                path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
            )
            if not check_only:
                again = _look_all(root, paths)
                if {p: signature_of(f) for p, f in again.items()} != {
                    p: signature_of(f) for p, f in found.items()
                }:
                    raise ApplyConflict(
                        f"{source.top!r} changed while the result was being applied; nothing was"
                        " changed by us: try again"
                    )
                _move(root, stage, changed, before, after, stage.crlf, found)
        return [shown(path) for path in changed]


def _ways_out(conflicts: Sequence[bytes], added: set[bytes], base_commit: str) -> str:
    in_the_way = [path for path in conflicts if path in added]
    ways = []
    if in_the_way:
        ways.append(
            f"The task makes {named(in_the_way)}, and another file stands there: move it away and "
            "apply again"
        )
    if len(in_the_way) < len(conflicts):
        at = f"The task started from {base_commit[:12]}: apply" if base_commit else "Apply"
        ways.append(
            f"{at} it to a checkout of that commit, or let git merge the branch that "
            "`agent-runtime pull` makes of it"
        )
    return ". ".join(ways)


class _Stage:
    """A small working tree and repository of ours, with only the touched files in it."""

    def __init__(self, temporary: str, source: Local, objects: str, git: Git) -> None:
        self.tree = os.path.join(temporary, "tree")
        self._git_dir = os.path.join(temporary, "git")
        self._git = git
        os.mkdir(self.tree)
        make_git_dir(self._git_dir, bare=False)
        self.store = ObjectStore(self._git_dir, git)
        others = [os.path.join(source.common_dir, "objects"), objects]
        self._env = {
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(_quoted(o) for o in others if o)
        }
        self.crlf: set[bytes] = set()
        self.added: set[bytes] = set()
        """Files that the patch makes."""

    def results_of(self, patch: bytes) -> dict[bytes, tuple[int, str] | None]:
        """Every path that the patch touches, and what it leaves there: None if it removes it.

        (0, "") where the patch does not say.
        """
        out = self._run(["apply", "--numstat", "-z"], stdin=patch)
        paths = [record.split(b"\t", 2)[2] for record in out.split(b"\0")[:-1]]
        # Lines of content begin with a blank or a sign, binary ones have no blank at all.
        parts = (b"\n" + patch).split(b"\ndiff --git ")[1:]
        if len(parts) != len(paths):
            return dict.fromkeys(paths, (0, ""))
        self.added = {
            path
            for path, part in zip(paths, parts, strict=True)
            if b"\nnew file mode " in part.split(b"\n@@ ", 1)[0]
        }
        # A file that becomes a link comes as a removal and an addition: the later one counts.
        return {
            path: _result(part.split(b"\n@@ ", 1)[0])
            for path, part in zip(paths, parts, strict=True)
        }

    def fill(self, root: int, found: dict[bytes, os.stat_result], *, lf: bool) -> Listing:
        """Copy the touched files from the checkout and make an index of them.

        With `lf`, a file whose lines all end in CRLF is staged with LF: the checkout has converted
        it, the patch has not.
        """
        with directory(self.tree) as stage, Walker(stage, create=True) as target:
            with Walker(root) as source:
                for path in sorted(found):
                    below, name = source.parent(path)
                    if stat.S_ISLNK(found[path].st_mode):
                        link = os.readlink(name, dir_fd=below)
                        write_entry(target, path, MODE_LINK, [link])
                        continue
                    mode = MODE_EXECUTABLE if found[path].st_mode & 0o100 else MODE_FILE
                    with open(open_file(name, below=below), "rb") as file:
                        if lf and (text := _crlf_text(file.fileno())) is not None:
                            self.crlf.add(path)
                            write_entry(target, path, mode, [text.replace(b"\r\n", b"\n")])
                        else:
                            write_entry(
                                target, path, mode, iter(lambda: file.read(CHUNK_BYTES), b"")
                            )
        listing = self.scan()
        lines = [b"%o %s\t%s\0" % (m, o.encode(), path) for path, (m, o) in listing.items()]
        self._run(["update-index", "-z", "--index-info"], stdin=b"".join(lines))
        self._run(["update-index", "-q", "--refresh"])
        return listing

    def apply(self, patch: bytes, paths: Sequence[bytes], done: Sequence[bytes]) -> list[bytes]:
        """Apply to the stage, but for the paths that are `done`; returns the paths in conflict."""
        if len(done) == len(paths):
            return []
        arguments: list[str | bytes] = ["apply", "--3way", "--whitespace=nowarn"]
        arguments += [b"--exclude=" + _GLOB.sub(rb"\\\g<0>", path) for path in done]
        ok, _, said = self._git.succeeds(
            arguments, git_dir=self._git_dir, work_tree=self.tree, stdin=patch, env=self._env
        )
        if ok:
            return []
        out = self._run(["ls-files", "-u", "-z"])
        unmerged = {record.split(b"\t", 1)[1] for record in out.split(b"\0")[:-1]}
        errors = "\n".join(line for line in said.splitlines() if line.startswith("error:"))
        return sorted(unmerged) or [p for p in paths if shown(p) in errors] or list(paths)

    def scan(self) -> Listing:
        """What the stage holds."""
        with directory(self.tree) as root:
            return Scan(self.store).run(root, None).listing()

    def _run(self, arguments: Sequence[str], *, stdin: bytes = b"") -> bytes:
        return self._git.run(
            arguments, git_dir=self._git_dir, work_tree=self.tree, stdin=stdin, env=self._env
        )


def _result(head: bytes) -> tuple[int, str] | None:
    if b"\ndeleted file mode " in head:
        return None
    index = _INDEX.search(head)
    mode = _MODE.search(head)
    if index is None or not (mode or index[2]):
        return (0, "")
    return int(mode[1] if mode else index[2], 8), index[1].decode()


def _look_all(root: int, paths: Sequence[bytes]) -> dict[bytes, os.stat_result]:
    """The touched files and links that exist. Raises `ApplyConflict` for what stands in the way."""
    found: dict[bytes, os.stat_result] = {}
    in_the_way: list[bytes] = []
    touched = set(paths)
    for path in paths:
        try:
            facts = _facts(root, path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue
            above = {path[:i] for i, byte in enumerate(path) if byte == 0x2F}
            # A file or link in place of a directory is fine if the patch removes it.
            if error.errno in (errno.ENOTDIR, errno.ELOOP) and above & touched:
                continue
            in_the_way.append(path)
            continue
        if stat.S_ISDIR(facts.st_mode):
            if not all(inner in touched for inner in _files_below(root, path)):
                in_the_way.append(path)
        elif stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
            found[path] = facts
        else:
            in_the_way.append(path)
    if in_the_way:
        raise ApplyConflict(
            f"something else stands in the way of {named(in_the_way)}; nothing was changed: move"
            " it away and apply again"
        )
    return found


def _facts(root: int, path: bytes) -> os.stat_result:
    with Walker(root) as walker:
        below, name = walker.parent(path)
        return os.stat(name, dir_fd=below, follow_symlinks=False)


def _files_below(root: int, path: bytes) -> Iterator[bytes]:
    with Walker(root) as walker, os.scandir(walker.enter(path.split(b"/"))) as entries:
        inner = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
    for name, is_directory in inner:
        below = path + b"/" + name
        if is_directory:
            yield from _files_below(root, below)
        else:
            yield below


def _move(
    root: int,
    stage: _Stage,
    changed: Sequence[bytes],
    before: Listing,
    after: Listing,
    crlf: set[bytes],
    found: dict[bytes, os.stat_result],
) -> None:
    """Bring the stage's changes into the checkout; an error on the way undoes them."""
    done: list[bytes] = []
    try:
        for path in sorted(changed, key=lambda p: p in after):  # what goes makes room first
            done.append(path)
            _put(root, path, stage.store, after.get(path), crlf, found.get(path))
    except OSError:
        for path in reversed(done):
            with suppress(OSError):
                _put(root, path, stage.store, before.get(path), crlf, found.get(path))
        raise


def _put(
    root: int,
    path: bytes,
    store: ObjectStore,
    item: tuple[int, str] | None,
    crlf: set[bytes],
    old: os.stat_result | None,
) -> None:
    """Make one path of the checkout hold `item`; a file is replaced whole or not at all."""
    if item is None:
        with Walker(root) as walker:
            below, name = walker.parent(path)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=below)
        _remove_empty_parents(root, path)
        return
    mode, oid = item
    with Walker(root, create=True) as walker:
        below, name = walker.parent(path)
        temporary = b".agent-runtime-" + oid.encode()
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=below)
        if mode == MODE_LINK:
            os.symlink(store.blob(oid), temporary, dir_fd=below)
            walker.own_link(temporary, below)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(
                temporary, flags, 0o777 if mode == MODE_EXECUTABLE else 0o666, dir_fd=below
            )
            with open(fd, "wb") as file:
                _copy_blob(store, oid, file.fileno(), crlf=path in crlf)
                walker.own(file.fileno())
                if old is not None and stat.S_ISREG(old.st_mode):
                    os.fchmod(file.fileno(), _permissions(old.st_mode, mode))
        with suppress(OSError):  # an empty directory may stand there
            os.rmdir(name, dir_fd=below)
        os.replace(temporary, name, src_dir_fd=below, dst_dir_fd=below)


def _copy_blob(store: ObjectStore, oid: str, fd: int, *, crlf: bool) -> None:
    def take(_: int, chunks: Iterator[bytes]) -> None:
        with open(fd, "wb", closefd=False) as file:
            for chunk in [b"".join(chunks).replace(b"\n", b"\r\n")] if crlf else chunks:
                file.write(chunk)

    store.blobs([oid], take)


def _permissions(old: int, mode: int) -> int:
    permissions = stat.S_IMODE(old)
    if mode == MODE_EXECUTABLE:
        return permissions | (permissions & 0o444) >> 2
    return permissions & ~0o111


def _remove_empty_parents(root: int, path: bytes) -> None:
    parents = path.split(b"/")[:-1]
    with suppress(OSError):
        while parents:
            with Walker(root) as walker:
                os.rmdir(parents[-1], dir_fd=walker.enter(parents[:-1]))
            parents.pop()


def _crlf_text(fd: int) -> bytes | None:
    """The content if it is text whose lines all end in CRLF."""
    if os.fstat(fd).st_size > _TEXT_BYTES_MAX:
        return None
    with open(fd, "rb", closefd=False) as file:
        data = file.read()
        file.seek(0)
    if b"\0" in data or b"\r\n" not in data or data.count(b"\n") != data.count(b"\r\n"):
        return None
    return data


def _quoted(path: str) -> str:
    """Git takes a C-quoted path where a separator would split it."""
    if os.pathsep in path or '"' in path or "\n" in path:
        return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return path
