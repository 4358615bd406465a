"""Whose word about an environment counts, and what is understood of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from agent_runtime.errors import UsageError
from agent_runtime.types import EnvironmentSpec
from agent_runtime.workspaces.environment.recipes import Recipe, Repository, find_recipe

REGISTRIES = ("pypi.org", "*.example.org:8443")
ALL_TOOLS = frozenset({"uv", "poetry", "npm", "pnpm", "yarn", "cargo", "go"})


def found(
    files: Mapping[str, str],
    *,
    tools: frozenset[str] = ALL_TOOLS,
    has_python: bool = False,
    **spec: Any,
) -> Recipe:
    return find_recipe(
        EnvironmentSpec(**spec),
        Repository(frozenset(files), files.get),
        registries=REGISTRIES,
        has_tool=tools.__contains__,
        has_python=has_python,
    )


OWN = "environment: {setup: [make deps], env: {A: own}}\n"
DEVCONTAINER = '{"postCreateCommand": "make devcontainer"}'
STEPS = "on: push\njobs: {copilot-setup-steps: {steps: [{run: make steps}]}}\n"
EVERYTHING = {
    ".agent-runtime.yaml": OWN,
    ".devcontainer/devcontainer.json": DEVCONTAINER,
    ".github/workflows/copilot-setup-steps.yml": STEPS,
    "package.json": "{}",
    "package-lock.json": "{}",
}


def test_the_first_that_says_anything_is_taken_whole() -> None:
    files = dict(EVERYTHING)
    given = found(files, setup=["make mine"], env={"A": "mine"})
    assert (given.source, given.setup, given.env) == ("the task", ("make mine",), {"A": "mine"})
    expected: list[tuple[str, Any]] = [
        (".agent-runtime.yaml", "make deps"),
        (".devcontainer/devcontainer.json", "make devcontainer"),
        (".github/workflows/copilot-setup-steps.yml", None),
        ("the repository's lockfiles", ["npm", "ci"]),
    ]
    for (source, command), name in zip(expected, EVERYTHING, strict=False):
        recipe = found(files)
        assert recipe.source == source
        assert command is None or recipe.setup == (command,)
        files.pop(name)


def test_a_refused_connection_of_a_setup_is_told_where_its_rules_are_written() -> None:
    own = {".agent-runtime.yaml": "environment: {setup: [make], egress: [pypi.org]}\n"}
    places = [
        found(EVERYTHING).egress_place,
        found({"package-lock.json": "{}"}).egress_place,
        found(own).egress_place,
        found(own, egress=["x.org"]).egress_place,
        found(own, setup=["make mine"], egress=["x.org"]).egress_place,
    ]
    assert places == [
        "the setting setup_egress",
        "the setting setup_egress",
        "environment.egress of .agent-runtime.yaml",
        "environment.egress",
        "environment.egress",
    ]


def test_an_empty_setup_of_the_task_is_none_at_all() -> None:
    recipe = found(EVERYTHING, setup=[])
    assert recipe.setup == () and recipe.services == ()


def test_what_a_task_says_beside_setup_counts_more_than_the_repository() -> None:
    recipe = found(EVERYTHING, env={"A": "mine", "B": "2"}, egress=["x.org"], secrets=["T"])
    assert recipe.env == {"A": "mine", "B": "2"}
    assert (recipe.egress, recipe.secrets) == (("x.org",), ("T",))


def test_a_setup_that_nobody_asked_for_may_fail() -> None:
    files = dict(EVERYTHING)
    assert not found(files, setup=["x"]).optional
    assert not found(files).optional
    del files[".agent-runtime.yaml"]
    assert found(files).optional


# ---- .agent-runtime.yaml -----------------------------------------------------------------


def test_a_repository_gets_no_more_of_the_network_than_the_settings_give() -> None:
    asked = ["pypi.org", "pypi.org:443", "pypi.org:22", "a.example.org:8443", "evil.net"]
    own = json.dumps({"environment": {"setup": ["x"], "egress": asked}})
    recipe = found({".agent-runtime.yaml": own})
    assert recipe.egress == ("pypi.org", "pypi.org:443", "a.example.org:8443")
    assert "setup may not reach pypi.org:22, evil.net" in recipe.notes[0]


def test_a_repository_gets_no_secrets_and_chooses_no_python() -> None:
    own = json.dumps(
        {
            "environment": {
                "setup": ["x"], "secrets": ["TOKEN"], "python": "/opt", "resources": {"cpus": 9},
            }
        }
    )  # fmt: skip
    recipe = found({".agent-runtime.yaml": own})
    assert recipe.secrets == ()
    assert [note.split()[1] for note in recipe.notes] == [
        "environment.python", "environment.secrets", "environment.resources",
    ]  # fmt: skip


def test_what_is_wrong_in_a_repositorys_own_file_is_told_with_its_line() -> None:
    with pytest.raises(UsageError) as raised:
        found({".agent-runtime.yaml": "environment:\n  setpu: [x]\n  maintenance: [3]\n"})
    first, second = str(raised.value).splitlines()
    assert first.startswith(".agent-runtime.yaml:2: environment.setpu: unknown key; did you mean")
    assert second.startswith(".agent-runtime.yaml:3: environment.maintenance[0]: must be ")


# ---- devcontainer.json -------------------------------------------------------------------


def test_a_devcontainers_commands_are_taken_and_what_needs_the_container_is_named() -> None:
    text = """{
      // the image
      "image": "mcr.example/python:3", "name": "x", /* "a": 1, */
      "features": {"ghcr.io/x": {}},
      "onCreateCommand": ["make", "a // b"],
      "updateContentCommand": {"one": "make u1", "two": ["make", "u2"]},
      "postCreateCommand": "make p",
      "containerEnv": {"A": "1", "B": "${localEnv:SECRET}"},
      "customizations": {"vscode": {"extensions": ["x",]}},
    }"""
    recipe = found({".devcontainer.json": text})
    assert recipe.setup == (["make", "a // b"], "make u1", ["make", "u2"], "make p")
    assert recipe.maintenance == ("make u1", ["make", "u2"])
    assert recipe.env == {"A": "1"}
    assert recipe.notes == (".devcontainer.json: ignored image, features, containerEnv.B",)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1} x', "nonsense", "[" * 100_000])
def test_a_broken_devcontainer_is_named_and_the_next_source_asked(text: str) -> None:
    recipe = found({".devcontainer.json": text, "package-lock.json": "", "package.json": "{}"})
    assert recipe.setup == (["npm", "ci"],)
    assert recipe.notes[0].startswith(".devcontainer.json is left out: ")


# ---- copilot-setup-steps.yml -------------------------------------------------------------


def test_run_steps_are_taken_and_actions_and_expressions_are_named() -> None:
    text = """
