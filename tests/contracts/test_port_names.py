"""Where plug-ins find the ports, whichever file each is in."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

from agent_runtime import ports

FILES = sorted(Path(ports.__file__).parent.glob("[a-z]*.py"))


def defined_in(path: Path) -> set[str]:
    """Names of the classes and aliases that a file of ports defines."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                names.add(name)
    return names


def test_every_port_is_importable_from_the_package() -> None:
    """Our contract with plug-ins: `from agent_runtime.ports import NAME`, for every NAME."""
    there = [(path.stem, name) for path in FILES for name in defined_in(path)]
    assert ("store", "Store") in there
    for file, name in there:
        assert getattr(ports, name) is getattr(import_module(f"{ports.__name__}.{file}"), name)
