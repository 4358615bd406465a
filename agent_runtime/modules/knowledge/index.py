"""Full text over the shelves: SQLite's FTS5 in memory, brought up to date at every question.

Sections are ranked by BM25, a hit in a title or heading before one in the text; words are stemmed
(porter), so that "testing" finds "tests". A document is read again when its stamp has changed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from agent_runtime.modules import reading
from agent_runtime.modules.knowledge.markdown import Document, parse
from agent_runtime.modules.knowledge.queries import expression
from agent_runtime.modules.knowledge.shelves import DOCUMENT_BYTES_MAX, Found, Listing, Shelf
from agent_runtime.modules.knowledge.shelves import look_through as look
from agent_runtime.modules.reading import Unreadable
from agent_runtime.modules.tries import twice

SNIPPET_TOKENS: Final = 24
_SCHEMA: Final = """
CREATE VIRTUAL TABLE sections USING fts5(
    title, heading, body, reference UNINDEXED, first UNINDEXED, last UNINDEXED,
    tokenize = "porter unicode61 remove_diacritics 2", prefix = '3 4'
);
"""


class IndexFailed(Exception):
    """SQLite refused, twice; says what it said."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A section that was found, best first."""

    reference: str
    first: int
    last: int
    heading: str
    snippet: str


@dataclass(frozen=True, slots=True)
class Known:
    """A document that has been read."""

    found: Found
    document: Document


class Index:
    """What one worker knows. Safe to ask from several threads, which take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None
        self._known: dict[str, dict[str, Known]] = {}
        """Shelf -> reference -> document."""
        self._bad: dict[str, tuple[reading.Stamp, str]] = {}
        """Files that turned out to be no text, so that they are not read again."""

    def refresh(self, shelves: Sequence[Shelf]) -> list[str]:
        """Look through the shelves; what was left out, and which shelf is told from memory.

        Raises:
            IndexFailed: nothing can be said.
        """
        with self._lock:
            notes: list[str] = []
            for gone in self._known.keys() - {shelf.name for shelf in shelves}:
                self._put(gone, {})
            for shelf in shelves:
                listing = twice(lambda shelf=shelf: look(shelf), errors=OSError)  # type: ignore[misc]
                if isinstance(listing, Exception):
                    count = len(self._known.get(shelf.name, {}))
                    notes.append(
                        f"{shelf.name}: cannot be read ({listing}), tried twice; "
                        + (f"its {count} documents are as read before" if count else "left out")
                    )
                    continue
                assert isinstance(listing, Listing)
                notes += listing.left_out
                self._update(shelf, listing, notes)
            return notes

    def documents(self) -> list[Known]:
        """Everything that is known, shelf by shelf, sorted by path."""
        with self._lock:
            return [
                known
                for name in sorted(self._known)
                for _, known in sorted(self._known[name].items())
            ]

    def search(self, query: str, limit: int, *, among: frozenset[str] | None = None) -> list[Hit]:
        """The best sections; `among` are references of documents. No words: nothing.

        Raises:
            IndexFailed: nothing can be said.
        """
        wanted = expression(query)
        if wanted is None:
            return []
        with self._lock:
            rows = twice(lambda: self._rows(wanted), errors=apsw.Error)
        if isinstance(rows, Exception):
            raise IndexFailed(str(rows))
        hits = [Hit(*row) for row in rows if among is None or row[0] in among]
        return hits[:limit]

    def _rows(self, wanted: str) -> list[tuple[str, int, int, str, str]]:
        db = self._open()
        try:
            return list(
                db.execute(
                    "SELECT reference, first, last, heading,"
                    f" snippet(sections, 2, '', '', ' … ', {SNIPPET_TOKENS})"
                    " FROM sections WHERE sections MATCH ?"
                    " ORDER BY bm25(sections, 8.0, 4.0, 1.0), reference, first LIMIT 500",
                    (wanted,),
                )
            )
        except apsw.Error:
            # It is made anew from what is known.
            self._db = None
            raise

    def _open(self) -> apsw.Connection:
        if self._db is None:
            db = apsw.Connection(":memory:")
            db.execute(_SCHEMA)
            for documents in self._known.values():
                for known in documents.values():
                    _insert(db, known)
            self._db = db
        return self._db

    def _update(self, shelf: Shelf, listing: Listing, notes: list[str]) -> None:
        before = self._known.get(shelf.name, {})
        now: dict[str, Known] = {}
        for found in listing.documents:
            known = before.get(found.reference)
            if known is not None and known.found == found:
                now[found.reference] = known
                continue
            bad = self._bad.get(found.reference)
            if bad is None or bad[0] != found.stamp:
                try:
                    data = reading.read(shelf.path, found.path, bytes_max=DOCUMENT_BYTES_MAX).data
                    document = parse(reading.text_of(data), name=found.path)
                    now[found.reference] = Known(found, document)
                    continue
                except (Unreadable, OSError) as error:
                    bad = self._bad[found.reference] = (found.stamp, str(error))
            notes.append(f"{found.reference}: {bad[1]}")
        self._put(shelf.name, now)

    def _put(self, shelf: str, now: dict[str, Known]) -> None:
        before = self._known.get(shelf, {})
        self._known[shelf] = now
        if self._db is None:
            return
        try:
            for reference, known in before.items():
                if now.get(reference) is not known:
                    self._db.execute("DELETE FROM sections WHERE reference = ?", (reference,))
            for reference, known in now.items():
                if before.get(reference) is not known:
                    _insert(self._db, known)
        except apsw.Error:
            self._db = None


def _insert(db: apsw.Connection, known: Known) -> None:
    reference = known.found.reference
    db.executemany(
        "INSERT INTO sections VALUES (?, ?, ?, ?, ?, ?)",
        [
            (known.document.title, each.heading, each.text, reference, each.start, each.end)
            for each in known.document.sections
        ],
    )
