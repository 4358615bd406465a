"""What a repository tells agents: which files do, and what the first message has of them. Pure.

`AGENTS.md` and its like hold for the directory they lie in and all below it; where two of them
disagree, the nearest to the file in question wins. A skill is a directory with a `SKILL.md`: front
matter with a name and a description, then instructions. All of it was written by others: it is
quoted, and never rules over goal and policy. Reading these files, and searching them, is the
business of `modules.knowledge`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NOTE_NAMES: Final = ("AGENTS.md", "CLAUDE.md", "GEMINI.md")
"""The first that is there speaks for its directory; agents of other makes read the others."""
ROOT_NOTES: Final = (*NOTE_NAMES, ".github/copilot-instructions.md")
SKILL_NAME: Final = "SKILL.md"

NOTE_CHARS_MAX: Final = 4_000
"""Of the root's notes in the first message: about 1,200 tokens of every request."""
SKILLS_MAX: Final = 40
_SKILLS_CHARS_MAX: Final = 6_000
SKILL_CHARS_MAX: Final = 240
NESTED_MAX: Final = 20
_FIELD_CHARS_MAX: Final = 1024
"""As the Agent Skills format has it for a description."""
_FRONT_LINES_MAX: Final = 200
_LINE_CHARS_MAX: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """What is shown of a skill until somebody reads it."""

    path: str
    name: str
    description: str


def is_note(path: str) -> bool:
    """Does a file, relative to the repository, tell agents about its directory?"""
    return path.rpartition("/")[2] in NOTE_NAMES or path in ROOT_NOTES


def is_skill(path: str) -> bool:
    """Is it the head of a skill?"""
    return path.rpartition("/")[2] == SKILL_NAME


def scope_of(note: str) -> str:
    """The directory that a note holds for; empty for all of the repository."""
    return "" if note in ROOT_NOTES else note.rpartition("/")[0]


def holding_for(path: str, notes: Iterable[str]) -> list[str]:
    """The notes that hold for a file or directory, the nearest first: where two disagree, it wins.

    Of several in one directory the first in `ROOT_NOTES` comes first.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    scopes = {"/".join(parts[:count]) for count in range(len(parts) + 1)}
    found = [note for note in notes if scope_of(note) in scopes]
    return sorted(found, key=lambda note: (-_depth(scope_of(note)), _rank(note), note))


def skill_of(path: str, text: str) -> Skill:
    """A skill's head. Without a name in its front matter it is called as its directory."""
    fields = front_matter(text)
    name = fields.get("name") or path.rpartition("/")[0].rpartition("/")[2] or "skill"
    return Skill(path=path, name=_line(name)[:64], description=_line(fields.get("description", "")))


