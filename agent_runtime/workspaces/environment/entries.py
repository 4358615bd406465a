"""What a setup left, kept under the hash of what it was made from.

    <state_dir>/environments/<key>/kept.json   what there is; written last
                                   work/       what lay in the workspace, at its places
                                   home/       HOME, to be copied
                                   below/      what lay in HOME and is mounted instead
    <state_dir>/environments/.making-<key>-…   a setup that runs, or was killed

An entry never changes once it is there. Everything here blocks.
"""

from __future__ import annotations

import filecmp
import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from agent_runtime import protect
from agent_runtime.errors import SetupFailed
from agent_runtime.redaction import Redactor
from agent_runtime.workspaces.files import DEPTH_MAX, make_temporary, remove_path
from agent_runtime.workspaces.git import write_atomically
from agent_runtime.workspaces.objects import shown

PATHS_MAX: Final = 500
_DEPTH_MAX: Final = 4
"""How deep a venv or a node_modules is looked for in what setup left."""
_MOUNTED_IN_HOME: Final = (
    ".cargo/registry", ".cargo/git", ".rustup/toolchains", "go/pkg/mod", ".m2/repository",
    ".gradle/caches", ".nvm/versions", ".pyenv/versions", ".local/share/uv", ".local/share/pnpm",
    ".local/share/pypoetry", ".cache/ms-playwright", ".cache/puppeteer", ".cache/Cypress",
)  # fmt: skip
"""Stores of packages and programs: large, and only read once setup is over."""
_DROPPED_IN_HOME: Final = (".cache/pip", ".cache/uv", ".npm/_cacache", ".npm/_logs")
_WRITABLE: Final = (".cache", ".vite", ".vite-temp")
"""Where tools keep caches in a node_modules: made, so that something writable can be put there."""
_PIECE_BYTES: Final = 1 << 20
_SETUP_SECONDS_MAX: Final = 86_400
"""None is taken to run for longer."""
_PATH_BYTES_MAX: Final = 3000
"""Of a path while it is kept: with it, and other places before it, the system must be content."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry holds; the lists are as in `types.PreparedEnvironment`."""

    mounted: list[str] = []
    copied: list[str] = []
    home: bool = False
    venvs: list[str] = []
    base_tree: str = ""
    made_us: int = 0


