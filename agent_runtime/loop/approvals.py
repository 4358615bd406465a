"""Whether a call is allowed, denied, or a person is asked: `policy.approvals`. Pure.

    approvals:
      "*": ask                          every tool
      toolbelt:kubernetes: ask          every tool of a toolbelt
      shell: ask                        a tool
      "shell(git push*)": deny          a tool, where its command fits
      "write_file(path=docs/**)": allow    where an argument fits; several are separated by commas

The most specific rule decides: one with arguments before a tool's, that before a toolbelt's, that
before `*`; of those with arguments the one that spells out more. What is equally specific: deny
before ask before allow. Nothing that fits: allow.

No rule is a sandbox. A program is more than its name: what `make` runs, what a variable holds and
what `python -c` does is not seen here. What must not happen is made impossible by the sandbox, the
network policy and `protect`; approvals say where a person wants to look.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import msgspec

from agent_runtime import schema
from agent_runtime.protect import matches
from agent_runtime.types import Decision, Json, Policy, ToolInfo

COMMAND: Final = "command"
"""The argument that a pattern without a name is about."""
PATHS: Final = frozenset({"path", "paths", "source", "destination", "cwd"})
"""Arguments that are paths of the workspace: their patterns are those of `protect`."""

WRAPPERS: Final = frozenset({
    "!", "builtin", "chroot", "command", "do", "doas", "elif", "else", "env", "eval", "exec",
    "find", "flock", "if", "ionice", "nice", "nohup", "parallel", "setsid", "stdbuf", "sudo",
    "then", "time", "timeout", "until", "unshare", "watch", "while", "xargs", "{",
})  # fmt: skip
"""They run what comes after them, wherever that begins."""
SHELLS: Final = frozenset({"ash", "bash", "dash", "ksh", "sh", "zsh"})
FED: Final = SHELLS | {"parallel", "xargs"}
"""They run what they are fed with."""
DEPTH_MAX: Final = 8
"""Of commands in commands; what is deeper counts as text."""
VARIANTS_MAX: Final = 256
"""Of what a command may run inside, behind all its wrappers."""

_STRICTNESS: Final[Mapping[Decision, int]] = {"allow": 0, "ask": 1, "deny": 2}
_KEY: Final = re.compile(r"(?P<tool>[A-Za-z0-9_]+)\((?P<inside>.*)\)", re.DOTALL)
_TOOL: Final = re.compile(r"[A-Za-z0-9_]+")
_CONDITION: Final = re.compile(r"(?P<argument>[A-Za-z_][A-Za-z0-9_]*)=(?P<pattern>.*)", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_EXPANSION: Final = re.compile(r"\$\w+|\$\{[^}]*\}|\$\([^()]*\)|`[^`]*`")
_OPERATORS: Final = ";&|()<>"


class Named(Protocol):
    """What of a tool the rules are about."""

    @property
    def name(self) -> str: ...
    @property
    def toolbelt(self) -> str: ...


class BrokenRule(ValueError):
    """A key of `policy.approvals` that cannot be read; says what would be."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One argument's pattern. A path's is one of `protect`; in all others `*` is any text."""

    argument: str
    pattern: str

    @property
    def spelled_out(self) -> int:
        """How much of it is no wildcard."""
        return len(re.sub(r"\\(.)|[*?]", r"\1", self.pattern))


@dataclass(frozen=True, slots=True)
class Rule:
    """A key, taken apart. No `tool` and no `toolbelt`: every tool."""

    key: str
    tool: str = ""
    toolbelt: str = ""
    conditions: tuple[Condition, ...] = ()

    @property
    def specific(self) -> tuple[int, int]:
        """The more, the earlier it is asked."""
        if self.conditions:
            return 3, sum(condition.spelled_out for condition in self.conditions)
        return (2 if self.tool else 1 if self.toolbelt else 0), 0

    def covers(self, tool: Named) -> bool:
        """Is it about this tool at all?"""
        if self.tool:
            return self.tool == tool.name
        return self.toolbelt in ("", tool.toolbelt)


