"""Repositories that come over the wire: a git bundle, checked, and kept by its content.

    <state_dir>/uploads/<sha256 of the bundle>/repo.git     bare; what `workspace.repo: upload:…` is
                                               received      touched when the bundle is sent again

Uncommitted edits are a commit of their own in the bundle, under `refs/agent-runtime/uncommitted`;
its parent is what was checked out. Whoever sends a bundle may be anybody: its size is bounded while
it comes and once unpacked, every object is checked (`index-pack --strict`), refs that are neither
branches nor tags are dropped, and no configuration or hook can be in it. It goes through a file,
never through memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterable, Collection
from typing import IO, Final

import anyio.to_thread

from agent_runtime.errors import UsageError, WorkspaceError
from agent_runtime.workspaces.files import directory, remove_path
from agent_runtime.workspaces.git import Git, GitFailed, make_git_dir, no_room, write_atomically
from agent_runtime.workspaces.objects import MODE_EXECUTABLE, MODE_FILE, MODE_LINK, shown
from agent_runtime.workspaces.source import UNCOMMITTED, UPLOAD, Local, View, locate

HEADER_BYTES_MAX: Final = 8 << 20
REFS_MAX: Final = 20_000
UNPACKED_TIMES: Final = 40
"""How many times its own size a bundle's files may be: history packs well, and bombs better."""
UNPACKED_BYTES_MIN: Final = 1 << 30
OBJECT_MEMORY_BYTES: Final = 512 << 20
"""Of what git may ask for at once: a delta of some bytes can unpack to any size, in memory."""
_WRITE_BYTES: Final = 1 << 20
_OLD_FAULTS: Final = ",".join(
    f"{name}=ignore"
    for name in (
        "zeroPaddedFilemode", "missingSpaceBeforeDate", "badTimezone", "missingEmail",
        "missingNameBeforeEmail", "missingSpaceBeforeEmail", "badDate", "badDateOverflow",
        "zeroPaddedDate", "missingTaggerEntry", "badTagName", "nullSha1",
    )
)  # fmt: skip
"""Ancient commits of well-known projects have these; they harm nobody."""
_REF: Final = re.compile(r"refs/(heads|tags)/[^\x00-\x20\x7f~^:?*\[\\]+\Z")
_ODD: Final = re.compile(r"\.\.|//|/\.|\.lock(/|\Z)|@\{|[/.]\Z")
"""What git-check-ref-format(1) refuses beyond that; a repository that has one cannot be read."""
_NAME: Final = re.compile(r"[0-9a-f]{64}\Z")
_OID: Final = re.compile(r"[0-9a-f]{40}\Z")


