"""Which documents there are: shelves of files, looked through anew at every question.

A shelf is a directory: the practices that come with the runtime, a folder of the user's, the
repository. Of the repository only notes and skills are documents, everything else has its own
tools; of the others every Markdown file is one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from agent_runtime.loop.project_notes import SKILL_NAME as SKILL_NAME
from agent_runtime.loop.project_notes import is_note, is_skill
from agent_runtime.modules import reading
from agent_runtime.modules.reading import Stamp, Unreadable

DOCUMENT_BYTES_MAX: Final = 256 << 10
"""Of one file; a longer one is no note."""
DOCUMENTS_MAX: Final = 1_000
SHELF_BYTES_MAX: Final = 16 << 20
SUFFIXES: Final = (".md", ".markdown", ".mdx")
LEFT_OUT: Final = ".left-out"
"""In a folder's copy: what could not be copied, a line each; see `folders`."""
LEFT_OUT_MAX: Final = 50
PRACTICES: Final = "practices"
REPOSITORY: Final = "repo"
_PRACTICES_DIRECTORY: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "practices")

Kind = Literal["practice", "note", "skill", "document"]


@dataclass(frozen=True, slots=True)
class Shelf:
    """A directory with a name, which stands before the colon of every reference to it."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """A document as the walk saw it. `reference` is what `read_knowledge` takes."""

    shelf: Shelf
    path: str
    kind: Kind
    stamp: Stamp

    @property
    def reference(self) -> str:
        """As `repo:docs/AGENTS.md`."""
        return f"{self.shelf.name}:{self.path}"


@dataclass(slots=True)
class Listing:
    """What is on a shelf; `left_out` says which files could not be used, and why."""

    documents: list[Found] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def shelves(workspace: str, folders: str) -> list[Shelf]:
    """Those that a call can see. `folders` holds the user's, a directory each; empty: none."""
    found = [Shelf(REPOSITORY, workspace)] if workspace else []
    if folders and os.path.isdir(folders):
        found += [
            Shelf(name, os.path.join(folders, name))
            for name in sorted(os.listdir(folders))
            if name not in (REPOSITORY, PRACTICES) and not name.startswith(".")
        ]
    return [*found, Shelf(PRACTICES, _PRACTICES_DIRECTORY)]


def look_through(shelf: Shelf) -> Listing:
    """What is there now.

    Raises:
        OSError: the directory cannot be listed.
    """
    listing = Listing()
    bytes_left = SHELF_BYTES_MAX
    real_files: set[tuple[int, int]] = set()
    for path, found in reading.walk(shelf.path):
        kind = _kind(shelf, path)
        if kind is None:
            continue
        try:
            found = _followed(shelf, path, found)
            _check(found, path, listing, bytes_left)
        except Unreadable as error:
            listing.left_out.append(f"{shelf.name}:{path}: {error}")
            continue
        # CLAUDE.md is often a link to AGENTS.md: one file is one document.
        if (found.st_dev, found.st_ino) in real_files:
            continue
        real_files.add((found.st_dev, found.st_ino))
        bytes_left -= found.st_size
        listing.documents.append(Found(shelf, path, kind, reading.stamp_of(found)))
    listing.left_out += _left_out_before(shelf)
    return listing


def bundled(shelf: Shelf, skill_path: str) -> Iterator[tuple[str, int]]:
    """The files that lie beside a SKILL.md and below, with their bytes; not the head itself."""
    directory = skill_path.rpartition("/")[0]
    root = reading.resolve(shelf.path, directory or ".")
    for path, found in reading.walk(root):
        if path != skill_path.rpartition("/")[2] and stat.S_ISREG(found.st_mode):
            yield f"{directory}/{path}" if directory else path, found.st_size


def _kind(shelf: Shelf, path: str) -> Kind | None:
    if is_skill(path):
        return "skill"
    if shelf.name == REPOSITORY:
        return "note" if is_note(path) else None
    if not path.lower().endswith(SUFFIXES):
        return None
    return "practice" if shelf.name == PRACTICES else "document"


def _left_out_before(shelf: Shelf) -> list[str]:
    if shelf.name in (REPOSITORY, PRACTICES):
        return []
    try:
        data = reading.read(shelf.path, LEFT_OUT, bytes_max=DOCUMENT_BYTES_MAX).data
        return [f"{shelf.name}:{line}" for line in reading.text_of(data).splitlines()]
    except (Unreadable, OSError):
        return []


def _followed(shelf: Shelf, path: str, found: os.stat_result) -> os.stat_result:
    if not stat.S_ISLNK(found.st_mode):
        return found
    real = reading.resolve(shelf.path, path)
    try:
        return os.stat(real, follow_symlinks=False)
    except OSError as error:
        raise Unreadable(str(error.strerror)) from None


def _check(found: os.stat_result, path: str, listing: Listing, bytes_left: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is no regular file")
    if found.st_size > DOCUMENT_BYTES_MAX:
        raise Unreadable(
            f"it has {found.st_size:,} bytes, and at most {DOCUMENT_BYTES_MAX:,} are read"
        )
    if found.st_size > bytes_left:
        raise Unreadable(f"the documents before it have {SHELF_BYTES_MAX:,} bytes, which is all")
    if len(listing.documents) >= DOCUMENTS_MAX:
        raise Unreadable(f"there are {DOCUMENTS_MAX:,} documents before it, which is all")
    if path.encode("utf-8", "replace").decode() != path:
        raise Unreadable("its name is no UTF-8")
