"""The part of a `devcontainer.json` that means something without its container. Pure.

The format is that of containers.dev. Read are the commands of a container's life and its variables;
every other key that changes what is there is named as ignored.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from agent_runtime.errors import UsageError
from agent_runtime.types import Command
from agent_runtime.workspaces.environment.said import Said

PLACES: Final = (".devcontainer/devcontainer.json", ".devcontainer.json")
_SETUP: Final = ("onCreateCommand", "updateContentCommand", "postCreateCommand")
_MAINTENANCE: Final = ("updateContentCommand",)
"""What the format runs again when the repository's content has changed."""
_VARIABLES: Final = ("containerEnv", "remoteEnv")
_HARMLESS: Final = frozenset({
    "$schema", "name", "customizations", "forwardPorts", "portsAttributes", "otherPortsAttributes",
    "waitFor", "userEnvProbe", "shutdownAction", "overrideCommand", "updateRemoteUserUID",
    "hostRequirements", "workspaceFolder", "postAttachCommand", "settings", "extensions",
})  # fmt: skip
"""They change an editor, or nothing that a command notices."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)
_REFERENCE = re.compile(r"\$\{[^}]*\}")


def read_devcontainer(text: str, name: str) -> Said:
    """What it says, as far as it can be done here.

    Raises:
        UsageError: it is no JSON with comments, or no mapping.
    """
    try:
        value = json.loads(_without_comments(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"it is no JSON with comments: {error}") from None
    if not isinstance(value, dict):
        raise UsageError("it holds no mapping")
    known = {*_SETUP, *_VARIABLES}
    ignored = [key for key in value if key not in known and key not in _HARMLESS]
    env: dict[str, str] = {}
    for key in _VARIABLES:
        variables = value.get(key)
        for variable, said in (variables if isinstance(variables, dict) else {}).items():
            if isinstance(said, str) and not _REFERENCE.search(said) and _is_name(variable):
                env[variable] = said
            else:
                ignored.append(f"{key}.{variable}")
    notes = [f"{name}: ignored {', '.join(map(str, ignored))}"] if ignored else []
    return Said(
        setup=tuple(command for key in _SETUP for command in _commands(value.get(key))),
        maintenance=tuple(c for key in _MAINTENANCE for c in _commands(value.get(key))),
        env=env,
        notes=tuple(notes),
    )


def _without_comments(text: str) -> str:
    """Comments and trailing commas become nothing; what stands in a string stays.

    A comma before a comment and a closing bracket needs a second look.
    """
    for _ in range(2):
        text = _TOKEN.sub(lambda found: found[0] if found[0].startswith('"') else " ", text)
    return text


def _commands(value: Any) -> list[Command]:
    """A text, a list of words, or several of these under names, which may run at the same time."""
    match value:
        case str() if value.strip():
            return [value]
        case [str(), *_] if all(isinstance(word, str) for word in value):
            return [list(value)]
        case dict():
            return [command for below in value.values() for command in _commands(below)]
        case _:
            return []


def _is_name(variable: object) -> bool:
    return (
        isinstance(variable, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable) is not None
    )
