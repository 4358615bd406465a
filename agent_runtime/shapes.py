"""A JSON value into a `msgspec.Struct`, with every problem told, not only the first.

The known keys and their types are those of the Struct. What is wrong is replaced by its default (or
an empty value) in a *draft*, so that the rules that look at several keys still have something to
look at; a draft with problems is never used. What a value may be beyond its type is in `taskfile`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import inspect as kinds

from agent_runtime.documents import Path, Source, path_text
from agent_runtime.errors import Fault, UsageError
from agent_runtime.schema import nearest
from agent_runtime.types import Json

PROBLEMS_MAX: Final = 50
"""That are told: more than anybody mends in one go."""
DEPTH_MAX: Final = 64
"""Of free values (a tool's arguments)."""
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
"""JSON readers, our own log's too, turn larger integers into floats."""
SHOWN_CHARS_MAX: Final = 60

Told = Iterable[tuple[Path, str]]
"""Problems of a value: where below it, and what."""
Rule = Callable[[Any], Told]

_SURROGATE = re.compile("[\ud800-\udfff]")


class _Bad:
    """Stands for a value that could not be read."""


BAD: Final = _Bad()


class Problems:
    """What is wrong with a document, in its order."""

    def __init__(self, sources: Mapping[Path, Source] | None = None) -> None:
        self._sources = sources or {}
        self._found: list[tuple[int, Path, str]] = []
        self._touched: set[Path] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, text: str, *, line: int = 0) -> None:
        self._found.append((line or self._line(path), path, text))
        self._touched.update(path[:count] for count in range(len(path) + 1))

    def hint(self, word: str, known: Iterable[str]) -> str:
        """`; did you mean 'x'?`, as long as anybody reads it: looking takes milliseconds."""
        guess = nearest(word, known) if len(self._found) < PROBLEMS_MAX else None
        return f"; did you mean {guess!r}?" if guess else ""

    def at(self, path: Path) -> bool:
        """Is anything wrong at `path` or below it?"""
        return path in self._touched

    def word(self, path: Path) -> str:
        """The plain YAML word that stands there, if it was read as something else than a text."""
        source = self._sources.get(path)
        return source.word if source else ""

    def lines(self, *, name: str) -> list[str]:
        """One line a problem: `file:line: key: what is wrong`."""
        told = dict.fromkeys(sorted(self._found, key=lambda found: found[0]))
        texts = [_told(name, line, path, text) for line, path, text in told]
        if len(texts) > PROBLEMS_MAX:
            rest = len(texts) - PROBLEMS_MAX
            texts[PROBLEMS_MAX:] = [f"{name}: and {rest} more" if name else f"and {rest} more"]
        return texts

    def error(self, *, name: str) -> UsageError:
        """All of it as one error, a line a problem."""
        faults = [Fault(path, text) for _, path, text in self._found[:PROBLEMS_MAX]]
        return UsageError("\n".join(self.lines(name=name)), faults=faults)

    def _line(self, path: Path) -> int:
        # A missing key has no line of its own: its mapping's will do.
        for count in range(len(path), -1, -1):
            if source := self._sources.get(path[:count]):
                return source.line
        return 0


def _told(name: str, line: int, path: Path, text: str) -> str:
    place = f"{name}:{line}" if name and line else name
    return ": ".join(part for part in (place, path_text(path), text) if part)


