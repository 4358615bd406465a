"""What a server said its tools are, and what of that the operator has consented to: one file each.

Tools must be known before anything is started, so the definitions that were consented to are kept.
What a server says later is compared with them by digest: name, description, schemas, annotations.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from agent_runtime.errors import PluginError
from agent_runtime.types import Json

VERSION: Final = 1
DIFF_LINES_MAX: Final = 60
COMPARED: Final = (
    *("name", "title", "description", "inputSchema", "outputSchema", "annotations", "execution"),
)
"""What a definition is; icons and `_meta` change nothing that anybody relies on."""

Change = Literal["same", "new", "changed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Definitions:
    """What one server offers."""

    tools: tuple[Mapping[str, Json], ...] = ()
    """As they came over the wire, without what is not compared."""
    resources: bool = False
    tasks: Literal["", "2025-11-25", "2026-07-28"] = ""
    """Which form of tasks it knows; empty: none."""
    server: str = ""
    """Name and version it gives itself: a claim."""
    wire: str = ""

    def named(self) -> dict[str, Mapping[str, Json]]:
        """The tools by the server's own names."""
        return {str(tool["name"]): tool for tool in self.tools}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The file's content. `consented` is None: nobody has looked yet."""

    endpoint: str = ""
    consented: Definitions | None = None
    seen: Definitions | None = None
    """What it said last, if that is something else."""


def digest(definition: Mapping[str, Json]) -> str:
    """The same for definitions that say the same."""
    text = json.dumps(compared(definition), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def compared(definition: Mapping[str, Json]) -> dict[str, Json]:
    """The part that consent is about; what is None was not said."""
    return {key: definition[key] for key in COMPARED if definition.get(key) is not None}


def change(name: str, before: Definitions | None, now: Definitions) -> Change:
    """What became of a tool."""
    old = before.named().get(name) if before is not None else None
    new = now.named().get(name)
    if new is None:
        return "gone"
    if old is None:
        return "new"
    return "same" if digest(old) == digest(new) else "changed"


def difference(name: str, before: Definitions | None, now: Definitions) -> str:
    """A unified diff of a tool's definition, for people; capped."""
    sides = [
        json.dumps(compared(each.named().get(name, {})) if each else {}, indent=1, sort_keys=True)
        for each in (before, now)
    ]
    old, new = (side.splitlines() for side in sides)
    lines = list(difflib.unified_diff(old, new, "consented", "now", lineterm="", n=1))
    shown = [line[:300] for line in lines[:DIFF_LINES_MAX]]
    if len(lines) > DIFF_LINES_MAX:
        shown.append(f"… {len(lines) - DIFF_LINES_MAX} lines more")
    return "\n".join(shown)


def path_of(state_dir: str, name: str) -> str:
    """Where a server's definitions are kept."""
    return os.path.join(state_dir, "mcp", f"{name}.json")


def stamp(path: str) -> tuple[int, int, int] | None:
    """Another one whenever the file was written; None: there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Nobody else reads and writes it between: what was taken back would come back."""
    import fcntl  # not at the top: Windows has none, and this must import there

    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(f"{path}.lock", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read(path: str, endpoint: str) -> Kept:
    """What is kept; nothing if it was consented to for another endpoint.

    Raises:
        PluginError: the file is damaged.
    """
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read())
        if found["version"] != VERSION or found["endpoint"] != endpoint:
            return Kept(endpoint=endpoint)
        return Kept(
            endpoint=endpoint,
            consented=_definitions(found["consented"]),
            seen=_definitions(found["seen"]),
        )
    except FileNotFoundError:
        return Kept(endpoint=endpoint)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PluginError(
            f"what was consented to cannot be read from {path!r}: {error}; remove the file, and "
            f"consent again with `agent-runtime mcp consent`"
        ) from error


def write(path: str, kept: Kept) -> None:
    """Replace the file; durable when it returns."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    content = {
        "version": VERSION,
        "endpoint": kept.endpoint,
        "consented": _plain(kept.consented),
        "seen": _plain(kept.seen),
    }
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _plain(definitions: Definitions | None) -> Json:
    if definitions is None:
        return None
    return {
        "tools": [dict(tool) for tool in definitions.tools],
        "resources": definitions.resources,
        "tasks": definitions.tasks,
        "server": definitions.server,
        "wire": definitions.wire,
    }


def _definitions(value: Json) -> Definitions | None:
    if value is None:
        return None
    tools: Sequence[Mapping[str, Json]] = value["tools"]
    if not all(isinstance(tool, dict) and isinstance(tool.get("name"), str) for tool in tools):
        raise ValueError("a tool has no name")
    return Definitions(
        tools=tuple(tools),
        resources=bool(value["resources"]),
        tasks=value["tasks"],
        server=str(value["server"]),
        wire=str(value["wire"]),
    )
