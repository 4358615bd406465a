"""Text that a person wrote, as JSON values: YAML or JSON, with the line of every value.

Stricter than YAML where YAML surprises: a key may stand once, keys are strings, there are no dates,
tags, merge keys or numbers in base 60, and aliases are counted as if they were written out. What
the values mean is decided in `taskfile` and `settings`; how they get their types, in `shapes`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import yaml

from agent_runtime.errors import UsageError
from agent_runtime.types import Json

BYTES_MAX: Final = 1 << 20
"""Of one file: a thousand times a usual one."""
DEPTH_MAX: Final = 64
NODES_MAX: Final = 100_000
"""Values in one file, aliases written out: ten lines of aliases can stand for 10^9 values."""

Path = tuple[str | int, ...]
"""Keys and indexes from the root to a value."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final[Mapping[str, bool]] = {
    spelled: truth
    for word, truth in {"true": True, "yes": True, "on": True,
                        "false": False, "no": False, "off": False}.items()
    for spelled in (word, word.capitalize(), word.upper())
}  # fmt: skip
# A number with a leading zero is text: YAML 1.1 reads 010 as 8, YAML 1.2 as 10.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z")
_BASED = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_DIGITS_MAX = 400


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value stands: its line, from 1, and a plain YAML word as it was written."""

    line: int
    word: str = ""


@dataclass(slots=True)
class Document:
    """A file's value. `problems` are those that leave the rest readable."""

    value: Json
    sources: dict[Path, Source] = field(default_factory=dict)
    problems: list[tuple[Path, str, int]] = field(default_factory=list)
    """Where, what, and in which line."""


def decode(raw: bytes, *, name: str) -> str:
    """The text of a file.

    Raises:
        UsageError: too large, binary or not UTF-8.
    """
    if len(raw) > BYTES_MAX:
        raise UsageError(
            f"{name}: is larger than {BYTES_MAX} bytes (1 MiB); keep long texts in the repository"
        )
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{name}: is UTF-16; save it as UTF-8")
    if b"\0" in raw:
        raise UsageError(f"{name}: is a binary file; a YAML or JSON file in UTF-8 is needed")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{name}:{line}: is not UTF-8: byte {raw[error.start]:#04x}; save it as UTF-8"
        ) from None


def load(text: str, *, name: str) -> Document:
    """Read YAML or JSON, told apart by the content. An empty text is null.

    Raises:
        UsageError: malformed, with line and column; too deep; too many values.
    """
    if not text.lstrip().startswith(("{", "[")):
        return _load_yaml(text, name=name)
    try:
        value, repeated = _load_json(text, name=name)
    except json.JSONDecodeError as error:
        try:
            return _load_yaml(text, name=name)  # a flow mapping: {goal: …}
        except UsageError:
            if not re.match(r'\s*[\[{]\s*["{\]}]', text):
                raise
        raise UsageError(
            f"{name}:{error.lineno}:{error.colno}: malformed JSON: {error.msg}"
        ) from None
    # YAML folds some characters that JSON keeps: it only says where things stand.
    try:
        located = _load_yaml(text, name=name)
    except UsageError:
        located = Document(None)
    if repeated and not located.problems:
        located.problems = [
            ((), f"the key {key!r} stands twice in a mapping", 0) for key in repeated
        ]
    return Document(value, located.sources, located.problems)


def _load_json(text: str, *, name: str) -> tuple[Json, list[str]]:
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        found = dict(items)
        if len(found) < len(items):
            repeated.extend(k for k, times in Counter(k for k, _ in items).items() if times > 1)
        return found

    def constant(word: str) -> Json:
        return float(word)  # refused later, where its key is known

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant), repeated
    except RecursionError:
        raise UsageError(_too_deep(name)) from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # more digits than Python reads
        raise UsageError(f"{name}: holds a number with thousands of digits") from None


def _load_yaml(text: str, *, name: str) -> Document:
    return _Composer(_events(text, name=name), name=name).document()