class Entries:
    """Below one directory, which several processes may share."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, key: str, *below: str) -> str:
        """Of an entry, or in it."""
        return os.path.join(self.root, key, *below)

    def source(self, key: str, path: str) -> str:
        """Where the entry has a path of `Kept.mounted` or `copied`."""
        if path.startswith("~/"):
            return self.path(key, "below", path[2:])
        return self.path(key, "work", path)

    def find(self, key: str) -> Kept | None:
        """An entry that is whole; its use is remembered for `unused`."""
        try:
            with open(self.path(key, "kept.json"), "rb") as file:
                kept = msgspec.json.decode(file.read(), type=Kept)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        with suppress(OSError):
            os.utime(self.path(key, "kept.json"))
        return kept

    def begin(self, key: str) -> str:
        """A directory for a new entry, with an empty HOME and /tmp.

        What a killed setup of the same entry left is removed. Who begins holds the entry's lock.
        """
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        prefix = f".making-{key}-"
        for name in os.listdir(self.root):
            if name.startswith(prefix):
                # Its last processes may be about to die: then the next one removes it.
                with suppress(OSError):
                    remove_path(self.path(name))
        making = make_temporary(self.root, prefix, mode=0o711)
        os.mkdir(os.path.join(making, "home"), 0o700)
        os.mkdir(os.path.join(making, "tmp"))
        os.chmod(os.path.join(making, "tmp"), 0o1777)
        return making

    def finish(self, making: str, key: str, kept: Kept) -> None:
        """From here on the entry is there; nothing happens if somebody else was faster."""
        write_atomically(os.path.join(making, "kept.json"), msgspec.json.encode(kept), durable=True)
        with suppress(FileNotFoundError):
            if not os.path.exists(self.path(key, "kept.json")):
                remove_path(self.path(key))
        try:
            os.rename(making, self.path(key))
        except OSError:
            if self.find(key) is None:
                raise
            remove_path(making)

    def unused(self, before: float) -> Iterator[str]:
        """Keys of entries that nobody has asked for since `before` (seconds since 1970), and what
        killed setups left until then; not what may be a setup that runs."""
        # By the clock of the files, which the marks are compared with.
        begun_before = min(before, time.time_ns() / 1e9 - _SETUP_SECONDS_MAX)
        if not os.path.isdir(self.root):
            return
        for name in sorted(os.listdir(self.root)):
            with suppress(FileNotFoundError):
                is_making = name.startswith(".")
                mark = self.path(name) if is_making else self.path(name, "kept.json")
                if os.stat(mark).st_mtime < (begun_before if is_making else before):
                    yield name

    def remove(self, key: str) -> None:
        """Safe to repeat."""
        remove_path(self.path(key))


# ---- sorting out what a setup left -----------------------------------------------------------


def keep(
    making: str, work: str, tracked: Collection[str], base_tree: str
) -> tuple[Kept, list[str]]:
    """Move what setup left out of `work` into the entry that is being made, and sort HOME.

    `tracked` is every file of the base, as `shown`; what is not among them and below none of their
    directories as a whole was left by setup. Caches of interpreters and test runners are removed.
    Also returns what was left out, for its name cannot be stored. Links are the setup's: none is
    followed, and nothing outside of `work` and `making` is touched.

    Raises:
        SetupFailed: it left more single paths than can be kept, or directories too deep.
    """
    home = os.path.join(making, "home")
    for root in (work, home):
        _let_in(root)
    directories = {path[:cut] for path in tracked for cut in _slashes(path)}
    known = set(tracked)
    mounted: list[str] = []
    copied: list[str] = []
    for path in _left(work, "", known, directories):
        _sort(work, path, mounted, copied)
    unnamed = [path for path in (*mounted, *copied) if not _is_text(path)]
    mounted, copied = ([path for path in paths if _is_text(path)] for paths in (mounted, copied))
    if len(mounted) + len(copied) > PATHS_MAX:
        raise SetupFailed(
            f"setup left more than {PATHS_MAX} files and directories of its own in the workspace, "
            f"such as {copied[0] if copied else mounted[0]!r}; let it write to HOME, or into one "
            "directory"
        )
    for path in (*mounted, *copied):
        _move(os.path.join(work, path), os.path.join(making, "work", path))
    for path in _DROPPED_IN_HOME:
        if _is_inside(home, os.path.dirname(path)):
            remove_path(os.path.join(home, path))
    for path in [*_found(home, _MOUNTED_IN_HOME), *_dependencies(home, "", 0)]:
        if _is_inside(home, path) and _is_text(path):
            _move(os.path.join(home, path), os.path.join(making, "below", path))
            mounted.append(f"~/{path}")
    for part in _parts(making):
        _settle(part, readable=False)
    for path in mounted:
        _settle(_place(making, path), readable=True)
    venvs = [path for path in mounted if os.path.isfile(f"{_place(making, path)}/pyvenv.cfg")]
    for path in mounted:
        if os.path.basename(path) == "node_modules":
            for name in _WRITABLE:
                with suppress(FileExistsError):
                    os.mkdir(os.path.join(_place(making, path), name), 0o755)
    kept = Kept(
        mounted=mounted,
        copied=[path for path in copied if os.path.lexists(_place(making, path))],
        home=bool(os.listdir(home)),
        venvs=venvs,
        base_tree=base_tree,
        made_us=time.time_ns() // 1000,
    )
    return kept, [shown(os.fsencode(path)) for path in unnamed]


def changed(before: str, after: str, tracked: Collection[str]) -> list[str]:
    """Which of the repository's files a setup changed, in a copy of it that keeps times."""
    return sorted(
        path
        for path in tracked
        if not _is_same(os.path.join(before, path), os.path.join(after, path))
    )


def bound_to_tree(kept: Kept) -> bool:
    """Is something in it built from the repository's sources, and not only from its manifests?"""
    return any(not path.endswith((".egg-info", ".dist-info")) for path in kept.copied)


def without_secrets(making: str, kept: Kept, redactor: Redactor) -> tuple[Kept, list[str]]:
    """Remove every file and directory that has a secret in it or in its name.

    Returns what is still kept, and what was removed.
    """
    removed: list[str] = []
    for part in _parts(making):
        for path in _entries(part):
            # Not the last name alone: a secret may have a slash in it.
            name = os.path.relpath(path, making)
            if redactor.is_in(os.fsencode(name)) or _has_secret(path, redactor):
                remove_path(path)
                removed.append(shown(os.fsencode(redactor.text(name))))

    def there(paths: list[str]) -> list[str]:
        return [path for path in paths if os.path.lexists(_place(making, path))]

    kept = msgspec.structs.replace(
        kept, mounted=there(kept.mounted), copied=there(kept.copied), venvs=there(kept.venvs)
    )
    return kept, sorted(removed)


def _parts(making: str) -> list[str]:
    """What of it becomes the entry."""
    parts = [os.path.join(making, name) for name in ("work", "home", "below")]
    return [part for part in parts if os.path.isdir(part)]


def _is_same(before: str, after: str) -> bool:
    try:
        old = os.lstat(before)
    except OSError:
        return True  # its name is no text
    try:
        new = os.lstat(after)
        if (old.st_mode, old.st_size, old.st_mtime_ns) == (
            new.st_mode, new.st_size, new.st_mtime_ns
        ):  # fmt: skip
            return True
        if stat.S_IFMT(old.st_mode) != stat.S_IFMT(new.st_mode):
            return False
        if stat.S_ISLNK(old.st_mode):
            return os.readlink(before) == os.readlink(after)
        executable = (old.st_mode ^ new.st_mode) & 0o100
        return not executable and filecmp.cmp(before, after, shallow=False)
    except OSError:
        return False


def _has_secret(path: str, redactor: Redactor) -> bool:
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        return redactor.is_in(os.fsencode(os.readlink(path)))
    if not stat.S_ISREG(facts.st_mode):
        return False
    before = b""
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            if redactor.is_in(before + piece):
                return True
            before = piece[-redactor.bytes_max :]
    return False