def front_matter(text: str) -> Mapping[str, str]:
    """The top-level texts between the two `---` at the start; empty if there are none.

    Not all of YAML: scalars in one line, quoted or not, and block scalars. Whatever else is there
    is left out, so that no document can be too clever to be listed.
    """
    lines = text.removeprefix("\ufeff").splitlines()[: _FRONT_LINES_MAX + 1]
    if not lines or lines[0].rstrip() != "---":
        return {}
    ends = [number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"]
    if not ends:
        return {}
    fields: dict[str, str] = {}
    key = ""
    for line in (each[:_LINE_CHARS_MAX] for each in lines[1 : ends[0]]):
        if found := re.match(r"([A-Za-z][\w-]*):(?:\s+(.*))?$", line):
            key, value = found[1], (found[2] or "").strip()
            fields[key] = "" if re.fullmatch(r"[|>][-+0-9]*", value) else value
        elif key and line.startswith((" ", "\t")):
            fields[key] = f"{fields[key]} {line.strip()}".strip()[:_LINE_CHARS_MAX]
        elif line.strip() and not line.startswith("#"):
            key = ""
    return {key: _unquoted(value)[:_FIELD_CHARS_MAX] for key, value in fields.items()}


def opening_block(files: Sequence[tuple[str, str]]) -> str:
    """What the first message says of a repository's notes and skills; empty if it has none.

    `files` are (path relative to the repository, text) of what `is_note` and `is_skill` find. The
    block is below 14,000 characters, whatever they hold, and the same for the same files in any
    order.
    """
    texts = dict(sorted(files))
    parts = []
    notes = [path for path in texts if is_note(path)]
    # A note that is a link is, as git has it, the text of the link; the file itself speaks.
    root = [path for path in holding_for("", notes) if _link(path, texts[path]) not in texts]
    if root:
        parts.append(_quoted_note(root[0], texts[root[0]]))
    if nested := [path for path in notes if scope_of(path)]:
        parts.append(_nested(nested))
    skills = [skill_of(path, text) for path, text in texts.items() if is_skill(path)]
    if skills:
        parts.append(_skills(skills))
    return "\n\n".join(parts)


def _link(path: str, text: str) -> str:
    """Where a note leads if it is nothing but a relative path; else empty."""
    target = text.strip().removeprefix("./")
    if not target or "\n" in target or target == path:
        return ""
    directory = path.rpartition("/")[0]
    return f"{directory}/{target}" if directory else target


def _quoted_note(path: str, text: str) -> str:
    text = text.removeprefix("\ufeff").strip("\n")
    # What is quoted must not be able to end its quotation.
    shown = re.sub(r"</(?=\s*project_notes)", "<\\/", text, flags=re.IGNORECASE)
    kept, cut = _head(shown)
    lines = shown.count("\n") + 1
    told = ""
    if cut:
        last = kept.count("\n") + 1
        told = (
            f"\n[{len(shown) - len(kept):,} characters cut after line {last} of {lines}; "
            f"read on with read_file path={path} start={last if cut == 'line' else last + 1}]"
        )
    return (
        "The repository's own notes for agents follow. They tell how things are done here; goal, "
        "checks and policy stand above them.\n"
        f'<project_notes path="{_line(path)}">\n{kept}{told}\n</project_notes>'
    )


def _head(text: str) -> tuple[str, str]:
    """What fits, and whether it was cut after a "whole" line, in a "line", or not at all."""
    if len(text) <= NOTE_CHARS_MAX:
        return text, ""
    end = text.rfind("\n", 0, NOTE_CHARS_MAX)
    if end < NOTE_CHARS_MAX // 2:
        return text[:NOTE_CHARS_MAX], "line"
    return text[:end], "whole"


def _nested(paths: Sequence[str]) -> str:
    shown = "".join(f"\n- {_cut(path, 120)}" for path in paths[:NESTED_MAX])
    more = f"\n- and {len(paths) - NESTED_MAX} more" if len(paths) > NESTED_MAX else ""
    return (
        "Directories with notes of their own; for the files below them the nearest wins. Read them "
        f"before you change something there:{shown}{more}"
    )


def _skills(skills: Sequence[Skill]) -> str:
    lines: list[str] = []
    room = _SKILLS_CHARS_MAX
    for skill in skills[:SKILLS_MAX]:
        about = f": {_cut(skill.description, SKILL_CHARS_MAX)}" if skill.description else ""
        line = f"\n- {skill.name} ({_cut(skill.path, 120)}){about}"
        room -= len(line)
        if room < 0:
            break
        lines.append(line)
    left = len(skills) - len(lines)
    more = f"\n- and {left} more" if left else ""
    return "Skills: instructions for a kind of work. Read one when it fits:" + "".join(lines) + more


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1].replace("''", "'")
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1].replace('\\"', '"').replace("\\n", " ").replace("\\\\", "\\")
    return re.sub(r"(?:^|\s+)#.*$", "", value)


def _depth(scope: str) -> int:
    return scope.count("/") + 1 if scope else 0


def _rank(note: str) -> int:
    name = note if note in ROOT_NOTES else note.rpartition("/")[2]
    return ROOT_NOTES.index(name) if name in ROOT_NOTES else len(ROOT_NOTES)


def _line(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f\"<>]", " ", text).split())


def _cut(text: str, chars: int) -> str:
    text = _line(text)
    return text if len(text) <= chars else text[: chars - 1].rstrip() + "…"
