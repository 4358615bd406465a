"""What a task or a setting may name as its brain: `provider/name`, a URL, or a word. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CLIENT: Final = "client"
"""A connected program decides."""
HARNESSES: Final = frozenset({"harness", "claude-code", "codex"})
"""External agents inside the sandbox: not there yet."""

WIRES: Final = ("anthropic", "responses", "openai")
"""What may stand with a plus before a server's address, in a setting; `openai` (chat completions)
if nothing does."""

_NAMED = re.compile(r"(?P<provider>[a-z0-9][a-z0-9_.-]*)/(?P<model>\S+)\Z")
_URL = re.compile(r"(?P<url>https?://[^\s/#@?]+(?:/[^\s#?]*)?)#(?P<model>\S+)\Z")
_ANY_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A name, taken apart. Of `provider` and `url` exactly one is set."""

    model: str
    provider: str = ""
    url: str = ""
    """Without a slash at its end."""


def parse(name: str) -> ModelName | None:
    """A model's name, taken apart; None if it is none (see `fault_of`), or no model's."""
    if found := _URL.match(name):
        return ModelName(model=found["model"], url=found["url"].rstrip("/"))
    if (found := _NAMED.match(name)) and not _ANY_URL.match(name):
        return ModelName(model=found["model"], provider=found["provider"])
    return None


def is_harness(name: str) -> bool:
    """Does it name an external agent?"""
    return name.partition("/")[0] in HARNESSES


def fault_of(name: str) -> str:
    """Why `name` can be no brain's, whatever is installed; empty if it can.

    It does not repeat the name, which may hold a password.
    """
    if name == CLIENT or is_harness(name) or parse(name) is not None:
        return ""
    if re.match(r"https?://(?:[^/#]*@|[^#]*\?)", name):
        return (
            "must not hold a user or password, nor a question mark: it is stored; keys come from "
            "the environment"
        )
    return (
        "must be provider/name or http(s)://host/v1#name (or `client`: a connected program decides)"
    )


def endpoint_fault(url: str) -> str:
    """Why an address cannot be a model server's; empty if it can. It does not repeat it."""
    if not re.match(rf"(?:(?:{'|'.join(WIRES)})\+)?https?://[^\s/#@?]+(?:/[^\s#@?]*)?\Z", url):
        return (
            "must be http(s)://host/v1 without a user, a password or a question mark, or "
            "anthropic+http(s)://host"
        )
    return ""
