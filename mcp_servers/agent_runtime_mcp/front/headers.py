"""Headers that go with a message: what stands between can route it without reading the body. Pure.

The revision of 2026-07-28 repeats method, name, and those arguments that a tool's schema marks with
`x-mcp-header`. A value that a header cannot carry as it is goes as `=?base64?…?=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from agent_runtime_mcp.front.words import META_VERSION, Message, section

Path = tuple[str, ...]

_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_TASK_NAMED: Final = ("tasks/get", "tasks/update", "tasks/cancel")
_PLAIN: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DEPTH_MAX: Final = 32


def version_of(message: Message) -> str:
    """Which revision a request says it speaks; empty: one with sessions, which says it once."""
    said = section(message, "params", "_meta").get(META_VERSION)
    return said if isinstance(said, str) else ""


def stateless(message: Message, marked: Mapping[Path, str]) -> dict[str, str]:
    """Of a request that says its revision; `marked` as `marked_in` gives it for its tool."""
    method = str(message["method"])
    params = section(message, "params")
    found = {"MCP-Protocol-Version": encoded(version_of(message)), "Mcp-Method": encoded(method)}
    key = _NAMED.get(method) or ("taskId" if method in _TASK_NAMED else "")
    if isinstance(name := params.get(key), str):
        found["Mcp-Name"] = encoded(name)
    for path, token in marked.items():
        value: Any = params.get("arguments")
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool):
            value = "true" if value else "false"
        if isinstance(value, (str, int, float)):
            found[f"Mcp-Param-{token}"] = encoded(str(value))
    return found


def encoded(value: str) -> str:
    """As a header can carry it."""
    plain = not value or _PLAIN.fullmatch(value)
    if plain and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    # Most names are plain.
    from base64 import b64encode

    return f"=?base64?{b64encode(value.encode('utf-8', 'replace')).decode()}?="


def marked_in(tools: Any) -> dict[str, dict[Path, str]]:
    """Of `tools/list`: which arguments go into headers, by tool."""
    return {
        str(tool.get("name")): dict(_marks(tool.get("inputSchema"), ()))
        for tool in (tools if isinstance(tools, list) else ())
        if isinstance(tool, dict)
    }


def _marks(schema: Any, path: Path) -> Iterator[tuple[Path, str]]:
    properties = section(schema, "properties") if isinstance(schema, dict) else {}
    for name, each in properties.items():
        if not isinstance(each, dict) or len(path) >= _DEPTH_MAX:
            continue
        token = each.get("x-mcp-header")
        if isinstance(token, str) and _TOKEN.fullmatch(token):
            yield (*path, name), token
        yield from _marks(each, (*path, name))
