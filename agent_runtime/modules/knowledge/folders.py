"""The user's folders, copied to where the sandboxes see them; runs in the daemon.

Markdown files are copied, and the files of skills; nothing else of a folder is handed over, so a
`.git`, a key or a spreadsheet beside the notes stays where it is. A link that leaves the folder is
not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from agent_runtime.modules import reading, sharing
from agent_runtime.modules.knowledge import shelves
from agent_runtime.modules.knowledge.shelves import LEFT_OUT, PRACTICES, REPOSITORY
from agent_runtime.modules.reading import Stamp, Unreadable

SETTING: Final = "folders"


def folders_of(settings: Mapping[str, str]) -> list[str]:
    """The folders that the module's settings name: absolute, or below `~`.

    Raises:
        ValueError: a setting is unknown or a path is relative.
    """
    for name in settings:
        if name != SETTING:
            raise ValueError(
                f"the module 'knowledge' has no setting {name!r}; it has {SETTING!r}: directories "
                f"of Markdown files, separated by {os.pathsep!r} or as a list"
            )
    found = []
    for text in settings.get(SETTING, "").replace(os.pathsep, "\n").split("\n"):
        if path := text.strip():
            path = os.path.expanduser(path)
            if not os.path.isabs(path):
                raise ValueError(f"modules.knowledge.{SETTING}: {text!r} must be an absolute path")
            found.append(os.path.normpath(path))
    return found


class Mirror:
    """Copies of folders in one directory, brought up to date by `refresh`."""

    def __init__(self, folders: Sequence[str], target: str) -> None:
        self.folders = sharing.labels(folders, taken=(REPOSITORY, PRACTICES))
        self.problems: dict[str, str] = {}
        """Folder -> why it could not be read the last time."""
        self._target = target
        self._seen: dict[str, dict[str, Stamp]] = {}
        """Name -> path -> what it was like when it was last looked at; links followed."""
        self._copied: dict[str, set[str]] = {}

    def refresh(self) -> None:
        """Copy what is new or changed, remove what is gone. Blocks.

        A folder that cannot be listed keeps its copies.
        """
        sharing.make_directory(self._target)
        for name in os.listdir(self._target):
            if name not in self.folders:
                _remove(os.path.join(self._target, name))
        for name, folder in self.folders.items():
            try:
                self._refresh(name, folder)
                self.problems.pop(folder, None)
            except OSError as error:
                # What was copied earlier stays, and is better than nothing.
                self.problems[folder] = error.strerror or str(error)

    def _refresh(self, name: str, folder: str) -> None:
        target = os.path.join(self._target, name)
        before = self._seen.get(name)
        seen = {path: reading.stamp_of(found) for path, found in _wanted(folder)}
        if seen == before:
            return
        sharing.make_directory(target)
        # First, because a directory may have taken a file's place, or a file a directory's.
        _keep_only(target, seen.keys())
        copied: set[str] = set()
        left_out: list[str] = []
        bytes_left = shelves.SHELF_BYTES_MAX
        for path, stamp in seen.items():
            try:
                if len(copied) >= shelves.DOCUMENTS_MAX or stamp.bytes_count > bytes_left:
                    raise Unreadable(
                        f"what is before it is {shelves.DOCUMENTS_MAX:,} files or "
                        f"{shelves.SHELF_BYTES_MAX:,} bytes, which is all"
                    )
                if before is None or before.get(path) != stamp or path not in self._copied[name]:
                    _copy(folder, path, target)
            except Unreadable as error:
                left_out.append(f"{path}: {error}")
                continue
            copied.add(path)
            bytes_left -= stamp.bytes_count
        _keep_only(target, copied)
        text = "\n".join(left_out[: shelves.LEFT_OUT_MAX])
        sharing.put(os.path.join(target, LEFT_OUT), text.encode("utf-8", "replace"))
        self._seen[name], self._copied[name] = seen, copied


def _copy(folder: str, path: str, target: str) -> None:
    """Raises `Unreadable`: it is no text that may be handed over."""
    if path.encode("utf-8", "replace").decode() != path:
        raise Unreadable("its name is no UTF-8")
    content = reading.read(folder, path, bytes_max=shelves.DOCUMENT_BYTES_MAX)
    reading.text_of(content.data)
    sharing.put(os.path.join(target, path), content.data, mtime_ns=content.stamp.mtime_ns)


def _wanted(folder: str) -> list[tuple[str, os.stat_result]]:
    """The documents of a folder and what belongs to its skills. `OSError`: it cannot be listed."""
    files = list(reading.walk(folder))
    skills = {
        path.rpartition("/")[0] + "/" if "/" in path else ""
        for path, _ in files
        if path.rpartition("/")[2] == shelves.SKILL_NAME
    }
    return [
        (path, _followed(folder, path, found))
        for path, found in files
        if path.lower().endswith(shelves.SUFFIXES)
        or any(path.startswith(skill) for skill in skills if skill)
    ]


def _followed(folder: str, path: str, found: os.stat_result) -> os.stat_result:
    """Of what a link leads to, so that a change there is seen; whether it may is asked later."""
    if not stat.S_ISLNK(found.st_mode):
        return found
    try:
        return os.stat(os.path.join(folder, path))
    except OSError:
        return found


def _keep_only(target: str, wanted: Collection[str]) -> None:
    for directory, _, names in os.walk(target, topdown=False):
        for name in names:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, target)
            if relative not in wanted and name != LEFT_OUT:
                with suppress(FileNotFoundError):
                    os.unlink(path)
        os.chmod(directory, 0o755)
        if directory != target:
            with suppress(OSError):
                os.rmdir(directory)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        _keep_only(path, ())
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(path, LEFT_OUT))
        with suppress(OSError):
            os.rmdir(path)