class LocalUploads:
    """The `Uploads` port on this machine's disk."""

    def __init__(self, state_dir: str, *, bytes_max: int = 1 << 30) -> None:
        self._root = os.path.join(os.path.abspath(state_dir), "uploads")
        self._git = Git(os.path.join(self._root, ".git-home"))
        self._bytes_max = bytes_max

    async def receive(self, chunks: AsyncIterable[bytes]) -> str:
        """Take in a bundle. See `Uploads.receive`."""
        os.makedirs(self._root, mode=0o711, exist_ok=True)
        place = tempfile.mkdtemp(prefix="receiving-", dir=self._root)
        try:
            digest, path = hashlib.sha256(), os.path.join(place, "bundle")
            with open(path, "wb") as file:
                await self._spool(chunks, file, digest.update)
            name = digest.hexdigest()
            await anyio.to_thread.run_sync(self._take_in, place, path, name)
            return f"{UPLOAD}{name}"
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise no_room(error.strerror) from error
            raise
        finally:
            await anyio.to_thread.run_sync(remove_path, place)

    async def unused(self, named: Collection[str], before: float) -> list[str]:
        """Uploads that nobody needs. See `Uploads.unused`."""

        def look() -> list[str]:
            if not os.path.isdir(self._root):
                return []
            found = []
            for name in sorted(os.listdir(self._root)):
                place = os.path.join(self._root, name)
                if name.startswith(("receiving-", "removing-")):
                    # Of somebody who died; one that is just coming in grows all the time.
                    inside = [os.path.join(place, each) for each in os.listdir(place)]
                    if max(map(_changed_at, [place, *inside])) < before:
                        found.append(name)
                elif _NAME.match(name) and f"{UPLOAD}{name}" not in named:
                    if _changed_at(os.path.join(place, "received")) < before:
                        found.append(f"{UPLOAD}{name}")
            return found

        return await anyio.to_thread.run_sync(look)

    async def remove(self, name: str) -> None:
        """Remove one. Safe to repeat."""

        def run() -> None:
            place = os.path.join(self._root, name.removeprefix(UPLOAD))
            gone = os.path.join(self._root, f"removing-{os.path.basename(place)}")
            try:
                # In one step: whoever looks sees all of it, or nothing.
                os.rename(place, gone)
            except FileNotFoundError:
                return
            except OSError:
                gone = place
            remove_path(gone)

        await anyio.to_thread.run_sync(run)

    # -- helpers --

    async def _spool(self, chunks: AsyncIterable[bytes], file: IO[bytes], update: object) -> None:
        assert callable(update)
        waiting: list[bytes] = []
        here = total = 0

        def write(pieces: list[bytes]) -> None:
            for piece in pieces:
                update(piece)
                file.write(piece)

        async for chunk in chunks:
            total, here = total + len(chunk), here + len(chunk)
            if total > self._bytes_max:
                raise UsageError(
                    f"the bundle is larger than {self._bytes_max:,} bytes (the setting "
                    "upload_bytes); send less history, as a shallow clone has, or let the task "
                    "name a git URL"
                )
            waiting.append(chunk)
            if here >= _WRITE_BYTES:
                await anyio.to_thread.run_sync(write, waiting)
                waiting, here = [], 0
        await anyio.to_thread.run_sync(write, waiting)

    def _take_in(self, place: str, path: str, name: str) -> None:
        final = os.path.join(self._root, name)
        received = os.path.join(final, "received")
        if os.path.exists(received):
            os.utime(received)
            return
        git_dir = os.path.join(place, "made", "repo.git")
        make_git_dir(git_dir, bare=True)
        with open(path, "rb") as file:
            refs = _header(file)
            self._unpack(file, git_dir, os.path.getsize(path))
        self._write_refs(git_dir, refs)
        write_atomically(os.path.join(place, "made", "received"), b"", durable=True)
        try:
            os.rename(os.path.join(place, "made"), final)
        except OSError:
            if not os.path.exists(received):  # somebody else has just sent the same
                raise

    def _unpack(self, file: IO[bytes], git_dir: str, size: int) -> None:
        try:
            self._git.feed(
                ["-c", "core.bigFileThreshold=64m", "-c", "pack.threads=1", "index-pack",
                 "--stdin", f"--strict={_OLD_FAULTS}", f"--max-input-size={self._bytes_max}"],
                git_dir=git_dir,
                file=file,
                env={"GIT_ALLOC_LIMIT": str(OBJECT_MEMORY_BYTES)},
                cancellable=True,
            )  # fmt: skip
        except GitFailed as error:
            raise UsageError(
                f"the bundle's objects are not whole or not valid: {error.stderr[-500:]}; make it "
                "as `git bundle create FILE HEAD --branches --tags`"
            ) from error
        out = self._git.run(
            ["cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectsize)"],
            git_dir=git_dir,
        )
        unpacked = sum(map(int, out.split()))
        if unpacked > (most := max(UNPACKED_BYTES_MIN, UNPACKED_TIMES * size)):
            raise UsageError(
                f"the bundle's objects are {unpacked:,} bytes once unpacked; {most:,} are allowed "
                f"for {size:,} bytes sent"
            )

    def _write_refs(self, git_dir: str, refs: list[tuple[str, str]]) -> None:
        asked = "".join(f"{oid}^{{commit}}\n" for oid, _ in refs).encode()
        out = self._git.run(["cat-file", "--batch-check"], git_dir=git_dir, stdin=asked)
        commits = [line for line in out.splitlines() if line[-1:].isdigit()]
        if len(commits) != len(refs):
            raise UsageError("a ref of the bundle names no commit that is in it")
        heads = [oid for oid, name in refs if name == "HEAD"]
        kept = {name: oid for oid, name in refs if name != "HEAD"}
        lines = "".join(f"{oid} {name}\n" for name, oid in sorted(kept.items()))
        text = "# pack-refs with: sorted \n" + lines
        write_atomically(os.path.join(git_dir, "packed-refs"), text.encode("utf-8"))
        head = heads[0] if heads else ""
        if not heads:
            branches = [name for name in kept if name.startswith("refs/heads/")]
            if not branches:
                raise UsageError("the bundle has neither a HEAD nor a branch to begin from")
            head = f"ref: {branches[0]}"
        else:
            same = [name for name, oid in kept.items()
                    if oid == head and name.startswith("refs/heads/")]  # fmt: skip
            if same:
                head = f"ref: {same[0]}"
        write_atomically(os.path.join(git_dir, "HEAD"), f"{head}\n".encode())


def _header(file: IO[bytes]) -> list[tuple[str, str]]:
    """The bundle's refs as (object, name); `file` stands at its pack then. `gitformat-bundle`."""
    read = 0

    def line() -> bytes:
        nonlocal read
        found = file.readline(4096)
        read += len(found)
        if not found.endswith(b"\n") or read > HEADER_BYTES_MAX:
            raise UsageError("this is no git bundle: its header has no end")
        return found[:-1]

    first = line() if file.peek(1) else b""  # type: ignore[attr-defined]
    if first not in (b"# v2 git bundle", b"# v3 git bundle"):
        raise UsageError(
            "this is no git bundle; make one as `git bundle create FILE HEAD --branches --tags`"
        )
    refs: list[tuple[str, str]] = []
    while told := line():
        if told.startswith(b"@"):
            if told != b"@object-format=sha1":
                raise UsageError(f"the bundle wants {shown(told[:60])!r}, which is not supported")
            continue
        if told.startswith(b"-"):
            raise UsageError(
                f"the bundle needs the commit {shown(told[1:41])}, which is not in it: make one of "
                "the whole history (of a shallow clone: after `git fetch --unshallow`)"
            )
        oid, _, name = told.decode("utf-8", "replace").partition(" ")
        if not _OID.match(oid):
            raise UsageError("this is no git bundle: a line of its header is none")
        if name in ("HEAD", UNCOMMITTED) or (_REF.match(name) and not _ODD.search(name)):
            refs.append((oid, name))
        if len(refs) > REFS_MAX:
            raise UsageError(f"the bundle has more than {REFS_MAX:,} refs: send fewer branches")
    if not refs:
        raise UsageError("the bundle has neither a HEAD nor a branch to begin from")
    # What was read ahead goes back: git reads the descriptor itself.
    file.seek(read)
    os.lseek(file.fileno(), read, os.SEEK_SET)
    return refs


