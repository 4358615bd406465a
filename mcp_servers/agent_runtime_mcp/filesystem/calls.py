"""One call of a tool: what it was given, checked once more, and the answer's two forms.

A client's arguments have been held against the schema before; what is still wrong here is refused
with the same kind of sentence, never an accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from agent_runtime_mcp.definitions import ToolAnswer
from agent_runtime_mcp.filesystem.refusals import Refused, Turn

if TYPE_CHECKING:
    from agent_runtime.types import Json
    from agent_runtime_mcp.filesystem.locks import Locks
    from agent_runtime_mcp.filesystem.roots import Roots

HASH_CHARS: Final = 64


class Call:
    """Arguments, what may be reached, and how long it may take."""

    __slots__ = ("arguments", "locks", "roots", "turn")

    def __init__(
        self, roots: Roots, locks: Locks, arguments: Mapping[str, Json], turn: Turn
    ) -> None:
        self.roots = roots
        self.locks = locks
        self.arguments = arguments
        self.turn = turn

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Raises `Refused`: it is missing without a default, or none."""
        value = self.arguments.get(key, default)
        if type(value) is not str:
            raise _wrong(key, "a string", value)
        return value

    def flag(self, key: str) -> bool:
        """A boolean, false if it is not given. Raises `Refused`."""
        value = self.arguments.get(key, False)
        if type(value) is not bool:
            raise _wrong(key, "true or false", value)
        return value

    def count(self, key: str, default: int = 0, *, least: int = 0, most: int = 1 << 53) -> int:
        """A whole number; `2.0` is one. Raises `Refused`."""
        value = self.arguments.get(key, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise _wrong(key, f"a whole number from {least:,} to {most:,}", value)
        return value

    def texts(self, key: str, *, most: int) -> list[str]:
        """A list of strings, empty if it is not given. Raises `Refused`."""
        value = self.arguments.get(key, [])
        if not isinstance(value, (list, tuple)) or any(type(item) is not str for item in value):
            raise _wrong(key, "a list of strings", value)
        if len(value) > most:
            raise Refused(f"{key} holds {len(value):,} strings; at most {most:,} in one call")
        return list(value)

    def expected_hash(self) -> str | None:
        """SHA-256 of what must be there, empty: nothing; None: whatever. Raises `Refused`."""
        if "expected_hash" not in self.arguments:
            return None
        value = self.text("expected_hash").lower()
        if value and (len(value) != HASH_CHARS or value.strip("0123456789abcdef")):
            raise _wrong("expected_hash", "64 hexadecimal digits (SHA-256), or empty", value)
        return value


def answer(text: str, note: str = "", **more: Json) -> ToolAnswer:
    """A result as text and, for clients that read structure, as `{"content": text}` beside.

    A note is what must be known about the text and is no part of it: a block of its own.
    """
    block = {"type": "text", "text": text}
    if not note:
        return ToolAnswer([block], {"content": text, **more} if more else {"content": text})
    return ToolAnswer(
        [block, {"type": "text", "text": note}], {"content": text, "note": note, **more}
    )


def _wrong(key: str, what: str, value: Json) -> Refused:
    told = "nothing" if value is None else repr(value)
    return Refused(f"{key} must be {what}; got {told if len(told) <= 80 else told[:80] + '…'}")
