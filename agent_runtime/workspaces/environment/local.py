"""The environment of a task on this machine: found, set up once, kept, and given to its sandboxes.

Setup runs on a copy of the working copy, in a sandbox of its own with its own way out and its
secrets. What it leaves beside the repository's files moves into an entry (see `entries`). From then
on every sandbox sees the entry's files: dependencies read-only at their places, the rest as copies.
Checks get fresh copies: what the tools did to theirs decides nothing.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from agent_runtime.errors import ConfigError, SetupFailed, UsageError, WorkspaceError
from agent_runtime.manifests import is_manifest
from agent_runtime.ports.egress import EgressRecord
from agent_runtime.ports.environment import Furnishing, Preparation
from agent_runtime.ports.sandbox import Layer, Sandbox, SandboxLimits, SandboxSpec
from agent_runtime.ports.workspaces import OpenedWorkspace
from agent_runtime.redaction import Redactor
from agent_runtime.secret_sources import read_secret
from agent_runtime.types import (
    Command,
    PreparedEnvironment,
    TaskId,
    TaskSpec,
)
from agent_runtime.workspaces import locks
from agent_runtime.workspaces.environment import entries as kept_files
from agent_runtime.workspaces.environment.entries import Entries, Kept
from agent_runtime.workspaces.environment.recipes import Recipe, Repository, find_recipe
from agent_runtime.workspaces.environment.toolchains import Toolchains, toolchains
from agent_runtime.workspaces.files import (
    Walker,
    copy_into,
    directory,
    make_temporary,
    open_file,
    remove_path,
)
from agent_runtime.workspaces.git import no_room
from agent_runtime.workspaces.local import LocalWorkspaces

VERSION: Final = 1
"""Of how setups are run and kept: another one does not find the entries of this one."""
SETUP_FILE_BYTES_MAX: Final = 8 << 30
TAIL_CHARS: Final = 800
OUTPUT_BYTES_MAX: Final = 4 << 20
_READ_BYTES_MAX: Final = 1 << 20
_CHANGED_NAMED_MAX: Final = 5
_NOT_PUBLIC: Final = re.compile(rb"([0-9a-fA-F.:]+) is no public address")

Heard = Callable[[EgressRecord], None] | None


class LocalEnvironment:
    """Implements `ports.Environment`. `secrets` maps names to sources, see `secret_sources`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        workspaces: LocalWorkspaces,
        state_dir: str,
        registries: Sequence[str] = (),
        toolchains_named: Sequence[str] = (),
        secrets: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = environ
        self._workspaces = workspaces
        self._entries = Entries(os.path.join(os.path.abspath(state_dir), "environments"))
        self._locks_dir = os.path.join(os.path.abspath(state_dir), "locks")
        self._registries = tuple(registries)
        self._named = tuple(toolchains_named)
        self._secrets = dict(secrets or {})

    # -- what a task may ask for --

    def check(self, task: TaskSpec) -> None:
        """See `ports.Environment`."""
        for key, names in (
            ("environment.secrets", task.environment.secrets),
            ("policy.secrets", task.policy.secrets),
        ):
            for name in names:
                if name not in self._secrets:
                    known = ", ".join(sorted(self._secrets)) or "none"
                    raise UsageError(
                        f"{key}: the installation knows no secret {name!r} (known: {known}); the "
                        f"setting secrets says where it is, as {name}=env:{name}, for instance"
                    )

    def secrets(self, task: TaskSpec) -> Mapping[str, str]:
        """See `ports.Environment`. Blocks, if a secret comes from a command."""
        names = dict.fromkeys((*task.environment.secrets, *task.policy.secrets))
        found: dict[str, str] = {}
        for name in names:
            source = self._secrets.get(name)
            if source is None:
                raise WorkspaceError(f"the installation knows no secret {name!r} any more")
            try:
                found[name] = read_secret(name, source, self._environ)
            except ConfigError as error:
                raise WorkspaceError(str(error)) from error
        return found

    # -- preparing --

    async def prepare(
        self, task_id: TaskId, task: TaskSpec, opened: OpenedWorkspace, sandbox: Sandbox,
        *, limits: SandboxLimits, heard: Heard = None,
    ) -> Preparation:  # fmt: skip
        """See `ports.Environment`."""
        python, python_source, has_python = self._python(task)
        chains = toolchains(self._environ, self._named)
        listing = await self._workspaces.listing(task_id, opened.base_tree)
        try:
            recipe = find_recipe(
                task.environment,
                Repository(frozenset(listing), lambda path: _read(opened.path, path)),
                registries=self._registries,
                has_tool=chains.has,
                has_python=has_python,
            )
        except UsageError as error:
            raise WorkspaceError(str(error)) from error
        plain = PreparedEnvironment(
            source=recipe.source,
            python=python,
            python_source=python_source,
            path=["~/.local/bin", "~/.cargo/bin", "~/go/bin", *chains.path],
            env={**chains.env, **recipe.env},
            services=list(recipe.services),
        )
        if not recipe.setup:
            return Preparation(environment=plain, notes=recipe.notes)
        if not (await sandbox.probe()).can_mount:
            said = (
                f"the setup of {recipe.source} is left out: a sandbox of the kind {sandbox.name} "
                "cannot show its result at the places where it was made"
            )
            if not recipe.optional:
                raise WorkspaceError(f"{said}; prepare a venv, name it in environment.python, and "
                                     "say environment.setup: []")  # fmt: skip
            return Preparation(environment=plain, notes=(*recipe.notes, said))
        secrets = await anyio.to_thread.run_sync(self.secrets, task)
        run = _Setup(
            task_id=task_id, task=task, opened=opened, sandbox=sandbox, limits=limits, heard=heard,
            recipe=recipe, chains=chains, python=task.environment.python or "",
            secrets={name: secrets[name] for name in recipe.secrets}, redactor=Redactor(secrets),
            entries=self._entries, workspaces=self._workspaces, listing=listing,
        )  # fmt: skip
        started = anyio.current_time()
        try:
            key, kept, cached = await self._kept(run)
        except SetupFailed as error:
            said = run.redactor.text(str(error))
            if not recipe.optional:
                raise SetupFailed(said) from error
            notes = (*recipe.notes, f"the task goes on without: {said}")
            without = msgspec.structs.replace(plain, source="")
            return Preparation(environment=without, notes=notes, output=run.output)
        except OSError as error:
            if _is_full(error):
                raise no_room(error) from error
            raise
        in_place = task.workspace is not None and task.workspace.in_place
        copied = [] if in_place else kept.copied
        if in_place and kept.copied:
            run.notes.append(
                f"not put into your directory: {_some(kept.copied)}, which setup built there"
            )
        await self._workspaces.furnish(
            task_id,
            {path: self._entries.source(key, path) for path in copied},
            home=self._entries.path(key, "home") if kept.home else "",
        )
        if task.environment.python is None and (venv := _main_venv(kept.venvs)):
            python, python_source = os.path.join(opened.mount, venv), "its setup"
        prepared = msgspec.structs.replace(
            plain, key=key, python=python, python_source=python_source, mounted=kept.mounted,
            copied=copied, home=kept.home,
        )  # fmt: skip
        return Preparation(
            environment=prepared,
            cached=cached,
            seconds=anyio.current_time() - started,
            output=run.output,
            notes=(*recipe.notes, *map(run.redactor.text, run.notes)),
        )

    async def _kept(self, run: _Setup) -> tuple[str, Kept, bool]:
        """An entry for the recipe and this tree: (key, what it holds, was it there already)."""
        base_key = run.key()
        lock = await locks.take(self._locks_dir, f"environment {base_key}")
        try:
            tree_key = run.key(run.opened.base_tree)
            for key in (tree_key, base_key):
                kept = await anyio.to_thread.run_sync(self._entries.find, key)
                if kept is None:
                    continue
                if key == tree_key or kept.base_tree == run.opened.base_tree:
                    return key, kept, True
                if run.recipe.maintenance:
                    made = await run.make(tree_key, run.recipe.maintenance, upon=(key, kept))
                    return tree_key, made, False
                if not kept_files.bound_to_tree(kept):
                    return key, kept, True
                return tree_key, await run.make(tree_key, run.recipe.setup), False
            key = tree_key if run.recipe.cache != "lockfiles" else base_key
            return key, await run.make(key, run.recipe.setup), False
        finally:
            lock.release()

    def _python(self, task: TaskSpec) -> tuple[str, str, bool]:
        """A venv, where it was found, and whether somebody meant this task to have it."""
        named = task.environment.python
        if named is not None:
            if not _is_python(named):
                raise WorkspaceError(
                    f"environment.python {named!r} is no Python environment: it has no bin/python; "
                    "make one with `python3 -m venv`, and install there what the checks need"
                )
            return os.path.abspath(named), "environment.python", True
        repo = task.workspace.repo if task.workspace else ""
        if os.path.isabs(repo) and _is_python(os.path.join(repo, ".venv")):
            return os.path.join(repo, ".venv"), "the repository's .venv", True
        active = self._environ.get("VIRTUAL_ENV", "")
        if _is_python(active):
            path = os.path.abspath(active)
            return path, "$VIRTUAL_ENV", os.path.realpath(path) != os.path.realpath(sys.prefix)
        return sys.prefix, "the runtime's own environment", False

    # -- giving it to sandboxes --

    async def furnish(self, task_id: TaskId, prepared: PreparedEnvironment) -> Furnishing:
        """See `ports.Environment`."""
        return Furnishing(layers=await self._layers(prepared))

    async def adopt(self, task_id: TaskId, prepared: PreparedEnvironment) -> None:
        """See `ports.Environment`."""
        await self._layers(prepared)
        if prepared.copied or prepared.home:
            await self._workspaces.furnish(
                task_id,
                {path: self._entries.source(prepared.key, path) for path in prepared.copied},
                home=self._entries.path(prepared.key, "home") if prepared.home else "",
            )

    @asynccontextmanager
    async def fresh(
        self, task_id: TaskId, prepared: PreparedEnvironment, checkout: str
    ) -> AsyncIterator[Furnishing]:
        """See `ports.Environment`."""
        layers = await self._layers(prepared)
        if not (prepared.home or prepared.copied):
            yield Furnishing(layers=layers)
            return

        def copy() -> str:
            for path in prepared.copied:
                source = self._entries.source(prepared.key, path)
                copy_into(source, checkout, path)
            made = make_temporary(os.path.dirname(checkout), "home-", mode=0o711)
            if prepared.home:
                source = self._entries.path(prepared.key, "home")
                copy_into(source, made, "home")
            return made

        made = await anyio.to_thread.run_sync(copy)
        try:
            home = os.path.join(made, "home") if prepared.home else None
            yield Furnishing(layers=layers, home=home)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_path, made)

    async def _layers(self, prepared: PreparedEnvironment) -> tuple[Layer, ...]:
        chains = toolchains(self._environ, self._named).layers
        if not prepared.key:
            return chains
        if await anyio.to_thread.run_sync(self._entries.find, prepared.key) is None:
            raise WorkspaceError(
                "what the setup of this task left is not here (any more): `gc` has removed it, or "
                "the task ran on another machine; run the task file once more, which sets it up"
            )
        return (
            *chains,
            *(Layer(self._entries.source(prepared.key, path), path) for path in prepared.mounted),
        )


