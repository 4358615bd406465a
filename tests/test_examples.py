"""The example projects are what `make examples` takes them for. No network, nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_runtime.taskfile import read_task_file
from agent_runtime.workspaces.environment.recipes import Repository, find_recipe

ENVIRONMENTS = Path(__file__).parent.parent / "examples" / "environments"
PIP = [".venv/bin/python", "-m", "pip", "install", "--no-input", "-e", ".[test]"]
SETUPS = {
    "python-library": ("the repository's lockfiles", PIP),
    "node-package": ("the repository's lockfiles", ["npm", "ci"]),
    "local-service": (".agent-runtime.yaml", ".venv/bin/pip install --quiet -r requirements.txt"),
}


def test_every_example_project_is_listed_here() -> None:
    assert {path.stem for path in ENVIRONMENTS.glob("*.yaml")} == set(SETUPS)


@pytest.mark.parametrize("name", SETUPS)
def test_the_projects_own_files_tell_its_environment(name: str) -> None:
    """Row by row what is to be seen: nothing but the repository says what to install."""
    spec = read_task_file(str(ENVIRONMENTS / f"{name}.yaml"))
    assert spec.plan is not None and spec.workspace is not None
    assert Path(spec.workspace.repo) == ENVIRONMENTS / name
    files = {
        str(path.relative_to(ENVIRONMENTS / name)): path
        for path in (ENVIRONMENTS / name).rglob("*")
        if path.is_file() and not {"node_modules", ".venv", "__pycache__"} & {*path.parts}
    }
    registries = ("pypi.org", "registry.npmjs.org")
    recipe = find_recipe(
        spec.environment,
        Repository(frozenset(files), lambda asked: files[asked].read_text(encoding="utf-8")),
        registries=registries,
        has_tool=lambda _: True,
        has_python=False,
    )
    source, command = SETUPS[name]
    assert (recipe.source, recipe.notes, recipe.egress) == (source, (), registries)
    assert command in recipe.setup