def decision_for(
    policy: Policy, tool: Named, arguments: Mapping[str, Json]
) -> tuple[Decision, str]:
    """What `policy.approvals` says about a call, and the key that says so; none: ("allow", "")."""
    rules = [
        (rule, decision)
        for key, decision in policy.approvals.items()
        if (rule := _readable(key)) is not None and rule.covers(tool)
    ]
    if not rules:
        return "allow", ""
    command = arguments.get(COMMAND)
    if not isinstance(command, str | list) or not any(_of_command(rule) for rule, _ in rules):
        return _deciding([(r, d) for r, d in rules if _fits(r, d, arguments, ())])
    simple = _simple(command) or [""]
    found = [
        _deciding([(r, d) for r, d in rules if _fits(r, d, arguments, [text])]) for text in simple
    ]
    # What stands inside of others, or behind a wrapper, can only make it stricter.
    for text in _inside(command).difference(simple):
        stricter = [
            (rule, decision)
            for rule, decision in rules
            if decision != "allow"
            and _of_command(rule)
            and _fits(rule, decision, arguments, [text])
        ]
        if stricter:
            found.append(_deciding(stricter))
    return max(found, key=lambda each: _STRICTNESS[each[0]])


def digest(tool: str, arguments: Mapping[str, Json], tree_before: str, policy: Policy) -> str:
    """What a person's yes is bound to: tool, arguments, the tree they would meet, the policy."""
    bound = [tool, dict(arguments), tree_before, policy]
    return hashlib.sha256(msgspec.json.encode(bound, order="sorted")).hexdigest()


def trust(tool: str, rule: str) -> str:
    """Names what a yes for the whole task allows: this tool, where this rule asks."""
    return f"{tool} {rule}"


def by(rule: str, tool: Named) -> str:
    """Which rule it was, for people; empty where the tool's name says it all."""
    return "" if rule == tool.name else f" by the rule {rule!r}"


def problems(
    approvals: Iterable[str], tools: Sequence[ToolInfo], toolbelts: Sequence[str]
) -> list[str]:
    """What is wrong with the keys, one sentence each: broken, or about nothing that is here."""
    by_name = {info.name: info for info in tools}
    found: list[str] = []
    for key in approvals:
        try:
            rule = parse(key)
        except BrokenRule as error:
            found.append(str(error))
            continue
        if rule.toolbelt and rule.toolbelt not in toolbelts:
            found.append(f"{_of(key)}{unknown('toolbelt', rule.toolbelt, toolbelts)}")
        elif rule.tool and rule.tool not in by_name:
            found.append(f"{_of(key)}{unknown('tool', rule.tool, sorted(by_name))}")
        elif rule.tool:
            found += _unknown_arguments(rule, by_name[rule.tool])
    return found


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """That nothing is called so, and the nearest that is."""
    near = schema.nearest(name, known)
    way_out = f"did you mean {near!r}?" if near else "`agent-runtime tools` lists what is installed"
    return f"no {kind} is called {name!r}; {way_out}"


@lru_cache(maxsize=1024)
def parse(key: str) -> Rule:
    """A key of `policy.approvals`. Raises `BrokenRule`."""
    text = key.strip()
    if text == "*":
        return Rule(key)
    if text.startswith("toolbelt:"):
        name = text.removeprefix("toolbelt:").strip()
        if not name:
            raise BrokenRule(f"{key!r} names no toolbelt: write it as 'toolbelt:git'")
        return Rule(key, toolbelt=name)
    if _TOOL.fullmatch(text):
        return Rule(key, tool=text)
    parts = _KEY.fullmatch(text)
    if parts is None:
        raise BrokenRule(
            f"{key!r} is no rule: write '*', 'toolbelt:NAME', 'TOOL', 'TOOL(COMMAND)' or "
            "'TOOL(ARGUMENT=PATTERN)', as in 'shell(git push*)' or 'write_file(path=docs/**)'"
        )
    return Rule(key, tool=parts["tool"], conditions=_conditions(key, parts["inside"].strip()))


