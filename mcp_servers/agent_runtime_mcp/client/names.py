"""What the tools of a server are called here: `server__tool`, legal and unique. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Final

NAME_CHARS_MAX: Final = 64
DESCRIPTION_CHARS_MAX: Final = 1000
LIST_RESOURCES: Final = "list_resources"
READ_RESOURCE: Final = "read_resource"


def tool_names(server: str, names: Sequence[str]) -> dict[str, str]:
    """The server's own names -> ours. One that had to be changed ends with a part of its digest, so
    that it never depends on which other tools there are."""
    return {name: tool_name(server, name) for name in names}


def tool_name(server: str, name: str) -> str:
    """One of `tool_names`."""
    plain = re.sub(r"[^a-z0-9_]", "_", name.lower())
    whole = f"{server}__{plain}"
    if (
        plain == name
        and len(whole) <= NAME_CHARS_MAX
        and name not in (LIST_RESOURCES, READ_RESOURCE)
    ):
        return whole
    tail = "_" + hashlib.sha256(name.encode()).hexdigest()[:6]
    return whole[: NAME_CHARS_MAX - len(tail)] + tail


def harmless(text: object, limit: int) -> str:
    """Somebody else's text: without what is not seen (controls, directions, tags), and capped."""
    if not isinstance(text, str):
        return ""
    seen = "".join(
        char
        for char in text[: limit * 4]
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return seen if len(seen) <= limit else f"{seen[: limit - 1]}…"
