"""The private store: a bare git repository of blobs and trees that no sandbox sees.

Blobs and trees are written here directly, as git's loose objects: raw bytes, so no attribute,
filter or line-ending rule can come between a file and its hash, and no process is started for a
handful of changed files. Reading goes through git. Objects are only ever added.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import IO

from agent_runtime.errors import WorkspaceError
from agent_runtime.workspaces.git import LOCAL_SECONDS_MAX, Git, make_git_dir

CHUNK_BYTES = 1 << 20
"""Files above this size are streamed, never held."""
_STORED_BYTES = 32 << 20
"""From here on files are stored without compression: an archive or a video gains nothing."""
_TRIES_MAX = 3

MODE_FILE = 0o100644
MODE_EXECUTABLE = 0o100755
MODE_LINK = 0o120000
MODE_TREE = 0o040000
MODE_SUBMODULE = 0o160000

LISTING_BYTES_MAX = 128 << 20
"""Of names and ids: more than a million files. Chromium has less than half of it."""
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

Oid = bytes
"""An object's id, 20 raw bytes."""
Listing = dict[bytes, tuple[int, str]]
"""Path -> (mode, hex id) of every file and link of a tree. Paths are raw bytes."""

_numbers = count()


class ObjectStore:
    """Objects of one task. Every method blocks."""

    def __init__(self, path: str, git: Git) -> None:
        self.path = path
        self._git = git
        self._objects = os.path.join(path, "objects")

    def create(self) -> None:
        """Make the store if it is not there."""
        if os.path.exists(os.path.join(self.path, "HEAD")):
            return
        os.makedirs(self.path, mode=0o700, exist_ok=True)
        make_git_dir(self.path, bare=True)
        self.put(b"tree", b"")

    def exists(self) -> bool:
        """Was it created, and not forgotten?"""
        return os.path.exists(os.path.join(self.path, "HEAD"))

    def take_over(self, other: ObjectStore) -> None:
        """Have every object that `other` has: the same files, or copies of them."""
        for directory, _, names in os.walk(other._objects):
            below = os.path.relpath(directory, other._objects)
            target = os.path.join(self._objects, below)
            os.makedirs(target, exist_ok=True)
            # Its index last: git takes a pack for whole when it sees that.
            for name in sorted(names, key=lambda name: (name.endswith(".idx"), name)):
                if not name.startswith("tmp_"):
                    same_file(os.path.join(directory, name), os.path.join(target, name))

    def run(self, arguments: Sequence[str], *, stdin: bytes = b"") -> bytes:
        """Run git on the store."""
        return self._git.run(arguments, git_dir=self.path, stdin=stdin)

    def succeeds(self, arguments: Sequence[str], *, stdin: bytes = b"") -> tuple[bool, bytes, str]:
        """As `run`, but any exit code is an answer: (exit 0?, stdout, stderr)."""
        return self._git.succeeds(arguments, git_dir=self.path, stdin=stdin)

    def run_capped(
        self, arguments: Sequence[str], *, bytes_max: int, stdin: bytes = b""
    ) -> bytes | None:
        """As `run`; None if there is more output than that."""
        return self._git.run_capped(arguments, git_dir=self.path, bytes_max=bytes_max, stdin=stdin)

    # -- writing --

    def put(self, kind: bytes, data: bytes, known: Container[Oid] = ()) -> Oid:
        """Store one object, unless it is among `known`, and return its id."""
        header = b"%s %d\0" % (kind, len(data))
        digest = hashlib.sha1(header, usedforsecurity=False)
        digest.update(data)
        if (oid := digest.digest()) in known:
            return oid
        final = self._path_of(oid.hex())
        if not _is_whole(final):
            with self._temporary() as file:
                file.write(zlib.compress(header + data, 1))
                self._keep(file, final)
        return oid

    def put_file(self, fd: int, known: Container[Oid] = ()) -> Oid:
        """Store the regular file that `fd` has open; large ones are streamed."""
        for _ in range(_TRIES_MAX):
            size_bytes = os.fstat(fd).st_size
            os.lseek(fd, 0, os.SEEK_SET)
            if size_bytes <= CHUNK_BYTES:
                return self.put(b"blob", _read_all(fd), known)
            oid = self._stream(fd, size_bytes)
            if oid is not None:
                return oid
        raise WorkspaceError(
            "a file of the workspace changes its size while it is read; stop what writes it"
        )

    def _stream(self, fd: int, size_bytes: int) -> Oid | None:
        """None if the file was not `size_bytes` long in the end."""
        header = b"blob %d\0" % size_bytes
        digest = hashlib.sha1(header, usedforsecurity=False)
        compressor = zlib.compressobj(0 if size_bytes >= _STORED_BYTES else 1)
        left_bytes = size_bytes
        with self._temporary() as file:
            file.write(compressor.compress(header))
            while chunk := os.read(fd, CHUNK_BYTES):
                left_bytes -= len(chunk)
                if left_bytes < 0:
                    return None
                digest.update(chunk)
                file.write(compressor.compress(chunk))
            if left_bytes:
                return None
            file.write(compressor.flush())
            self._keep(file, self._path_of(digest.hexdigest()))
        return digest.digest()

    def put_listing(self, listing: Listing) -> str:
        """Store the trees of a listing, whose files are stored already; returns the root's id."""
        below: dict[bytes, Listing] = {}
        items: list[tuple[bytes, bytes]] = []
        for path, (mode, oid) in listing.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(name, {})[rest] = (mode, oid)
            else:
                items.append((name, tree_entry(mode, name, bytes.fromhex(oid))))
        for name, inner in below.items():
            tree = bytes.fromhex(self.put_listing(inner))
            # Git sorts a directory as if its name ended with a slash.
            items.append((name + b"/", tree_entry(MODE_TREE, name, tree)))
        return self.put(b"tree", b"".join(data for _, data in sorted(items))).hex()

    @contextmanager
    def _temporary(self) -> Iterator[IO[bytes]]:
        name = f"tmp_obj_{os.getpid()}_{next(_numbers)}"
        path = os.path.join(self._objects, name)
        with open(path, "xb") as file:
            try:
                yield file
            finally:
                if os.path.exists(path):
                    os.unlink(path)

    def _keep(self, file: IO[bytes], final: str) -> None:
        file.flush()
        os.makedirs(os.path.dirname(final), exist_ok=True)
        os.replace(file.name, final)

    def _path_of(self, oid: str) -> str:
        return os.path.join(self._objects, oid[:2], oid[2:])

    # -- reading --

    def known(self) -> set[Oid]:
        """The ids of all objects, for a first scan that would otherwise write them again."""
        out = self.run(
            ["cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"]
        )
        return {bytes.fromhex(line) for line in out.decode().split()}

    def has_tree(self, tree: str) -> bool:
        """Is `tree` a tree of this store?"""
        ok, out, _ = self._git.succeeds(["cat-file", "-t", tree], git_dir=self.path)
        return ok and out.strip() == b"tree"

    def listing(self, tree: str) -> Listing:
        """Every file and link of a tree.

        Raises:
            WorkspaceError: there are more than a machine has room for: ten small trees, each of ten
                times the next one, are ten thousand million files.
        """
        if tree == EMPTY_TREE:
            return {}
        arguments = ["ls-tree", "-r", "-z", "--full-tree", tree]
        out = self._git.run_capped(arguments, git_dir=self.path, bytes_max=LISTING_BYTES_MAX)
        if out is None:
            raise WorkspaceError(
                f"the tree {tree[:12]} names so many files that their list takes more than "
                f"{LISTING_BYTES_MAX >> 20} MiB; name a repository with fewer files"
            )
        listing: Listing = {}
        for record in out.split(b"\0")[:-1]:
            facts, path = record.split(b"\t", 1)
            mode, _, oid = facts.split(b" ")
            listing[path] = (int(mode, 8), oid.decode())
        return listing

    def blob(self, oid: str) -> bytes:
        """One blob, whole."""
        return self.run(["cat-file", "blob", oid])

    def blobs(self, oids: Sequence[str], take: Callable[[int, Iterator[bytes]], None]) -> None:
        """Call `take(index, chunks)` for every id in order; `chunks` must be read to the end."""
        if not oids:
            return
        with tempfile.TemporaryFile() as requests, tempfile.TemporaryFile() as errors:
            # The requests come from a file: git and we would else wait for each other's pipes.
            requests.write("".join(f"{oid}\n" for oid in oids).encode())
            requests.seek(0)
            process = subprocess.Popen(
                ["git", "cat-file", "--batch", "--buffer"],
                cwd=self.path,
                env=self._git.environment({"GIT_DIR": self.path}),
                stdin=requests,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            watchdog = threading.Timer(LOCAL_SECONDS_MAX, process.kill)
            watchdog.start()
            try:
                assert process.stdout is not None
                for index, oid in enumerate(oids):
                    take(index, _batch_answer(process.stdout, oid))
            finally:
                watchdog.cancel()
                process.kill()
                process.communicate()


def _batch_answer(stream: IO[bytes], oid: str) -> Iterator[bytes]:
    header = stream.readline().split()
    if len(header) != 3 or header[1] != b"blob":
        raise WorkspaceError(
            f"object {oid} is missing from the runtime's private store, or damaged: a tree that"
            " was recorded cannot be restored"
        )
    left_bytes = int(header[2])
    while left_bytes:
        chunk = stream.read(min(left_bytes, CHUNK_BYTES))
        if not chunk:
            raise WorkspaceError(f"object {oid} of the runtime's private store is damaged")
        left_bytes -= len(chunk)
        yield chunk
    stream.read(1)


def same_file(source: str, target: str) -> None:
    """`target` is `source`, whose content never changes, or a copy where they cannot be one."""
    with suppress(FileExistsError):
        try:
            os.link(source, target, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)


def _read_all(fd: int) -> bytes:
    chunks: list[bytes] = []
    while chunk := os.read(fd, CHUNK_BYTES):
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_whole(path: str) -> bool:
    """A power cut can leave an empty file behind: that one is written again."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size > 0


def tree_entry(mode: int, name: bytes, oid: Oid) -> bytes:
    """One entry of a tree object."""
    return b"%o %s\0%s" % (mode, name, oid)


def shown(path: bytes) -> str:
    """A path as text for logs and people; bytes that are not UTF-8 are spelled `\\xff`."""
    return path.decode("utf-8", "backslashreplace")
