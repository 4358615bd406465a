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
        self._copied: dict[str, dict[str, Stamp]] = {}

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
        known = self._copied.get(name)
        now: dict[str, Stamp] = {}
        left_out: list[str] = []
        bytes_left = shelves.SHELF_BYTES_MAX
        for path, found in _wanted(folder):
            try:
                if path.encode("utf-8", "replace").decode() != path:
                    raise Unreadable("its name is no UTF-8")
                if stat.S_ISLNK(found.st_mode):
                    found = os.stat(reading.resolve(folder, path), follow_symlinks=False)
                if len(now) >= shelves.DOCUMENTS_MAX or found.st_size > bytes_left:
                    raise Unreadable(
                        f"what is before it is {shelves.DOCUMENTS_MAX:,} files or "
                        f"{shelves.SHELF_BYTES_MAX:,} bytes, which is all"
                    )
                stamp = reading.stamp_of(found)
                if known is None or known.get(path) != stamp:
                    limit = shelves.DOCUMENT_BYTES_MAX
                    content = reading.read(folder, path, bytes_max=limit)
                    reading.text_of(content.data)
                    sharing.put(
                        os.path.join(target, path), content.data, mtime_ns=content.stamp.mtime_ns
                    )
            except Unreadable as error:
                left_out.append(f"{path}: {error}")
                continue
            now[path] = stamp
            bytes_left -= stamp.bytes_count
        if known != now or known is None:
            sharing.make_directory(target)
            _keep_only(target, now.keys())
            text = "\n".join(left_out[: shelves.LEFT_OUT_MAX])
            sharing.put(os.path.join(target, LEFT_OUT), text.encode("utf-8", "replace"))
            self._copied[name] = now


def _wanted(folder: str) -> list[tuple[str, os.stat_result]]:
    """The documents of a folder and what belongs to its skills. `OSError`: it cannot be listed."""
    files = list(reading.walk(folder))
    skills = {
        path.rpartition("/")[0] + "/" if "/" in path else ""
        for path, _ in files
        if path.rpartition("/")[2] == shelves.SKILL_NAME
    }
    return [
        (path, found)
        for path, found in files
        if path.lower().endswith(shelves.SUFFIXES)
        or any(path.startswith(skill) for skill in skills if skill)
    ]


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