@dataclass(slots=True)
class Reader:
    """Reads values of inspected types.

    `rules` are asked about a field's value that has the right type. `notes` are added to what is
    wrong with a field. `retired` explains keys that a Struct does not know, but people expect.
    `examples` shows what a Struct is written like, with `<>` in the place of a value, and what
    stands there by default.
    With `whole_floats`, 8.0 is an integer: JSON knows one kind of number (JSON Schema, 6.1.1).
    """

    problems: Problems
    rules: Mapping[tuple[type, str], Rule] = field(default_factory=dict)
    notes: Mapping[tuple[type, str], str] = field(default_factory=dict)
    retired: Mapping[tuple[type, str], str] = field(default_factory=dict)
    examples: Mapping[type, tuple[str, str]] = field(default_factory=dict)
    whole_floats: bool = False

    def read(self, value: Json, kind: kinds.Type, path: Path, note: str = "") -> Any:
        """The value as `kind`, or `BAD`; what is wrong is in `problems`."""
        match kind:
            case kinds.StructType():
                return self._struct(value, kind, path, note)
            case kinds.UnionType():
                return self._union(value, kind, path, note)
            case kinds.ListType():
                return self._list(value, kind, path, note)
            case kinds.DictType():
                return self._dict(value, kind, path, note)
            case kinds.AnyType():
                return self._free(value, path, 0)
            case _:
                return self._scalar(value, kind, path, note)

    def _struct(self, value: Json, kind: kinds.StructType, path: Path, note: str) -> Any:
        if isinstance(value, str) and (short := getattr(kind.cls, "short", None)):
            value = {short: value}
        if not isinstance(value, Mapping):
            return self._not_a(value, "a mapping", path, note or self._example(kind.cls, value))
        fields = {f.encode_name: f for f in kind.fields}
        for key in value:
            if not isinstance(key, str):
                self._wrong(path, f"keys must be strings, got {shown(key)}")
            elif key not in fields:
                self._wrong((*path, key), self._unknown(key, kind.cls, fields))
        given: dict[str, Any] = {}
        for key, known in fields.items():
            below = (*path, key)
            if key not in value:
                if known.required:
                    self._wrong(below, "is required and missing")
                    given[known.name] = _empty(known.type)
                continue
            said = self.notes.get((kind.cls, key), "")
            found = self.read(value[key], known.type, below, said)
            if found is BAD:
                if known.required:
                    given[known.name] = _empty(known.type)
                continue
            given[known.name] = found
            rule = self.rules.get((kind.cls, key))
            if rule is not None and found is not None:
                for where, text in rule(found):
                    if not self.problems.at((*below, *where)):
                        self._wrong((*below, *where), text)
        return kind.cls(**given) if BAD not in given.values() else BAD

    def _example(self, owner: type, value: Json) -> str:
        """How it is written, with the value that was given where that can be meant."""
        if owner not in self.examples:
            return ""
        shape, usual = self.examples[owner]
        given = value if isinstance(value, (str, int)) and not isinstance(value, bool) else usual
        text = str(given)
        if not text.strip() or len(text) > SHOWN_CHARS_MAX or isinstance(value, list):
            text = usual
        return f"write {shape.replace('<>', _flow_word(text))}"

    def _unknown(self, key: str, owner: type, known: Iterable[str]) -> str:
        if said := self.retired.get((owner, key)):
            return said
        return f"unknown key{self.problems.hint(key, known)} (known: {', '.join(known)})"

    def _union(self, value: Json, kind: kinds.UnionType, path: Path, note: str) -> Any:
        others = [k for k in kind.types if not isinstance(k, kinds.NoneType)]
        if value is None and len(others) < len(kind.types):
            return None
        if len(others) == 1:
            return self.read(value, others[0], path, note)
        # The only wider choice of the task file: a command is a string or a list.
        for choice in others:
            is_list = isinstance(choice, kinds.ListType)
            if is_list == isinstance(value, (list, tuple)) and (is_list or isinstance(value, str)):
                return self.read(value, choice, path, note)
        wanted = " or ".join(_name(choice) for choice in others)
        return self._not_a(value, wanted, path, note)

    def _list(self, value: Json, kind: kinds.ListType, path: Path, note: str) -> Any:
        if not isinstance(value, (list, tuple)):
            hint = f"write [{value}]" if isinstance(value, str) and len(value) < 40 else ""
            if isinstance(kind.item_type, kinds.StructType):
                shape = self._example(kind.item_type.cls, value).removeprefix("write ")
                hint = f"write [{shape}]" if shape else ""
                known = {each.encode_name for each in kind.item_type.fields}
                if isinstance(value, Mapping) and known & value.keys():
                    hint = "write it as the one item of a list: a line that begins with -, or [{…}]"
            return self._not_a(value, _name(kind), path, note or hint)
        return [self._item(item, kind.item_type, (*path, at)) for at, item in enumerate(value)]

    def _item(self, item: Json, kind: kinds.Type, path: Path) -> Any:
        # A wrong item keeps its place, so that the others keep their numbers.
        found = self.read(item, kind, path)
        return _empty(kind) if found is BAD else found

    def _dict(self, value: Json, kind: kinds.DictType, path: Path, note: str) -> Any:
        if not isinstance(value, Mapping):
            return self._not_a(value, "a mapping", path, note)
        read: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self._wrong(path, f"keys must be strings, got {shown(key)}")
                continue
            if _SURROGATE.search(key):
                self._wrong(path, f"the key {key[:40]!r} holds half of a surrogate pair")
                continue
            found = self.read(item, kind.value_type, (*path, key))
            if found is not BAD:
                read[key] = found
        return read

    def _scalar(self, value: Json, kind: kinds.Type, path: Path, note: str) -> Any:
        match kind:
            case kinds.StrType():
                return self._text(value, path, note)
            case kinds.BoolType():
                if isinstance(value, bool):
                    return value
                return self._not_a(value, "true or false", path, note)
            case kinds.IntType():
                return self._integer(value, path, note)
            case kinds.FloatType():
                return self._number(value, path, note)
            case kinds.LiteralType(values=words):
                return self._one_of(value, [str(word) for word in words], path, note)
            case kinds.EnumType(cls=enum):
                found = self._one_of(value, [str(member.value) for member in enum], path, note)
                return BAD if found is BAD else enum(found)
            case _:
                raise AssertionError(f"no reader for {kind!r}")

    def _text(self, value: Json, path: Path, note: str) -> Any:
        if not isinstance(value, str):
            return self._not_a(value, "a string", path, note)
        if not value.isascii() and _SURROGATE.search(value):
            return self._wrong(path, f"holds half of a surrogate pair: {shown(value)}")
        if "\0" in value:
            return self._wrong(path, f"must not hold a NUL character, got {shown(value)}")
        return str(value)

    def _integer(self, value: Json, path: Path, note: str) -> Any:
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
            if self.whole_floats:
                return int(value)
            return self._not_a(value, "an integer", path, note or f"write {int(value)}")
        if isinstance(value, bool) or not isinstance(value, int):
            return self._not_a(value, "an integer", path, note)
        return self._in_64_bits(value, path)

    def _number(self, value: Json, path: Path, note: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return self._not_a(value, "a number", path, note)
        if isinstance(value, int):
            checked = self._in_64_bits(value, path)
            return BAD if checked is BAD else float(value)
        return self._finite(value, path)

    def _finite(self, value: float, path: Path) -> Any:
        if math.isfinite(value):
            return value
        return self._wrong(path, f"must be a finite number, got {value}")

    def _in_64_bits(self, value: int, path: Path) -> Any:
        if INTEGER_MIN <= value <= INTEGER_MAX:
            return value
        return self._wrong(
            path,
            f"must fit in 64 bits, got {shown(value)}; if it is no quantity, write it in quotes",
        )

    def _one_of(self, value: Json, words: Sequence[str], path: Path, note: str) -> Any:
        if isinstance(value, str) and value in words:
            return str(value)
        listed = " or ".join(repr(word) for word in words)
        hint = ""
        if isinstance(value, str) and len(words) > 1:
            hint = self.problems.hint(value, words).removeprefix("; ")
        return self._not_a(value, listed, path, note or hint)

    def _free(self, value: Json, path: Path, depth: int) -> Any:
        """Any JSON value, copied: what a tool's arguments may be."""
        if depth > DEPTH_MAX:
            return self._wrong(
                path[: len(path) - depth + 1], f"is nested more than {DEPTH_MAX} deep"
            )
        match value:
            case None | bool():
                return value
            case str():
                if not value.isascii() and _SURROGATE.search(value):
                    return self._wrong(path, f"holds half of a surrogate pair: {shown(value)}")
                return str(value)
            case int():
                return self._in_64_bits(value, path)
            case float():
                return self._finite(value, path)
            case list() | tuple():
                items = [self._free(v, (*path, at), depth + 1) for at, v in enumerate(value)]
                return BAD if BAD in items else items
            case dict():
                read: dict[str, Any] = {}
                for key, item in value.items():
                    if not isinstance(key, str) or _SURROGATE.search(key):
                        return self._wrong(
                            path, f"keys must be strings of whole characters, got {shown(key)}"
                        )
                    read[key] = self._free(item, (*path, key), depth + 1)
                return BAD if BAD in read.values() else read
            case _:
                return self._not_a(value, "a JSON value", path)

    def _not_a(self, value: Json, wanted: str, path: Path, note: str = "") -> Any:
        hint = note or _way_out(value, wanted, self.problems.word(path))
        got = self.problems.word(path) or shown(value)
        return self._wrong(path, f"must be {wanted}, got {got}" + (f"; {hint}" if hint else ""))

    def _wrong(self, path: Path, text: str) -> Any:
        self.problems.add(path, text)
        return BAD


def _way_out(value: Json, wanted: str, word: str) -> str:
    """What the writer meant, as far as can be told from a value of the wrong type."""
    if value is None:
        return "give it a value or leave the key out"
    textual = "string" in wanted or "'" in wanted
    if isinstance(value, bool) and word and word.lower() not in ("true", "false"):
        if textual:
            return f"YAML reads {word} as {str(value).lower()}: write '{word}' in quotes"
        return f"YAML reads {word} as {str(value).lower()}"
    if textual and isinstance(value, (bool, int, float)):
        text = word or (str(value).lower() if isinstance(value, bool) else str(value))
        return f"write it in quotes: '{text}'"
    if isinstance(value, str) and wanted in ("an integer", "a number", "true or false"):
        plain = value.strip()
        if plain and re.fullmatch(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?|true|false", plain):
            return f"write {plain.lstrip('0') or '0'} without quotes"
    return ""


def _flow_word(text: str) -> str:
    """A text as it stands between the braces of YAML."""
    plain = re.fullmatch(r"[\w./~+$-][\w./~+=$ -]*(?<! )", text) and not text.startswith("- ")
    return text if plain else "'" + text.replace("'", "''") + "'"


def _name(kind: kinds.Type) -> str:
    match kind:
        case kinds.StrType():
            return "a string"
        case kinds.ListType(item_type=kinds.StrType()):
            return "a list of strings"
        case kinds.ListType():
            return "a list"
        case _:
            return "a mapping"


def _empty(kind: kinds.Type) -> Any:
    """What stands in a draft for a required value that is wrong or missing."""
    match kind:
        case kinds.StructType(cls=cls, fields=fields):
            return cls(**{f.name: _empty(f.type) for f in fields if f.required})
        case kinds.ListType():
            return []
        case kinds.DictType():
            return {}
        case kinds.UnionType(types=types):
            return _empty(types[0])
        case kinds.LiteralType(values=values):
            return values[0]
        case kinds.IntType() | kinds.FloatType():
            return 0
        case kinds.StrType():
            return ""
        case _:
            return None


def shown(value: object) -> str:
    """A value for a message: short, on one line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            return f"a mapping of {len(value)}" if value else "an empty mapping"
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case int() if abs(value) > 10**30:
            return "an integer of more than 30 digits"
        case str() | int() | float():
            text = repr(value[:SHOWN_CHARS_MAX] if isinstance(value, str) else value)
            cut = isinstance(value, str) and len(value) > SHOWN_CHARS_MAX
            return text + "…" if cut else text
        case _:
            return f"a Python {type(value).__name__}"


def struct_kind(cls: type[msgspec.Struct]) -> kinds.StructType:
    """The inspected type of a Struct."""
    kind = kinds.type_info(cls)
    assert isinstance(kind, kinds.StructType)
    return kind


def words_at(kind: type, place: str) -> list[str]:
    """The words that a type allows at a place as msgspec writes it, `$.tasks[0].kind`; empty where
    it is no choice of words."""
    found = [kinds.type_info(kind)]
    for part in re.findall(r"\.([^.\[]+)|(\[[^]]*\])", place):
        found = [below for each in found for below in _below(each, *part)]
    words: list[str] = []
    for each in _plain(found):
        if isinstance(each, kinds.EnumType):
            words += [str(member.value) for member in each.cls]
        elif isinstance(each, kinds.LiteralType):
            words += [word for word in each.values if isinstance(word, str)]
    return words


def _below(kind: kinds.Type, key: str, index: str) -> list[kinds.Type]:
    found: list[kinds.Type] = []
    for each in _plain([kind]):
        match each:
            case kinds.StructType(fields=fields):
                found += [field.type for field in fields if field.encode_name == key]
            case kinds.DictType(value_type=below):
                found.append(below)
            case kinds.ListType(item_type=below) if index:
                found.append(below)
            case _:
                pass
    return found


def _plain(found: list[kinds.Type]) -> list[kinds.Type]:
    """Unions and annotations taken apart."""
    plain: list[kinds.Type] = []
    for each in found:
        match each:
            case kinds.UnionType(types=types):
                plain += _plain(list(types))
            case kinds.Metadata(type=inner):
                plain += _plain([inner])
            case _:
                plain.append(each)
    return plain


# ---- rules -------------------------------------------------------------------------------


def between(low: float, high: float) -> Rule:
    """From `low` to `high`, both allowed."""

    def rule(value: float) -> Told:
        if not low <= value <= high:
            yield (), f"must be from {low:_} to {high:_}, got {value!r}"

    return rule


def above_zero(high: float, *, called: str) -> Rule:
    """Seconds: more than zero, at most `high`, which people call `called`."""

    def rule(value: float) -> Told:
        if not 0 < value <= high:
            yield (), f"must be above 0 and at most {high:_} s ({called}), got {value!r}"

    return rule


def filled(value: str) -> Told:
    """Not blank."""
    if not value.strip():
        yield (), f"must not be empty, got {shown(value)}"


def each(rule: Rule) -> Rule:
    """Every item of a list."""

    def rule_of_all(values: Sequence[Any]) -> Told:
        for at, value in enumerate(values):
            for where, text in rule(value):
                yield (at, *where), text

    return rule_of_all
