"""Markdown as numbered lines: its title and its sections. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent_runtime.loop.project_notes import front_matter

SECTION_LINES_MAX: Final = 60
"""A longer section is searched, and shown, in pieces."""
_HEADING: Final = re.compile(r" {0,3}(#{1,6})[ \t]")
_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
_LINE_CHARS_MAX: Final = 4_000


@dataclass(frozen=True, slots=True)
class Section:
    """Lines `start` to `end`, counted from 1, both ends included, and the headings above them."""

    start: int
    end: int
    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A Markdown text. `description` is its front matter's, else its first sentence."""

    title: str
    description: str
    lines: tuple[str, ...]
    sections: tuple[Section, ...]


def parse(text: str, *, name: str) -> Document:
    """Never fails: what is no Markdown is one section."""
    lines = tuple(line.rstrip("\r") for line in text.split("\n"))
    if len(lines) > 1 and not lines[-1]:
        lines = lines[:-1]
    fields = front_matter(text)
    body = _after_front_matter(lines) if fields else 0
    sections = tuple(_sections(lines, body))
    first = next((text for line in lines[body:] if (text := _heading(line)[1])), "")
    title = fields.get("name") or fields.get("title") or first or name
    description = fields.get("description") or _first_sentence(lines[body:])
    return Document(_line(title)[:200], _line(description)[:1024], lines, sections)


def _after_front_matter(lines: tuple[str, ...]) -> int:
    return next(i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---") + 1


def _sections(lines: tuple[str, ...], body: int) -> Iterator[Section]:
    path: list[tuple[int, str]] = []
    start, heading, fence = body, "", ""
    for number in range(body, len(lines)):
        line = lines[number][:_LINE_CHARS_MAX]
        if found := _FENCE.match(line):
            if not fence:
                fence = found[1]
            elif found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            continue
        level, text = _heading(line)
        if fence or not level:
            continue
        yield from _pieces(lines, start, number, heading)
        path = [above for above in path if above[0] < level]
        path.append((level, text))
        start, heading = number, " > ".join(text for _, text in path)[:300]
    yield from _pieces(lines, start, len(lines), heading)


def _heading(line: str) -> tuple[int, str]:
    """Its level and its words; level 0 if it is none."""
    # Not in one expression: what may end in blanks and signs is slow over many of them.
    if not (found := _HEADING.match(line)):
        return 0, ""
    return len(found[1]), _line(line[found.end() : _LINE_CHARS_MAX].rstrip().rstrip("#"))


def _pieces(lines: tuple[str, ...], start: int, end: int, heading: str) -> Iterator[Section]:
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    for first in range(start, end, SECTION_LINES_MAX):
        last = min(first + SECTION_LINES_MAX, end)
        yield Section(first + 1, last, heading, "\n".join(lines[first:last]))


def _first_sentence(lines: tuple[str, ...]) -> str:
    taken: list[str] = []
    for line in lines[:80]:
        if _HEADING.match(line) or _FENCE.match(line) or line.lstrip().startswith(("<", "[!", "|")):
            if taken:
                break
            continue
        if line.strip():
            taken.append(line.strip())
        elif taken:
            break
    text = " ".join(taken)[:1_000]
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0][:200]


def _line(text: str) -> str:
    return " ".join(text.split())
