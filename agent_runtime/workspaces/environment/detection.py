"""What lockfiles and manifests at the top of a repository say about setting it up. Pure.

pip, uv, poetry, npm, pnpm, yarn, cargo and go are known. A tool that is missing here is named, and
what can be done without it is done.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from agent_runtime.types import Command
from agent_runtime.workspaces.environment.said import Said

Read = Callable[[str], str | None]

VENV: Final = ".venv"
_REQUIREMENTS: Final = (
    "requirements.txt", "requirements-dev.txt", "requirements-test.txt", "requirements_dev.txt",
    "requirements_test.txt", "dev-requirements.txt", "test-requirements.txt",
    "requirements/base.txt", "requirements/dev.txt", "requirements/test.txt",
    "requirements/tests.txt",
)  # fmt: skip
_TESTING: Final = ("test", "tests", "testing", "dev", "develop")
"""Names that projects give to what their tests need, as an extra or a dependency group."""
_UNKNOWN_LOCKS: Final[Mapping[str, str]] = {
    "Pipfile.lock": "pipenv", "pdm.lock": "pdm", "conda-lock.yml": "conda",
    "environment.yml": "conda", "bun.lock": "bun", "bun.lockb": "bun", "Gemfile.lock": "bundler",
    "composer.lock": "composer", "mix.lock": "mix", "pubspec.lock": "pub",
    "gradle.lockfile": "gradle", "pom.xml": "maven", "Package.resolved": "swift",
    "packages.lock.json": "nuget", "flake.lock": "nix",
}  # fmt: skip


def detect(
    paths: frozenset[str], read: Read, *, has_tool: Callable[[str], bool], has_python: bool
) -> Said:
    """The commands that the files suggest, and in words what they would need beyond."""
    setup: list[Command] = []
    env: dict[str, str] = {}
    notes: list[str] = []
    if not has_python:
        _python(paths, read, has_tool, setup, env, notes)
    _node(paths, read, has_tool, setup, notes)
    for lock, tool, command in (
        ("Cargo.lock", "cargo", ["cargo", "fetch", "--locked"]),
        ("go.sum", "go", ["go", "mod", "download"]),
    ):
        if lock in paths:
            if has_tool(tool):
                setup.append(command)
            else:
                notes.append(_missing(lock, tool))
    notes += [
        f"{lock} is left out: {tool} is not known here; say in environment.setup what to run"
        for lock, tool in _UNKNOWN_LOCKS.items()
        if lock in paths
    ]
    return Said(setup=tuple(setup), env=env, notes=tuple(notes))


def _missing(lock: str, tool: str) -> str:
    return (
        f"{lock} is left out: {tool} is not to be seen in the sandbox; install it below /usr, or "
        "name its directory in the setting toolchains"
    )


# ---- Python ------------------------------------------------------------------------------


def _python(
    paths: frozenset[str], read: Read, has_tool: Callable[[str], bool],
    setup: list[Command], env: dict[str, str], notes: list[str],
) -> None:  # fmt: skip
    if "uv.lock" in paths:
        if has_tool("uv"):
            setup.append(["uv", "sync", "--frozen"])
            return
        notes.append(_missing("uv.lock", "uv") + "; pip installs what pyproject.toml names instead")
    if "poetry.lock" in paths:
        if has_tool("poetry"):
            env["POETRY_VIRTUALENVS_IN_PROJECT"] = "true"
            setup.append(["poetry", "install", "--no-interaction"])
            return
        notes.append(_missing("poetry.lock", "poetry") + "; pip installs what pyproject.toml names")
    arguments = _pip_arguments(paths, read, notes)
    if not arguments:
        return
    python = f"{VENV}/bin/python"
    setup.append(["python3", "-m", "venv", VENV])
    setup.append([python, "-m", "pip", "install", "--no-input", *arguments])


def _pip_arguments(paths: frozenset[str], read: Read, notes: list[str]) -> list[str]:
    arguments: list[str] = []
    texts: list[str] = []
    for name in _REQUIREMENTS:
        if name in paths:
            arguments += ["-r", name]
            texts.append(read(name) or "")
    project = _toml(read("pyproject.toml"), notes) if "pyproject.toml" in paths else {}
    is_project = "project" in project or "build-system" in project
    is_project |= "poetry" in _table(project, "tool")
    if is_project or ({"setup.py", "setup.cfg"} & paths and _says_setup(paths, read)):
        extras = _table(_table(project, "project"), "optional-dependencies")
        wanted = [name for name in extras if name.lower() in _TESTING]
        arguments += ["-e", f".[{','.join(wanted)}]" if wanted else "."]
        texts += [str(extras[name]) for name in wanted]
        groups = _table(project, "dependency-groups")
        for name in groups:
            if name.lower() in _TESTING:
                found = list(_group(groups, name, ()))
                arguments += found
                texts += found
        texts += _strings(_table(project, "project").get("dependencies"))
    if not arguments:
        return []
    # What tests need is often said nowhere but in the words of the one who runs them.
    needs_pytest = any(_is_test(path) for path in paths)
    if needs_pytest and not re.search(r"(?i)(?<![\w-])pytest(?![\w-])", "\n".join(texts)):
        arguments.append("pytest")
        notes.append(
            "no file names pytest among the requirements, and there are tests: it is added"
        )
    return list(dict.fromkeys(arguments)) if "-r" not in arguments else arguments


def _says_setup(paths: frozenset[str], read: Read) -> bool:
    if "setup.py" in paths:
        return True
    return "[metadata]" in (read("setup.cfg") or "")  # others keep flake8's settings there


def _is_test(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name == "conftest.py" or (name.endswith(".py") and name.startswith("test_"))


def _group(groups: Mapping[str, Any], name: str, above: tuple[str, ...]) -> Iterable[str]:
    """The requirements of a dependency group (PEP 735), those it includes among them."""
    if name in above or len(above) > 10:
        return
    items = groups.get(name)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, str) and not item.startswith("-"):
            yield item
        elif isinstance(item, dict) and isinstance(item.get("include-group"), str):
            yield from _group(groups, item["include-group"], (*above, name))


def _toml(text: str | None, notes: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(text or "")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        notes.append(f"pyproject.toml is left out: {error}")
        return {}


def _table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


# ---- Node --------------------------------------------------------------------------------


def _node(
    paths: frozenset[str], read: Read, has_tool: Callable[[str], bool],
    setup: list[Command], notes: list[str],
) -> None:  # fmt: skip
    if "package.json" not in paths:
        return
    locks: tuple[tuple[str, str, list[str]], ...] = (
        ("pnpm-lock.yaml", "pnpm", ["pnpm", "install", "--frozen-lockfile"]),
        ("yarn.lock", "yarn", ["yarn", "install", "--frozen-lockfile"]),
        ("package-lock.json", "npm", ["npm", "ci"]),
        ("npm-shrinkwrap.json", "npm", ["npm", "ci"]),
    )
    for lock, tool, command in locks:
        if lock in paths:
            if has_tool(tool):
                setup.append(command)
            else:
                notes.append(_missing(lock, tool))
            return
    try:
        package = json.loads(read("package.json") or "{}")
    except (ValueError, RecursionError) as error:
        notes.append(f"package.json is left out: {error}")
        return
    if not isinstance(package, dict):
        return
    if package.get("dependencies") or package.get("devDependencies"):
        if has_tool("npm"):
            setup.append(["npm", "install", "--no-package-lock"])
            notes.append("package.json has no lockfile: the newest versions that fit are installed")
        else:
            notes.append(_missing("package.json", "npm"))