class _Setup:
    """One recipe for one task's working copy, and what running it gave."""

    def __init__(
        self, *, task_id: TaskId, task: TaskSpec, opened: OpenedWorkspace, sandbox: Sandbox,
        limits: SandboxLimits, heard: Heard, recipe: Recipe, chains: Toolchains, python: str,
        secrets: Mapping[str, str], redactor: Redactor, entries: Entries,
        workspaces: LocalWorkspaces, listing: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.task_id, self.task, self.opened, self.recipe = task_id, task, opened, recipe
        self.notes: list[str] = []
        self.output = b""
        self._sandbox, self._limits, self._heard = sandbox, limits, heard
        self._chains, self._python = chains, python
        self._secrets, self.redactor = secrets, redactor
        self._entries, self._workspaces, self._listing = entries, workspaces, listing
        self._in_place = task.workspace is not None and task.workspace.in_place

    def key(self, tree: str = "") -> str:
        """What an entry is made from: with `tree`, of this version of the repository only."""
        recipe = self.recipe
        words = " ".join(shlex.join(c) if isinstance(c, list) else c for c in recipe.setup)
        names = {os.path.basename(word) for word in re.split(r"[\s;&|()<>'\"`=]+", words)}
        if "make" in names:
            names |= {"Makefile", "makefile", "GNUmakefile"}
        files = {
            path: oid
            for path, oid in self._listing.items()
            # A script may be named from another directory, or without its own.
            if is_manifest(path) or path in words or os.path.basename(path) in names
        }
        made_from = [
            VERSION, recipe.setup, sorted(recipe.env.items()), recipe.egress, recipe.secrets,
            sorted(files.items()), self.opened.mount,
            self.task.workspace.repo if self.task.workspace else "",
            self._python, sys.version, os.path.realpath(sys.executable), platform.machine(),
            _system(), self._sandbox.name, self._chains.path,
            # Nobody else's: an entry for one task.
            self.task_id if recipe.cache == "off" else "",
            [tree, recipe.maintenance] if tree else [],
        ]  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(made_from)).hexdigest()[:40]

    async def make(
        self, key: str, commands: Sequence[Command], upon: tuple[str, Kept] | None = None
    ) -> Kept:
        """Run the commands on a copy of the working copy and move what they leave into an entry.

        A copy of their own with its `.git`: whatever they do to the repository, secrets that they
        write into its files included, reaches neither the task's files nor its versions.
        """
        making = await anyio.to_thread.run_sync(self._entries.begin, key)
        place, home, tmp = (os.path.join(making, name) for name in ("checkout", "home", "tmp"))
        try:
            if self._in_place:
                base = self.opened.base_tree
                place, _ = await self._workspaces.export(
                    self.task_id, base, base=base, protected=()
                )
            else:
                await anyio.to_thread.run_sync(copy_into, self.opened.path, making, "checkout")
            if upon is not None:
                await anyio.to_thread.run_sync(self._put_back, upon, making, place)
            await self._run(commands, place, home, tmp)
            await anyio.to_thread.run_sync(remove_path, tmp)
            kept = await anyio.to_thread.run_sync(self._sort_out, making, place)
            await anyio.to_thread.run_sync(remove_path, place)
            await anyio.to_thread.run_sync(self._entries.finish, making, key, kept)
        finally:
            with anyio.CancelScope(shield=True):
                if self._in_place and place != os.path.join(making, "checkout"):
                    await self._workspaces.discard(place)
                await anyio.to_thread.run_sync(remove_path, making)
        return kept

    async def _run(self, commands: Sequence[Command], place: str, home: str, tmp: str) -> None:
        recipe = self.recipe
        spec = SandboxSpec(
            owner_id=self.task_id,
            workspace=place,
            mount=self.opened.mount,
            home=home,
            # On the disk, and thrown away: an archive may be larger than what fits into memory.
            tmp=tmp,
            python=self._python or None,
            base_python=not self._python,
            layers=self._chains.layers,
            path=("~/.local/bin", "~/.cargo/bin", "~/go/bin", *self._chains.path),
            env={
                "PIP_NO_CACHE_DIR": "1",
                "PIP_RETRIES": "2",  # a host that is not allowed will not be so a minute later
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "UV_CACHE_DIR": "/tmp/uv",
                "npm_config_cache": "/tmp/npm",
                "npm_config_update_notifier": "false",
                **self._chains.env,
                **recipe.env,
                **self._secrets,
            },
            network="restricted" if recipe.egress else "none",
            egress=recipe.egress,
            egress_place=recipe.egress_place,
            egress_heard=self._heard,
            egress_redacted=self.redactor.text,
            limits=replace(self._limits, file_bytes=SETUP_FILE_BYTES_MAX),
        )
        deadline = anyio.current_time() + recipe.seconds
        for command in commands:
            shown = command if isinstance(command, str) else shlex.join(command)
            argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
            left = deadline - anyio.current_time()
            if left <= 0:
                raise SetupFailed(self._told(shown, f"had no time left of {recipe.seconds:g} s"))
            result = await self._sandbox.execute(spec, argv, deadline_seconds=left)
            said = self.redactor.redact(result.output)
            self.output += b"$ " + self.redactor.redact(shown.encode()) + b"\n" + said
            self.output = self.output[-OUTPUT_BYTES_MAX:]
            if result.timed_out:
                raise SetupFailed(
                    self._told(shown, f"had no end within {recipe.seconds:g} s", said)
                )
            if result.exit:
                raise SetupFailed(self._told(shown, f"ended with exit {result.exit}", said))

    def _told(self, command: str, what: str, output: bytes = b"") -> str:
        tail = _tail(output.decode("utf-8", "replace").strip())
        command = self.redactor.text(command)
        hint = ""
        if not self.recipe.egress:
            hint = "; it has no network: name what it needs in environment.egress"
        elif b"policy.egress" in output:
            address = _NOT_PUBLIC.search(output)
            shown = f"the address {address[1].decode()}" if address else "an address"
            hint = (
                "; the network refused it something: environment.egress of the task (else the "
                "setting setup_egress) names all that a setup may reach, as hosts, and where a "
                f"host has {shown} that is not public, that address or its network as well"
            )
        text = f"setup by {self.recipe.source}: `{command}` {what}{hint}"
        return f"{text}\n{tail}" if tail else text

    def _put_back(self, upon: tuple[str, Kept], making: str, place: str) -> None:
        key, kept = upon
        home = os.path.join(making, "home")
        for path in (*kept.mounted, *kept.copied):
            in_home = path.startswith("~/")
            copy_into(
                self._entries.source(key, path),
                home if in_home else place,
                path.removeprefix("~/") if in_home else path,
            )
        if kept.home:
            _merge(self._entries.path(key, "home"), home)

    def _sort_out(self, making: str, place: str) -> Kept:
        if not self._in_place:
            if changed := kept_files.changed(self.opened.path, place, self._listing):
                self.notes.append(
                    f"setup changed files of the repository, and this is not kept: {_some(changed)}"
                )
        kept, unnamed = kept_files.keep(making, place, self._listing, self.opened.base_tree)
        if self.redactor:
            kept, removed = kept_files.without_secrets(making, kept, self.redactor)
            if removed:
                self.notes.append(
                    f"not kept from setup, for a secret stood in it: {_some(removed)}"
                )
        if unnamed:
            self.notes.append(f"not kept from setup, for its name is not UTF-8: {_some(unnamed)}")
        return kept


