"""`apply_patch`: a unified diff over several files, all of it or nothing.

First the whole result is worked out in memory, and every touched path is checked; then all new
contents are written beside their destinations; only then are they renamed into place. If a rename
fails all the same, what was done is undone.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from agent_runtime import texts
from agent_runtime.differences import difference
from agent_runtime.errors import ToolRefused
from agent_runtime.texts import shown
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, ToolCall, ToolResult
from agent_runtime_tools import _contents, _diffs
from agent_runtime_tools._places import Place
from agent_runtime_tools._results import os_errors_as_results

FILES_MAX: Final = 400
"""Each one keeps a directory open, and a sandbox allows 1024 descriptors."""


@dataclass(slots=True)
class _File:
    """A touched file: how it was and how it will be; None where there is none."""

    place: Place
    before: bytes | None
    before_mode: int | None
    after: bytes | None
    after_mode: int | None


def _preview(call: ToolCall) -> str:
    """What the patch does here, which is not what it says if a hunk has moved."""
    diffs = _diffs.parse(call.arguments["patch"])
    with ExitStack() as stack:
        files = _Plan(call, stack)
        summary = [files.take(diff) for diff in diffs]
        parts = [_shown_change(file) for file in files.checked()]
    return "\n".join(summary) + "\n" + "".join(parts)


def _shown_change(file: _File) -> str:
    mode = ""
    if file.before is not None and file.after is not None and file.before_mode != file.after_mode:
        mode = f"{shown(file.place.path)}: mode {file.before_mode:o} to {file.after_mode:o}\n"
    if mode and file.before == file.after:
        return mode
    return mode + difference(file.place.path, file.before, file.after)


@tool(
    effect=Effect.WORKSPACE,
    parameters={
        "patch": {
            "type": "string",
            "minLength": 1,
            "description": "As git diff writes it.",
        }
    },
    required=("patch",),
    preview=_preview,
)
@os_errors_as_results
def apply_patch(call: ToolCall) -> ToolResult:
    """Apply a unified diff to any number of files: all of it, or nothing.

    Context must match exactly; a hunk may have moved.
    """
    diffs = _diffs.parse(call.arguments["patch"])
    with ExitStack() as stack:
        files = _Plan(call, stack)
        summary = [files.take(diff) for diff in diffs]
        changed = files.checked()
        _commit(changed)
    return ToolResult(
        ok=True,
        output="\n".join(summary),
        data={
            "files": [
                {
                    "path": shown(file.place.path),
                    "sha256": None if file.after is None else _contents.digest(file.after),
                }
                for file in changed
            ]
        },
    )


class _Plan:
    """The touched files as they will be; a file may be touched more than once."""

    def __init__(self, call: ToolCall, stack: ExitStack) -> None:
        self._call = call
        self._stack = stack
        self._files: dict[str, _File] = {}

    def take(self, diff: _diffs.FileDiff) -> str:
        """Work one file's diff in; returns a line that says what it does."""
        if diff.old is None:
            return self._create(diff)
        source = self._file(diff.old)
        if source.after is None:
            raise ToolRefused(f"{shown(diff.old)!r} does not exist, and the patch changes it")
        after = _patched(source.after, diff)
        if diff.new is None:
            return self._delete(source, after, diff)
        target = source
        if diff.new != diff.old:
            target = self._file(diff.new)
            if target.after is not None:
                raise ToolRefused(f"{shown(diff.new)!r} exists; the patch would put a file there")
            target.after_mode = source.after_mode
            if not diff.copied:
                source.after = None
        target.after = after
        if diff.executable is not None:
            mode = target.after_mode or 0o644
            target.after_mode = mode | 0o111 if diff.executable else mode & ~0o111
        if target is source:
            return f"changed {shown(diff.new)}"
        verb = "copied" if diff.copied else "renamed"
        return f"{verb} {shown(diff.old)} to {shown(diff.new)}"

    def checked(self) -> list[_File]:
        """What changes, once nothing of it is refused; protected paths are refused together."""
        changed = [
            file
            for file in self._files.values()
            if (file.before, file.before_mode) != (file.after, file.after_mode)
        ]
        refused: list[ToolRefused] = []
        for file in changed:
            try:
                _contents.check_writable(
                    self._call, file.place, before=file.before or b"", after=file.after or b""
                )
            except ToolRefused as error:
                refused.append(error)
        if refused:
            paths = tuple(path for error in refused for path in error.paths)
            raise ToolRefused("; ".join(str(error) for error in refused), paths=paths)
        return changed

    def _create(self, diff: _diffs.FileDiff) -> str:
        assert diff.new is not None
        file = self._file(diff.new)
        if file.after is not None:
            raise ToolRefused(f"{shown(diff.new)!r} already exists; the patch would create it")
        file.after = _diffs.apply_hunks("", diff, newline="\n").encode()
        file.after_mode = 0o755 if diff.executable else None
        return f"created {shown(diff.new)}"

    def _delete(self, source: _File, after: bytes, diff: _diffs.FileDiff) -> str:
        if after:
            raise ToolRefused(
                f"{shown(diff.name)!r} is deleted, but holds more than the patch says"
            )
        source.after = None
        return f"deleted {shown(diff.name)}"

    def _file(self, path: str) -> _File:
        if len(self._files) >= FILES_MAX:
            raise ToolRefused(f"the patch touches more than {FILES_MAX} files; apply it in parts")
        if path.startswith("/"):
            raise ToolRefused(f"{path!r}: a patch names files relative to the workspace")
        place = self._stack.enter_context(Place(self._call.workspace, path, follow=False))
        if place.path in self._files:
            return self._files[place.path]
        content, mode = (None, None) if place.stat() is None else _contents.read_whole(place)
        file = _File(place, content, mode, content, mode)
        self._files[place.path] = file
        return file


def _patched(content: bytes, diff: _diffs.FileDiff) -> bytes:
    if not diff.hunks:
        return content
    text = texts.decode(content, diff.name)
    # Git's diffs hold a byte order mark as the first character of the first line; people's do not.
    if text.mark == codecs.BOM_UTF8 and any(
        line.startswith("\ufeff") for hunk in diff.hunks for line in hunk.old
    ):
        return _diffs.apply_hunks("\ufeff" + text.text, diff, newline=text.newline).encode()
    patched = _diffs.apply_hunks(text.text, diff, newline=text.newline)
    return text.encode(patched, diff.name)


def _commit(files: Sequence[_File]) -> None:
    staged: list[_contents.Staged | None] = []
    done: list[_File] = []
    try:
        # One by one, so that what was made is known when the next one fails.
        for file in files:
            staged += [_stage(file)]
        for file, content in zip(files, staged, strict=True):
            done.append(file)
            if content is None:
                os.unlink(file.place.name, dir_fd=file.place.parent)
            elif file.before is None:
                content.create()
            else:
                content.replace()
    except BaseException:
        # The last one is the one that failed: it is as it was.
        for file in reversed(done[:-1]):
            _undo(file)
        raise
    finally:
        for content in staged:
            if content is not None:
                content.close()


def _stage(file: _File) -> _contents.Staged | None:
    if file.after is None:
        return None
    staged = _contents.Staged(file.place, mode=file.after_mode)
    try:
        staged.write(file.after)
        staged.finish()
    except BaseException:
        staged.close()
        raise
    return staged


def _undo(file: _File) -> None:
    if file.before is None:
        os.unlink(file.place.name, dir_fd=file.place.parent)
    else:
        _contents.replace(file.place, file.before, mode=file.before_mode)