def _entries(directory: str) -> Iterator[str]:
    """Everything below it, each directory before what is in it; none that was removed meanwhile."""
    waiting = [directory]
    while waiting:
        at = waiting.pop()
        if at != directory:
            yield at
        with suppress(FileNotFoundError, NotADirectoryError):
            if not os.path.islink(at):
                waiting += [os.path.join(at, name) for name in os.listdir(at)]


def _files(directory: str) -> Iterator[str]:
    return (path for path in _entries(directory) if os.path.islink(path) or not os.path.isdir(path))


def _left(work: str, below: str, known: set[str], directories: set[str]) -> Iterator[str]:
    with os.scandir(os.path.join(work, below)) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        is_directory = entry.is_dir(follow_symlinks=False)
        name = path if _is_text(path) else shown(os.fsencode(path))
        if path == ".git" or name in known or (path in directories and not is_directory):
            continue  # the repository's own, or in its place: that is undone
        if is_directory and path in directories:
            yield from _left(work, path, known, directories)
        elif _is_leaving(path):
            remove_path(entry.path)
        elif not is_directory or _holds_files(entry.path):
            yield path


def _is_leaving(path: str) -> bool:
    return protect.is_cache(path) and not path.endswith((".egg-info", ".dist-info"))


def _holds_files(directory: str) -> bool:
    return next(_files(directory), None) is not None


def _sort(work: str, path: str, mounted: list[str], copied: list[str]) -> None:
    if not os.path.isdir(os.path.join(work, path)) or os.path.islink(os.path.join(work, path)):
        copied.append(path)
        return
    found = list(_dependencies(work, path, 0))
    if not found:
        copied.append(path)
        return
    mounted += found
    # The rest of a directory that holds a venv, piece by piece.
    if found != [path]:
        inside = {item[:cut] for item in found for cut in _slashes(item)}
        copied += list(_left(work, path, set(found), inside | {path}))


def _dependencies(root: str, path: str, depth: int) -> Iterator[str]:
    """Topmost venvs and node_modules at `path` or below it."""
    place = os.path.join(root, path)
    if path and (
        os.path.basename(path) == "node_modules"
        or os.path.isfile(os.path.join(place, "pyvenv.cfg"))
    ):
        yield path
        return
    if depth >= _DEPTH_MAX:
        return
    with os.scandir(place) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            below = f"{path}/{entry.name}" if path else entry.name
            yield from _dependencies(root, below, depth + 1)


def _found(home: str, paths: Collection[str]) -> list[str]:
    return [path for path in paths if _is_inside(home, path)]


def _is_inside(root: str, path: str) -> bool:
    """Is there a directory at `path`, with no link on the way to it?"""
    place = root
    for part in path.split("/"):
        place = os.path.join(place, part)
        try:
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                return False
        except OSError:
            return False
    return True


def _is_text(path: str) -> bool:
    """Can it be stored? A name on the disk may hold any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _let_in(root: str) -> None:
    """Directories that their owner may not read or change are opened, for us to move and copy them.

    Raises:
        SetupFailed: they are nested too deeply, or a path is too long for the system.
    """
    waiting = [(root, 0)]
    while waiting:
        at, depth = waiting.pop()
        if depth > DEPTH_MAX or len(os.fsencode(at)) > _PATH_BYTES_MAX:
            name = shown(os.fsencode(at[len(root) + 1 :]))
            raise SetupFailed(
                f"setup left directories nested more than {DEPTH_MAX} deep, or paths of more than "
                f"{_PATH_BYTES_MAX} bytes, such as {name[:100]}…; let it remove them"
            )
        mode = stat.S_IMODE(os.lstat(at).st_mode)
        if mode & 0o700 != 0o700:
            os.chmod(at, mode | 0o700)
        with os.scandir(at) as found:
            waiting += [(e.path, depth + 1) for e in found if e.is_dir(follow_symlinks=False)]


def _move(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)


def _place(making: str, path: str) -> str:
    return os.path.join(making, *(("below", path[2:]) if path.startswith("~/") else ("work", path)))


def _slashes(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "/"]


def _settle(directory: str, *, readable: bool) -> None:
    """Everything is the runtime's own; pipes, sockets and devices go.

    `readable` by every sandbox's user, for what is mounted. What is copied keeps its modes: a
    database insists on those of its files.
    """
    is_root = os.geteuid() == 0
    if readable:
        os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) & 0o777 | 0o755)
    with os.scandir(directory) as found:
        entries = list(found)
    for entry in entries:
        facts = entry.stat(follow_symlinks=False)
        if is_root:
            os.chown(entry.path, 0, 0, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode):
            _settle(entry.path, readable=readable)
        elif stat.S_ISREG(facts.st_mode):
            mode = stat.S_IMODE(facts.st_mode) & 0o777 | 0o400
            if readable:
                mode |= 0o555 if mode & 0o111 else 0o444
            os.chmod(entry.path, mode)
        elif not stat.S_ISLNK(facts.st_mode):
            os.unlink(entry.path)
