"""Real distributions without an installer: a directory with packages and `.dist-info` in it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HEAD = """
from agent_runtime.toolkit import tool
from agent_runtime.types import Effect, ToolResult

def made(name, **options):
    async def execute(call):
        return ToolResult(ok=True, output=name)
    make = tool(name=name, description="A test.", effect=Effect.READ, parameters={}, **options)
    return make(execute)
"""
"""What most of the test's plug-ins begin with."""


def install(
    site: Path,
    distribution: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
    version: str = "1.0",
) -> None:
    """Write a distribution: `entry_points[group][name]` and `modules[path]`, a file's text."""
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items())
            for group, names in entry_points.items()
        )
    )
    for path, text in modules.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


@contextmanager
def importable(*sites: Path) -> Iterator[None]:
    """Put directories on `sys.path`, and forget afterwards what was imported from them."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(site) for site in sites]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            module = sys.modules[name]
            # A package without an `__init__.py` has no file.
            places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
            origin = next((place for place in places if place), "")
            if any(origin.startswith(str(site)) for site in sites):
                del sys.modules[name]
