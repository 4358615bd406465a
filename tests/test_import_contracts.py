"""The import contracts bite: each, broken on purpose on a copy, is reported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BREAKERS = {
    "distribution": ("agent_runtime/runtime.py", "import agent_runtime_tools.shell"),
    "pure-core": ("agent_runtime/loop/decide.py", "import time"),
    "layers": ("agent_runtime/loop/driver.py", "import agent_runtime.runtime"),
    "adapters": ("agent_runtime/runtime.py", "import agent_runtime.stores.memory"),
    "ports": ("agent_runtime/ports/tools.py", "import agent_runtime.ports.sandbox"),
    "siblings": ("agent_runtime/workspaces/trees.py", "import agent_runtime.stores.memory"),
    "tools": ("tools/agent_runtime_tools/files.py", "import agent_runtime_tools.shell"),
    "client": ("agent_runtime/client/asks.py", "import agent_runtime.settings"),
    "heavy": ("agent_runtime/workspaces/trees.py", "import apsw"),
}
"""Contract -> a file and an import that breaks it."""


def contracts() -> dict[str, str]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        found = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {contract["id"]: contract["name"] for contract in found}


def lint(where: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (where, where / "tools", where / "mcp_servers")))
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=where,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "agent_runtime", where / "agent_runtime", ignore=ignored)
    shutil.copytree(ROOT / "tools", where / "tools", ignore=ignored)
    shutil.copytree(ROOT / "mcp_servers", where / "mcp_servers", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", where)
    return where


def test_every_contract_has_a_breaker() -> None:
    """A contract that nothing was seen to break proves nothing."""
    assert set(contracts()) == set(BREAKERS)


@pytest.mark.parametrize("contract", sorted(BREAKERS))
def test_a_broken_contract_is_reported_by_its_name(copy: Path, contract: str) -> None:
    """DESIGN: the dependency direction is enforced, and proven to bite."""
    name, line = BREAKERS[contract]
    path = copy / name
    before = path.read_text(encoding="utf-8")
    path.write_text(before + f"\n{line}\n", encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        path.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    out = " ".join(done.stdout.split())
    assert f"{contracts()[contract]} BROKEN" in out, done.stdout


def test_the_tree_as_it_is_keeps_every_contract(copy: Path) -> None:
    """The counter-check: without a breaker nothing is broken."""
    done = lint(copy)
    assert done.returncode == 0, done.stdout