def _is_full(error: OSError) -> bool:
    """Was there no room? What copies whole directories says so in words only."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    return error.errno in numbers or any(os.strerror(number) in str(error) for number in numbers)


def _tail(text: str) -> str:
    """The last whole lines: what a program says before it gives up says why."""
    if len(text) <= TAIL_CHARS:
        return text
    cut = text[-TAIL_CHARS:]
    return "[…]\n" + (cut.partition("\n")[2] or cut)


def _merge(source: str, target: str) -> None:
    """Copy what is in a directory into another one, where something was put before."""
    for entry in os.scandir(source):
        below = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False) and os.path.isdir(below):
            _merge(entry.path, below)
        else:
            copy_into(entry.path, target, entry.name)


def _is_python(prefix: str) -> bool:
    return bool(prefix) and os.path.isfile(os.path.join(prefix, "bin", "python"))


def _main_venv(venvs: Sequence[str]) -> str:
    """The one in the workspace that commands mean by `python`; empty if that is not clear."""
    inside = [path for path in venvs if not path.startswith("~/")]
    for name in (".venv", "venv", "env"):
        if name in inside:
            return name
    return inside[0] if len(inside) == 1 else ""


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - _CHANGED_NAMED_MAX
    return ", ".join(paths[:_CHANGED_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _system() -> str:
    """Which system the sandbox shows: programs in an entry stand on its libraries."""
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return platform.platform()


def _read(root: str, path: str) -> str | None:
    """A text of the repository; None for a link, something large or no text."""
    try:
        with directory(root) as top, Walker(top) as walker:
            below, name = walker.parent(path.encode("utf-8", "surrogateescape"))
            with open(open_file(name, below=below), "rb") as file:
                return file.read(_READ_BYTES_MAX).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