# ---- rules -------------------------------------------------------------------------------


def _conditions(key: str, inside: str) -> tuple[Condition, ...]:
    if not inside:
        raise BrokenRule(f"{key!r} has no pattern: leave the parentheses away, or write one")
    if _CONDITION.fullmatch(inside) is None:
        made = [Condition(COMMAND, inside)]
    else:
        # A comma belongs to a pattern, unless another argument begins behind it.
        texts = re.split(r",\s*(?=[A-Za-z_]\w*=)", inside)
        made = [Condition(*text.split("=", 1)) for text in texts]
    for condition in made:
        if not condition.pattern.strip():
            raise BrokenRule(f"{key!r}: the pattern of {condition.argument!r} is empty")
        if re.search(r"(?<!\\)(?:\\\\)*\\$", condition.pattern):
            raise BrokenRule(
                f"{key!r}: the pattern of {condition.argument!r} ends with a single backslash; "
                r"write '\\' for the character itself"
            )
    arguments = [condition.argument for condition in made]
    for argument in arguments:
        if arguments.count(argument) > 1:
            raise BrokenRule(f"{key!r} names the argument {argument!r} twice; write two rules")
    return tuple(made)


def _unknown_arguments(rule: Rule, info: ToolInfo) -> Iterator[str]:
    known = sorted(info.parameters.get("properties", {}))
    for condition in rule.conditions:
        if condition.argument in known:
            continue
        if condition.argument == COMMAND and "=" not in rule.key:
            yield (
                f"{rule.key!r}: {info.name!r} takes no command; name an argument, as "
                f"'{info.name}({known[0] if known else 'ARGUMENT'}={condition.pattern})'"
            )
            continue
        near = schema.nearest(condition.argument, known)
        hint = f"; did you mean {near!r}?" if near else ""
        yield (
            f"{rule.key!r}: {info.name!r} has no argument {condition.argument!r}{hint} "
            f"(known: {', '.join(known) or 'none'})"
        )


def _of(key: str) -> str:
    """Says which rule, where that is more than the name that is unknown."""
    return f"{key!r}: " if "(" in key else ""


def _readable(key: str) -> Rule | None:
    """None for one that was broken before anybody checked: it never fits."""
    try:
        return parse(key)
    except BrokenRule:
        return None


def _deciding(fitting: Sequence[tuple[Rule, Decision]]) -> tuple[Decision, str]:
    if not fitting:
        return "allow", ""
    rule, decision = max(fitting, key=lambda each: (each[0].specific, _STRICTNESS[each[1]]))
    return decision, rule.key


def _of_command(rule: Rule) -> bool:
    return any(condition.argument == COMMAND for condition in rule.conditions)


def _fits(
    rule: Rule, decision: Decision, arguments: Mapping[str, Json], commands: Sequence[str]
) -> bool:
    """Do all conditions hold? To allow takes more than to deny or to ask."""
    for condition in rule.conditions:
        value = arguments.get(condition.argument)
        if value is None:
            return False
        if condition.argument == COMMAND and isinstance(value, str | list):
            if decision == "allow":
                only = plain(value)
                holds = only is not None and _glob(condition.pattern, only)
            else:
                holds = any(_glob(condition.pattern, text) for text in commands)
        else:
            holds = _value_fits(condition, value, allows=decision == "allow")
        if not holds:
            return False
    return True


def _value_fits(condition: Condition, value: Json, *, allows: bool) -> bool:
    """Of a list, all must fit to allow, and one to deny or to ask."""
    values = value if isinstance(value, list) else [value]
    test = all if allows else any
    if condition.argument in PATHS and all(isinstance(each, str) for each in values):
        return bool(values) and test(
            _path_fits(condition.pattern, v, allows=allows) for v in values
        )
    texts = (v if isinstance(v, str) else msgspec.json.encode(v).decode() for v in values)
    return bool(values) and test(_glob(condition.pattern, text) for text in texts)


