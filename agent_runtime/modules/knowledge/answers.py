"""What the brain is shown: a list, sections that were found, lines of a document.

Everything is cited: a reference, its first and last line. What was cut or left out is said.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from agent_runtime.loop.project_notes import holding_for, is_skill
from agent_runtime.modules import reading
from agent_runtime.modules.knowledge import markdown
from agent_runtime.modules.knowledge.index import Index, IndexFailed, Known
from agent_runtime.modules.knowledge.queries import words_of
from agent_runtime.modules.knowledge.shelves import (
    DOCUMENT_BYTES_MAX,
    REPOSITORY,
    Shelf,
    bundled,
)
from agent_runtime.modules.reading import Unreadable
from agent_runtime.schema import nearest
from agent_runtime.toolkit import OUTPUT_CHARS_MAX
from agent_runtime.types import FailureKind, ToolResult

LISTED_MAX: Final = 60
OUTLINE_MAX: Final = 40
FILES_MAX: Final = 40
NOTES_MAX: Final = 8
_LIST_CHARS_MAX: Final = 8_000
_LINES: Final = re.compile(r":(\d{1,9})(?:-(\d{1,9}))?\Z")
_KINDS: Final = {
    "note": "Notes of the repository (the nearest to a file wins)",
    "skill": "Skills",
    "document": "The user's documents",
    "practice": "Best practices",
}


def search(
    index: Index, shelves: Sequence[Shelf], *, query: str, path: str | None, limit: int
) -> ToolResult:
    """The list, or what was found; with a path, among the notes that hold for it."""
    try:
        notes = index.refresh(shelves)
        documents = index.documents()
        holding: list[str] | None = None
        if path is not None:
            own = [
                k.found.path
                for k in documents
                if k.found.kind == "note" and k.found.shelf.name == REPOSITORY
            ]
            holding = [f"{REPOSITORY}:{note}" for note in holding_for(path, own)]
        if not words_of(query):
            return _listed(documents, holding, path, notes, query)
        among = None if holding is None else frozenset(holding)
        hits = index.search(query, limit, among=among)
    except IndexFailed as error:
        # It helps and decides nothing: the work goes on without.
        note = f"[nothing could be looked up: {error}; tried twice]"
        return ToolResult(ok=True, output=note, data={"hits": [], "note": str(error)})
    titles = {known.found.reference: known.document.title for known in documents}
    lines = [f"{len(hits)} sections for {query.strip()[:200]!r}, best first:" if hits else ""]
    for number, hit in enumerate(hits, 1):
        heading = hit.heading if titles[hit.reference] in hit.heading else (
            f"{titles[hit.reference]} > {hit.heading}" if hit.heading else titles[hit.reference]
        )  # fmt: skip
        lines.append(f"{number}. {hit.reference}:{hit.first}-{hit.last} {heading}")
        lines.append(f"   {' '.join(hit.snippet.split())}")
    if hits:
        lines.append("[read one with read_knowledge]")
    else:
        where = f" in the notes that hold for {path!r}" if path is not None else ""
        lines = [
            f"nothing is found for {query.strip()[:200]!r}{where}, in {len(documents)} documents; "
            "try other words, or none for the list"
        ]
    data = [
        {"ref": hit.reference, "first": hit.first, "last": hit.last, "heading": hit.heading}
        for hit in hits
    ]
    return ToolResult(
        ok=True,
        output="\n".join([*lines, *_told(notes)]),
        data={"hits": data, "left_out": notes[:NOTES_MAX]},
    )


def _listed(
    documents: Sequence[Known], holding: list[str] | None, path: str | None, notes: list[str],
    query: str,
) -> ToolResult:  # fmt: skip
    """Names and descriptions: the first of three steps."""
    lines = [f"[there is no word in {query[:80]!r}: this is the list]"] if query.strip() else []
    if holding is not None:
        by_reference = {known.found.reference: known for known in documents}
        shown = [by_reference[reference] for reference in holding]
        first = (
            f"Notes that hold for {path or '.'!r}, the nearest first: where two disagree, it wins."
        )
        lines.append(first if shown else f"No notes of the repository hold for {path or '.'!r}.")
    else:
        order = list(_KINDS)
        shown = sorted(documents, key=lambda known: order.index(known.found.kind))
    kind = ""
    chars = 0
    for number, known in enumerate(shown):
        if holding is None and known.found.kind != kind:
            kind = known.found.kind
            lines.append(f"{_KINDS[kind]}:")
        line = f"- {known.found.reference} {_described(known)}"
        chars += len(line)
        if number >= LISTED_MAX or chars > _LIST_CHARS_MAX:
            lines.append(f"[{len(shown) - number} more; search with a query finds them]")
            break
        lines.append(line)
    if not documents:
        lines.append("There is nothing to be looked up.")
    data = [{"ref": known.found.reference, "title": known.document.title} for known in shown]
    return ToolResult(
        ok=True,
        output="\n".join([*lines, *_told(notes)]),
        data={"documents": data[:LISTED_MAX], "left_out": notes[:NOTES_MAX]},
    )


def _described(known: Known) -> str:
    title, description = known.document.title, known.document.description
    text = f"{title}: {description}" if description else title
    count = len(known.document.lines)
    return f"{text if len(text) <= 240 else text[:239] + '…'} ({count} lines)"


def read(index: Index, shelves: Sequence[Shelf], reference: str) -> ToolResult:
    """A document or lines of it, capped, with where to read on; a skill's files by name."""
    asked = reference.strip()
    found = _LINES.search(asked)
    place = asked[: found.start()] if found else asked
    shelf_name, colon, path = place.partition(":")
    shelf = next((each for each in shelves if each.name == shelf_name), None)
    if shelf is None or not colon or not path:
        known = ", ".join(f"{each.name}:" for each in shelves)
        return _failed(
            "bad_input",
            f"ref {reference!r} must begin with one of {known} and name a document, as "
            "repo:AGENTS.md; search_knowledge without a query lists them",
        )
    try:
        content = reading.read(shelf.path, path, bytes_max=DOCUMENT_BYTES_MAX)
        text = reading.text_of(content.data)
    except Unreadable as error:
        if error.is_absent:
            return _failed("not_found", f"{place}: {error}{_hint(index, shelves, place)}")
        return _failed("refused" if error.is_outside else "failed", f"{place}: {error}")
    except OSError as error:
        return _failed("transient", f"{place}: {error.strerror or error}")
    document = markdown.parse(text, name=path)
    total = len(document.lines)
    first, last = 1, total
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if not 1 <= first <= last or first > total:
            return _failed(
                "bad_input", f"{place} has lines 1-{total}; {asked[len(place) + 1 :]!r} is no range"
            )
        last = min(last, total)
    sha256 = hashlib.sha256(content.data).hexdigest()
    below = [] if found else _below(shelf, path, document, place)
    room = OUTPUT_CHARS_MAX - 400 - sum(len(line) + 1 for line in below)
    shown, end = _fitting(document.lines[first - 1 : last], first, room)
    head = f"[{place}:{first}-{end} of {total} lines, sha256 {sha256[:12]}]"
    more = [f"[cut; read on with ref {place}:{end + 1}-{last}]"] if end < last else []
    return ToolResult(
        ok=True,
        output="\n".join([head, shown, *more, *below]),
        data={
            "ref": place, "first": first, "last": end, "lines": total, "sha256": sha256,
            "cut": end < last,
        },
    )  # fmt: skip