def _events(text: str, *, name: str) -> list[yaml.Event]:
    events: list[yaml.Event] = []
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            events.append(event)
            # Stopped here, because libyaml takes minutes over a deep text.
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEPTH_MAX:
                raise UsageError(_too_deep(name))
            if len(events) > 3 * NODES_MAX:
                raise UsageError(_too_many(name))
    except yaml.MarkedYAMLError as error:
        raise UsageError(_malformed(error, text, name=name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(
            f"{name}:{line}: malformed YAML: the character {_code(error.character)} is not allowed;"
            ' write it as an escape in double quotes, for example "\\x07"'
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"{name}: malformed YAML: {error}") from None
    return events


def _code(character: object) -> str:
    code = character if isinstance(character, int) else ord(str(character)[:1] or "\0")
    return f"U+{code:04X}"


def _malformed(error: yaml.MarkedYAMLError, text: str, *, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    problem = ", ".join(str(part) for part in (error.context, error.problem) if part)
    if mark is None:
        return f"{name}: malformed YAML: {problem}"
    lines = text.split("\n")
    # The fault is reported at the tab, or in the line after a tab that ended a mapping.
    near = lines[max(0, mark.line - 1) : mark.line + 1]
    hint = ""
    if any("\t" in line[: len(line) - len(line.lstrip())] for line in near):
        hint = "; YAML allows no tabs there: indent with spaces"
    elif "mapping values are not allowed" in problem:
        hint = "; a text that holds ': ' needs quotes"
    elif "cannot start any token" in problem:
        hint = "; a text that begins with @, ` or % needs quotes"
    return f"{name}:{mark.line + 1}:{mark.column + 1}: malformed YAML: {problem}{hint}"


def _too_many(name: str) -> str:
    return f"{name}: holds more than {NODES_MAX} values (aliases count as written out)"


def _too_deep(name: str) -> str:
    return f"{name}: is nested more than {DEPTH_MAX} levels deep"


class _Composer:
    """Values out of parsing events. An alias is its anchor's events once more, under limits."""

    def __init__(self, events: Sequence[yaml.Event], *, name: str) -> None:
        self._events = events
        self._name = name
        self._anchors: dict[str, int] = {}
        """Name of a finished node -> number of its first event."""
        self._open: set[str] = set()
        self._nodes = 0
        self._document = Document(None)

    def document(self) -> Document:
        starts = [
            index
            for index, event in enumerate(self._events)
            if isinstance(event, yaml.DocumentStartEvent)
        ]
        if not starts:
            return self._document
        if len(starts) > 1:
            line = _line(self._events[starts[1]])
            raise UsageError(f"{self._name}:{line}: a second document begins; one file holds one")
        self._document.value, _ = self._node(starts[0] + 1, (), 0)
        return self._document

    def _node(self, at: int, path: Path, depth: int) -> tuple[Json, int]:
        """The value that begins with event `at`, and the number of the event after it."""
        event = self._events[at]
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise UsageError(_too_many(self._name))
        if depth > DEPTH_MAX:
            raise UsageError(_too_deep(self._name))
        self._document.sources.setdefault(path, Source(_line(event)))
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, path, depth), at + 1
        assert isinstance(event, yaml.NodeEvent)
        anchor = event.anchor
        if anchor is not None:
            self._open.add(anchor)
        value, after = self._content(event, at, path, depth)
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = at
        return value, after

    def _aliased(self, event: yaml.AliasEvent, path: Path, depth: int) -> Json:
        anchor = str(event.anchor)
        if anchor in self._open or anchor not in self._anchors:
            why = "stands inside its own anchor" if anchor in self._open else "has no anchor"
            self._fail(event, f"the alias *{anchor} {why}")
        return self._node(self._anchors[anchor], path, depth)[0]

    def _content(self, event: yaml.Event, at: int, path: Path, depth: int) -> tuple[Json, int]:
        match event:
            case yaml.ScalarEvent():
                return self._scalar(event, path), at + 1
            case yaml.SequenceStartEvent():
                self._check_tag(event, "seq")
                items: list[Json] = []
                at += 1
                while not isinstance(self._events[at], yaml.SequenceEndEvent):
                    item, at = self._node(at, (*path, len(items)), depth + 1)
                    items.append(item)
                return items, at + 1
            case yaml.MappingStartEvent():
                self._check_tag(event, "map")
                return self._mapping(at + 1, path, depth)
            case _:
                raise AssertionError(f"{event!r} begins no value")

    def _mapping(self, at: int, path: Path, depth: int) -> tuple[Json, int]:
        found: dict[str, Json] = {}
        lines: dict[str, int] = {}
        while not isinstance(self._events[at], yaml.MappingEndEvent):
            begin = self._events[at]
            line = _line(begin)
            key, at = self._key(at, path, depth)
            if key is None:
                _, at = self._node(at, (*path, "?"), depth + 1)
                continue
            below = (*path, key)
            if key in found:
                self._document.problems.append(
                    (
                        below,
                        f"the key stands twice, in lines {lines[key]} and {line}; keep one",
                        line,
                    )
                )
                _, at = self._node(at, (*below, "?"), depth + 1)
                continue
            lines[key] = line
            self._document.sources[below] = Source(line)
            found[key], at = self._node(at, below, depth + 1)
        return found, at + 1

    def _key(self, at: int, path: Path, depth: int) -> tuple[str | None, int]:
        begin = self._events[at]
        key, after = self._node(at, (*path, "?"), depth + 1)
        self._document.sources.pop((*path, "?"), None)
        line = _line(begin)
        if isinstance(key, str):
            if key == "<<" and isinstance(begin, yaml.ScalarEvent) and begin.implicit[0]:
                self._fail(begin, "merge keys (<<) are not supported: write the keys out")
            return key, after
        word = begin.value if isinstance(begin, yaml.ScalarEvent) else ""
        if isinstance(key, bool) and word.lower() not in ("true", "false"):
            return word, after  # nobody means the boolean: `notify` has a key `on`
        hint = f"; write it in quotes: {json.dumps(word)}" if word else ""
        read = word and not isinstance(key, str) and f"{word} is read as {json.dumps(key)}"
        told = read or f"this one is a {type(key).__name__}"
        text = f"keys must be strings, and {told}{hint}"
        self._document.problems.append((path, text, line))
        return None, after

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Json:
        text: str = event.value
        if event.tag is None and not event.implicit[0]:
            return text
        if event.tag in ("!", f"{_TAG}str"):
            return text
        value = self._plain(event, text)
        if event.tag is not None:
            wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}
            kind = wanted.get(event.tag.removeprefix(_TAG))
            if kind is None:
                self._fail(event, f"the tag {_short(event.tag)} is not supported; leave it out")
            if kind is float and type(value) is int and abs(value) < 10**300:
                value = float(value)
            if type(value) is not kind:
                self._fail(event, f"{text[:40]!r} does not fit its tag {_short(event.tag)}")
        if not isinstance(value, str):
            # Kept for messages: who wrote no, 1.10 or ~ may have meant a text.
            line = self._document.sources[path].line
            self._document.sources[path] = Source(line, text[:60])
        return value

    def _plain(self, event: yaml.ScalarEvent, text: str) -> Json:
        if text in _NULL:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if len(text) > _DIGITS_MAX:
            if _INTEGER.match(text) or _FLOAT.match(text) or _BASED.match(text):
                self._fail(event, f"a number has {len(text)} digits; if it is a text, quote it")
            return text
        if _INTEGER.match(text):
            return int(text.replace("_", ""))
        if _BASED.match(text):
            return int(text, 0)
        if _FLOAT.match(text):
            return float(text.replace("_", ""))
        if _SPECIAL_FLOAT.match(text):
            return float(text.replace(".", ""))
        return text

    def _check_tag(self, event: yaml.CollectionStartEvent, kind: str) -> None:
        if event.tag not in (None, "!", _TAG + kind):
            self._fail(event, f"the tag {_short(event.tag)} is not supported; leave it out")

    def _fail(self, event: yaml.Event, problem: str) -> NoReturn:
        raise UsageError(f"{self._name}:{_line(event)}: {problem}")


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag[:60]


def path_text(path: Iterable[str | int]) -> str:
    """`plan.steps[2].args`; a key that is no word stands in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part[:60]!r}]"
    return text