def _path_fits(pattern: str, path: str, *, allows: bool) -> bool:
    """As `protect` has it, after `.` and `..` are gone.

    Where the workspace is, nobody here knows: an absolute path, or one that leads out, is never
    allowed by a pattern, and is denied if what it ends with is.
    """
    normal = posixpath.normpath(path)
    if not normal.startswith(("/", "..")):
        return matches(normal, [pattern]) is not None
    if allows:
        return False
    parts = [part for part in normal.split("/") if part not in ("", "..")]
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return any(matches(tail, [pattern]) is not None for tail in tails)


def _glob(pattern: str, text: str) -> bool:
    """`*` is any text, `?` one character; a last ` *` may also be nothing at all."""
    return _glob_regex(pattern).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _glob_regex(pattern: str) -> re.Pattern[str]:
    bare = pattern.removesuffix(" *") if not pattern.endswith(r"\ *") else pattern
    body = "".join(
        re.escape(piece[1]) if piece[0] == "\\" and len(piece) > 1
        else ".*" if piece[0] == "*"
        else "." if piece == "?"
        else re.escape(piece)
        for piece in re.findall(r"\\.|\*+|.", bare, re.DOTALL)
    )  # fmt: skip
    return re.compile(body + (r"(?:\s.*)?" if bare != pattern else ""), re.DOTALL)


# ---- commands ----------------------------------------------------------------------------


def plain(command: str | list[Json]) -> str | None:
    """The one program that a command runs, as its words; None if a shell may do more with it.

    Only such a command can be allowed by a pattern: no operator, no redirection, no substitution,
    no variable, no assignment before it, one line. A list is run as it is, without a shell.
    """
    if isinstance(command, str):
        read = _Reader(command)
        if read.is_live or len(read.commands) != 1 or _ASSIGNMENT.fullmatch(read.commands[0][0]):
            return None
        words = read.commands[0]
    else:
        words = [str(word) for word in command]
    # A word with a space in it stays one: a program called "git status" is not git.
    return " ".join(shlex.quote(word) if re.search(r"\s", word) else word for word in words) or None


def _simple(command: str | list[Json]) -> list[str]:
    """What runs directly, one text each: the simple commands of a line of shell."""
    if isinstance(command, str):
        return [" ".join(bare) for words in _Reader(command).commands if (bare := _bare(words))]
    return [" ".join(map(str, command))] if command else []


def _inside(command: str | list[Json]) -> set[str]:
    """All else that a command may run, as far as it can be seen, and the command itself."""
    if isinstance(command, str):
        # A pattern may be about a whole line, as `curl * | sh`.
        found = {" ".join(command.split())} if plain(command) is None else set()
        # What a shell puts in for an expansion may well be nothing.
        read = [*_Reader(command).commands, *_Reader(_EXPANSION.sub("", command)).commands]
        todo = [(words, 0, True) for words in read]
        if any(posixpath.basename(word) in FED for words, _, _ in todo for word in words):
            # `echo 'git push' | sh`: whatever is written may be run.
            texts = [word for words, _, _ in todo for word in words[1:]]
            todo += [(inner, 1, True) for text in texts for inner in _Reader(text).commands]
            todo += [(words[1:], 1, True) for words, _, _ in todo]
    else:
        found = set()
        todo = [([str(word) for word in command], 0, True)]
    seen: set[tuple[str, ...]] = set()
    while todo and len(seen) < VARIANTS_MAX:
        whole, depth, is_whole = todo.pop()
        words = _bare(whole)
        if not words or tuple(words) in seen or depth > DEPTH_MAX:
            continue
        seen.add(tuple(words))
        program = posixpath.basename(words[0])
        found |= {" ".join(words), " ".join([program, *words[1:]])}
        if program in SHELLS or program == "eval":
            # `-c` may stand among other letters: which word is the script is of no matter.
            texts = [*words[1:], " ".join(words[1:])] if program == "eval" else words[1:]
            todo += [(inner, depth + 1, True) for t in texts for inner in _Reader(t).commands]
        if program in WRAPPERS and is_whole:  # of a part, the rest is here already
            last = min(len(words) - 1, VARIANTS_MAX)
            todo += [(words[start:], depth, False) for start in range(last, 0, -1)]
    return found