def _fitting(lines: Sequence[str], first: int, room: int) -> tuple[str, int]:
    """As many whole lines as fit, at least one, and the number of the last."""
    taken: list[str] = []
    for line in lines:
        if taken and room < len(line) + 1:
            break
        if len(line) > room:
            line = f"{line[: max(room - 60, 0)]} [… {len(line):,} characters in this line]"
        room -= len(line) + 1
        taken.append(line)
    return "\n".join(taken), first + max(len(taken), 1) - 1


def _below(shelf: Shelf, path: str, document: markdown.Document, place: str) -> list[str]:
    """The third step: a skill's files, and the sections of what is too long to be shown whole."""
    lines: list[str] = []
    if sum(len(line) + 1 for line in document.lines) > OUTPUT_CHARS_MAX - 400:
        starts = [section for section in document.sections if section.heading]
        lines += [
            "[sections:]",
            *(f"- {place}:{each.start}-{each.end} {each.heading}" for each in starts[:OUTLINE_MAX]),
        ]
    if is_skill(path):
        try:
            files = list(bundled(shelf, path))
        except (Unreadable, OSError):
            files = []
        if files:
            lines.append("[files of this skill, read with read_knowledge:]")
            lines += [
                f"- {shelf.name}:{each} ({count:,} bytes)" for each, count in files[:FILES_MAX]
            ]
        if len(files) > FILES_MAX:
            lines.append(f"- and {len(files) - FILES_MAX} more")
    return [line[:300] for line in lines]


def _hint(index: Index, shelves: Sequence[Shelf], place: str) -> str:
    try:
        index.refresh(shelves)
    except IndexFailed:
        return ""
    guess = nearest(place, [known.found.reference for known in index.documents()])
    return f"; did you mean {guess!r}?" if guess else "; search_knowledge lists what there is"


def _told(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    more = f" and {len(notes) - NOTES_MAX} more" if len(notes) > NOTES_MAX else ""
    return [f"[left out: {'; '.join(note[:300] for note in notes[:NOTES_MAX])}{more}]"]


def _failed(kind: FailureKind, text: str) -> ToolResult:
    return ToolResult(ok=False, kind=kind, output=text)