on: workflow_dispatch
env: {ALL: 1, X: "${{ secrets.X }}"}
jobs:
  copilot-setup-steps:
    runs-on: ubuntu-latest
    services: {db: {image: postgres}}
    steps:
      - uses: actions/checkout@v5
      - {name: node, uses: actions/setup-node@v4}
      - run: |
          make a
          make b
        env: {E: "a b"}
        working-directory: sub
      - {name: maybe, if: always(), run: make c}
      - {shell: pwsh, run: Get-Item}
      - {shell: sh, run: make d}
"""
    recipe = found({".github/workflows/copilot-setup-steps.yml": text})
    first, second = recipe.setup
    assert first == [
        *("bash", "-e", "-o", "pipefail", "-c"),
        "export E='a b'\ncd sub\nmake a\nmake b\n",
    ]
    assert second == ["sh", "-e", "-c", "make d"]
    assert recipe.env == {"ALL": "1"}
    assert recipe.notes == (
        ".github/workflows/copilot-setup-steps.yml: ignored jobs.copilot-setup-steps.services, "
        "env.X, 'node' (uses actions/setup-node@v4), 'maybe' (an expression decides about it), "
        "'step 5' (shell pwsh)",
    )


# ---- lockfiles ---------------------------------------------------------------------------

PROJECT = """
[project]
name = "x"
dependencies = ["a"]
[project.optional-dependencies]
test = ["b"]
docs = ["c"]
[dependency-groups]
dev = ["d>=1", {include-group = "lint"}, {include-group = "dev"}]
lint = ["e"]
"""
PIP = [".venv/bin/python", "-m", "pip", "install", "--no-input"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"uv.lock": "", "pyproject.toml": PROJECT}, [["uv", "sync", "--frozen"]]),
        ({"poetry.lock": "", "pyproject.toml": ""}, [["poetry", "install", "--no-interaction"]]),
        ({"pyproject.toml": PROJECT}, [[*PIP, "-e", ".[test]", "d>=1", "e"]]),
        ({"pyproject.toml": "[tool.ruff]\n"}, []),
        ({"setup.cfg": "[flake8]\n"}, []),
        ({"setup.py": ""}, [[*PIP, "-e", "."]]),
        (
            {"requirements.txt": "a", "requirements-dev.txt": "PyTest>7", "tests/test_a.py": ""},
            [[*PIP, "-r", "requirements.txt", "-r", "requirements-dev.txt"]],
        ),
        (
            {"requirements.txt": "pytest-cov", "tests/test_a.py": ""},
            [[*PIP, "-r", "requirements.txt", "pytest"]],
        ),
        ({"package.json": "{}", "package-lock.json": ""}, [["npm", "ci"]]),
        (
            {"package.json": "{}", "pnpm-lock.yaml": "", "package-lock.json": ""},
            [["pnpm", "install", "--frozen-lockfile"]],
        ),
        (
            {"package.json": '{"devDependencies": {"a": "1"}}'},
            [["npm", "install", "--no-package-lock"]],
        ),
        ({"package.json": "{}"}, []),
        ({"Cargo.lock": "", "Cargo.toml": ""}, [["cargo", "fetch", "--locked"]]),
        ({"go.mod": "", "go.sum": ""}, [["go", "mod", "download"]]),
    ],
)
def test_lockfiles_say_what_to_run(files: dict[str, str], expected: list[list[str]]) -> None:
    venv = [["python3", "-m", "venv", ".venv"]] if expected and expected[0][:1] == PIP[:1] else []
    assert list(found(files).setup) == venv + expected


def test_a_tool_that_is_missing_is_named_and_pip_does_what_it_can() -> None:
    recipe = found({"uv.lock": "", "pyproject.toml": PROJECT, "Cargo.lock": ""}, tools=frozenset())
    assert recipe.setup[-1] == [*PIP, "-e", ".[test]", "d>=1", "e"]
    assert [note.split()[0] for note in recipe.notes] == ["uv.lock", "Cargo.lock"]
    assert all("toolchains" in note for note in recipe.notes)


def test_python_is_left_alone_where_there_is_an_environment_already() -> None:
    files = {"pyproject.toml": PROJECT, "package.json": "{}", "package-lock.json": ""}
    assert found(files, has_python=True).setup == (["npm", "ci"],)


def test_a_lockfile_that_nobody_knows_is_named() -> None:
    (note,) = found({"mix.lock": ""}).notes
    assert note.startswith("mix.lock is left out: mix is not known here")


@pytest.mark.parametrize(
    "files",
    [
        {"pyproject.toml": "[project"},
        {"pyproject.toml": "[dependency-groups]\ndev = 3\n[project]\ndependencies = 1\n"},
        {"package.json": "[1]"},
        {"package.json": "{"},
        {"pyproject.toml": "project = 1\ntool = []\n"},
    ],
)
def test_broken_manifests_break_nothing(files: dict[str, str]) -> None:
    found(files)