def _bare(words: list[str]) -> list[str]:
    """Without the assignments before the program."""
    start = 0
    while start < len(words) and _ASSIGNMENT.fullmatch(words[start]):
        start += 1
    return words[start:]


class _Reader:
    """A line of shell, read into simple commands of words: quotes and escapes are taken away.

    What stands in `$(…)` or backticks is read as commands of their own. `is_live` if a shell may do
    more than run one program: an operator, a substitution, a variable, a quote that does not end.
    """

    def __init__(self, text: str, depth: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.is_live = False
        self._text = text
        self._depth = depth
        self._at = 0
        self._word: list[str] | None = None
        """Of the pieces that follow each other without a space; None between words."""
        self._words: list[str] = []
        while self._at < len(text):
            self._read(text[self._at])
        self._end_command()

    def _read(self, char: str) -> None:
        self._at += 1
        match char:
            case "\\":
                self._escape()
            case "'":
                self._add(self._until("'"))
            case '"':
                self._quoted()
            case "$" | "`":
                self._substitution(char)
            case "#" if self._word is None:
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            case "\n":
                # The end of the last line is none of the command.
                self.is_live = self.is_live or bool(self._text[self._at :].strip())
                self._end_command()
            case _ if char in _OPERATORS:
                self.is_live = True
                self._end_command()
            case " " | "\t":
                self._end_word()
            case _ if char.isspace():
                # No space to a shell, and one to whoever reads the line.
                self.is_live = True
                self._end_word()
            case _:
                self._add(char)

    def _add(self, piece: str) -> None:
        if self._word is None:
            self._word = []
        self._word.append(piece)

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append("".join(self._word))
            self._word = None

    def _end_command(self) -> None:
        self._end_word()
        if self._words:
            self.commands.append(self._words)
            self._words = []

    def _escape(self) -> None:
        following = self._text[self._at : self._at + 1]
        self._at += 1
        if not following:
            self.is_live = True
        elif following != "\n":  # a line that goes on
            self._add(following)

    def _until(self, end: str) -> str:
        """The text up to `end`, which is read too."""
        at = self._text.find(end, self._at)
        if at < 0:
            self.is_live = True
            at = len(self._text)
        taken = self._text[self._at : at]
        self._at = at + 1
        return taken

    def _quoted(self) -> None:
        self._add("")
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == '"':
                return
            if char in "$`":
                self._substitution(char)
            elif char == "\\" and self._text[self._at : self._at + 1] in (
                "$",
                "`",
                '"',
                "\\",
                "\n",
            ):
                self._escape()
            else:
                self._add(char)
        self.is_live = True

    def _substitution(self, char: str) -> None:
        self.is_live = True
        if char == "`":
            inner = self._until("`")
        elif self._text.startswith("(", self._at):
            self._at += 1
            inner = self._until_closed()
        else:
            self._add(char)  # a variable: what it holds is not known
            return
        self._add(f"$({inner})")
        if self._depth < DEPTH_MAX:
            self.commands += _Reader(inner, self._depth + 1).commands

    def _until_closed(self) -> str:
        """The text up to the parenthesis that closes the one before."""
        start, depth = self._at, 1
        while self._at < len(self._text):
            depth += {"(": 1, ")": -1}.get(self._text[self._at], 0)
            self._at += 1
            if not depth:
                return self._text[start : self._at - 1]
        return self._text[start:]
