"""How an environment is set up, and whose word counts: the task's, then the repository's own.

In order: the task, `.agent-runtime.yaml`, `devcontainer.json`, `copilot-setup-steps.yml`, the
lockfiles. The first that says anything is taken whole. What a repository says is the word of
whoever wrote it: it gets no secrets, and no more of the network than the installation gives to
every setup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from agent_runtime.egress_rules import BadHost, parse_rule
from agent_runtime.errors import UsageError
from agent_runtime.taskfile import read_environment
from agent_runtime.types import Command, EnvironmentSpec, ServiceSpec
from agent_runtime.workspaces.environment.detection import detect
from agent_runtime.workspaces.environment.devcontainer import PLACES as DEVCONTAINERS
from agent_runtime.workspaces.environment.devcontainer import read_devcontainer
from agent_runtime.workspaces.environment.said import Said
from agent_runtime.workspaces.environment.setup_steps import PLACES as SETUP_STEPS
from agent_runtime.workspaces.environment.setup_steps import read_setup_steps

FILE_NAMES: Final = (".agent-runtime.yaml", ".agent-runtime.yml")
SETTING: Final = "the setting setup_egress"
READ_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be done. No `setup`: nothing is set up, but env and services may still count."""

    source: str = ""
    setup: tuple[Command, ...] = ()
    maintenance: tuple[Command, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    services: tuple[ServiceSpec, ...] = ()
    egress: tuple[str, ...] = ()
    egress_place: str = SETTING
    """Where its rules are written, for whoever is refused."""
    secrets: tuple[str, ...] = ()
    seconds: float = 1800.0
    cache: str = "lockfiles"
    optional: bool = False
    """Nobody asked for it: if it fails, the task goes on without and says so."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repository:
    """What may be asked about a repository. `read` gives None for what is no readable file."""

    paths: frozenset[str]
    """Every file, relative to its top."""
    read: Callable[[str], str | None]


def find_recipe(
    spec: EnvironmentSpec,
    repository: Repository,
    *,
    registries: Sequence[str],
    has_tool: Callable[[str], bool],
    has_python: bool,
) -> Recipe:
    """The recipe of a task for a repository.

    `registries` is what every setup may reach, in the form of `policy.egress`. `has_python`: the
    task has a Python environment already, so none is made because of a lockfile.
    """
    given = Recipe(
        source="the task",
        setup=tuple(spec.setup or ()),
        maintenance=tuple(spec.maintenance),
        env=dict(spec.env),
        services=tuple(spec.services or ()),
        egress=tuple(registries if spec.egress is None else spec.egress),
        egress_place=SETTING if spec.egress is None else "environment.egress",
        secrets=tuple(spec.secrets),
        seconds=spec.setup_seconds,
        cache=spec.cache,
    )
    if spec.setup is not None:
        return given
    found = _of_repository(repository, registries, has_tool, has_python)
    # What the task says beside setup still counts, and counts more.
    return replace(
        found,
        env={**found.env, **given.env},
        services=found.services if spec.services is None else given.services,
        egress=found.egress if spec.egress is None else given.egress,
        egress_place=found.egress_place if spec.egress is None else given.egress_place,
        secrets=given.secrets,
        maintenance=given.maintenance or found.maintenance,
        seconds=spec.setup_seconds if found.optional else found.seconds,
        cache=spec.cache if spec.cache != "lockfiles" else found.cache,
    )


def _of_repository(
    repository: Repository,
    registries: Sequence[str],
    has_tool: Callable[[str], bool],
    has_python: bool,
) -> Recipe:
    for name in FILE_NAMES:
        if name in repository.paths:
            return _own_file(name, repository.read(name), registries)
    for places, reader in ((DEVCONTAINERS, read_devcontainer), (SETUP_STEPS, read_setup_steps)):
        for place in places:
            text = repository.read(place) if place in repository.paths else None
            if text is None:
                continue
            try:
                said = reader(text, place)
            except UsageError as error:
                # It was written for another program: what it means there is not ours to judge.
                said = Said(notes=(f"{place} is left out: {_first_line(error)}",))
            if said.setup or said.maintenance:
                return _recipe(place, said, registries)
            if said.notes:
                rest = _detected(repository, registries, has_tool, has_python)
                return replace(rest, notes=(*said.notes, *rest.notes))
    return _detected(repository, registries, has_tool, has_python)


def _detected(
    repository: Repository,
    registries: Sequence[str],
    has_tool: Callable[[str], bool],
    has_python: bool,
) -> Recipe:
    said = detect(repository.paths, repository.read, has_tool=has_tool, has_python=has_python)
    return _recipe("the repository's lockfiles", said, registries)


def _recipe(source: str, said: Said, registries: Sequence[str]) -> Recipe:
    return Recipe(
        source=source if said.setup else "",
        setup=said.setup,
        maintenance=said.maintenance,
        env=said.env,
        egress=tuple(registries),
        optional=True,
        notes=said.notes,
    )


def _own_file(name: str, text: str | None, registries: Sequence[str]) -> Recipe:
    if text is None:
        raise UsageError(f"{name}: cannot be read: a regular file of at most 1 MiB is needed")
    spec = read_environment(text, name=name)
    notes = [
        f"{name}: environment.{key} is left out: only a task may say it"
        for key, said in (
            ("python", spec.python), ("secrets", spec.secrets), ("resources", spec.resources),
        )
        if said
    ]  # fmt: skip
    asked = list(registries) if spec.egress is None else spec.egress
    granted = [rule for rule in asked if rule in registries or _covers(registries, rule)]
    if refused := [rule for rule in asked if rule not in granted]:
        notes.append(
            f"{name}: setup may not reach {', '.join(refused)}: a repository gets what the setting "
            "setup_egress gives; a task may name more in environment.egress"
        )
    return Recipe(
        source=name,
        setup=tuple(spec.setup or ()),
        maintenance=tuple(spec.maintenance),
        env=dict(spec.env),
        services=tuple(spec.services or ()),
        egress=tuple(granted),
        egress_place=SETTING if spec.egress is None else f"environment.egress of {name}",
        seconds=spec.setup_seconds,
        cache=spec.cache,
        notes=tuple(notes),
    )


def _covers(registries: Sequence[str], text: str) -> bool:
    """Is what a rule means part of what the registries' rules mean?"""
    try:
        wanted = parse_rule(text)
    except BadHost:
        return False
    return any(
        all(known.names(wanted.name, port) for port in wanted.ports)
        if wanted.name
        else (known.suffix, known.network) == (wanted.suffix, wanted.network)
        and set(wanted.ports) <= set(known.ports)
        for known in map(parse_rule, registries)
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