def _changed_at(path: str) -> float:
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


# ---- the sender's side -------------------------------------------------------------------


def make_bundle(checkout: str, path: str, *, include_dirty: bool = True) -> tuple[str, ...]:
    """Write the bundle of a checkout to `path`; notes for whoever sends it. Blocks.

    The checkout is only read: not its hooks, its filters, its index or its configuration. The same
    commits and edits make the same uncommitted commit.

    Raises:
        WorkspaceError: it is no repository, has no commit, or is a shallow clone.
    """
    with tempfile.TemporaryDirectory(prefix="agent-runtime-bundle-") as place:
        git = Git(os.path.join(place, "home"))
        source = locate(checkout)
        if not isinstance(source, Local):
            raise WorkspaceError(f"{checkout!r} is a URL: a task can name it as it is")
        view = View(source, os.path.join(place, "view"), git)
        if view.shallow:
            raise WorkspaceError(
                f"{source.name!r} is a shallow clone, whose history is not whole: run `git fetch "
                "--unshallow` there"
            )
        head = view.commit_of("HEAD")
        if not head:
            raise WorkspaceError(f"{source.name!r} has no commit yet: `git commit` something there")
        ours = os.path.join(place, "ours")
        make_git_dir(ours, bare=True)
        objects = os.path.join(source.common_dir, "objects")
        write_atomically(
            os.path.join(ours, "objects/info/alternates"), os.fsencode(objects) + b"\n"
        )
        refs = {name: oid for oid, name in view.refs()}
        notes: tuple[str, ...] = ()
        if source.top and include_dirty:
            dirty = view.dirty()
            notes = tuple(dirty.notes)
            if dirty.paths:
                refs[UNCOMMITTED] = _commit_edits(source.top, dirty.paths, head, ours, git)
        text = "".join(f"{oid} {name}\n" for name, oid in sorted(refs.items()))
        write_atomically(
            os.path.join(ours, "packed-refs"), b"# pack-refs with: sorted \n" + text.encode()
        )
        shutil.copyfile(f"{view.path}/HEAD", f"{ours}/HEAD")
        made = os.path.abspath(path)
        git.run(["bundle", "create", "--quiet", made, "HEAD", *sorted(refs)], git_dir=ours)
        return notes


def _commit_edits(top: str, paths: list[bytes], head: str, ours: str, git: Git) -> str:
    """Uncommitted edits as a commit on `head`: raw bytes, links as links."""
    env = {"GIT_INDEX_FILE": os.path.join(ours, "index")}
    git.run(["read-tree", head], git_dir=ours, env=env)
    lines = []
    with directory(top):
        for path in paths:
            full = os.path.join(os.fsencode(top), path)
            facts = os.lstat(full) if os.path.lexists(full) else None
            if facts is None or stat.S_ISDIR(facts.st_mode):
                lines.append(b"0 %s\t%s\0" % (b"0" * 40, path))
            elif stat.S_ISLNK(facts.st_mode):
                oid = _hash(os.readlink(full), ours, git)
                lines.append(b"%o %s\t%s\0" % (int(MODE_LINK), oid, path))
            elif stat.S_ISREG(facts.st_mode):
                mode = MODE_EXECUTABLE if facts.st_mode & 0o100 else MODE_FILE
                with open(full, "rb") as file:
                    oid = git.feed(
                        ["hash-object", "-w", "--no-filters", "--stdin"], git_dir=ours, file=file
                    ).strip()
                lines.append(b"%o %s\t%s\0" % (int(mode), oid, path))
    git.run(["update-index", "-z", "--index-info"], git_dir=ours, env=env, stdin=b"".join(lines))
    tree = git.run(["write-tree"], git_dir=ours, env=env).decode().strip()
    who = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (
            ("NAME", "agent-runtime"), ("EMAIL", "agent-runtime@localhost"), ("DATE", "@0 +0000"),
        )
    }  # fmt: skip
    out = git.run(
        ["-c", "commit.gpgSign=false", "commit-tree", "-p", head, tree],
        git_dir=ours, stdin=b"uncommitted edits\n", env=env | who,
    )  # fmt: skip
    return out.decode().strip()


def _hash(data: bytes, git_dir: str, git: Git) -> bytes:
    arguments = ["hash-object", "-w", "--no-filters", "--stdin"]
    return git.run(arguments, git_dir=git_dir, stdin=data).strip()
