"""What `doctor` looks at: one check a concern, each with what mends it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from agent_runtime import plugins
from agent_runtime.api.presence import find_daemon, find_daemons
from agent_runtime.app import boundary, load_plugins, open_store
from agent_runtime.documents import decode, load
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.locations import FILE_NAME
from agent_runtime.ports.modules import ConsentingModule
from agent_runtime.sandboxes.ladder import Rung, climb, examine_limits
from agent_runtime.settings import (
    ENV_PREFIX,
    Settings,
    state_dir,
    store_path,
    user_config_path,
)
from agent_runtime.stores.sqlite_database import open_reader
from agent_runtime.workspaces import quota
from agent_runtime.workspaces.git import redact

PYTHON_MIN = (3, 11)
GIT_MIN = (2, 32)
"""Of the runtime's own git: `apply --3way --cached` is younger than the rest."""
DISK_BYTES_LOW = 1 << 30
DISK_BYTES_MIN = 64 << 20
_GIT_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. Without a `needed` one no task can run."""

    name: str
    ok: bool
    detail: str
    needed: bool = True
    remedy: str = ""
    rungs: tuple[Rung, ...] = ()
    """Of the sandbox: every rung of the ladder."""


async def examine(settings: Settings) -> list[Check]:
    """Every check, in the order in which they matter."""
    return [
        _python(),
        _git(),
        await _store(settings),
        await _sandbox(settings),
        await _limits(),
        await _quotas(settings),
        _daemons(settings),
        _plugins(settings),
        _disk(settings),
    ]


def settings_shown(settings: Settings, flags: Mapping[str, object]) -> list[dict[str, str]]:
    """Each setting in force, and where it comes from."""
    files = [(path, _keys(path)) for path in (os.path.abspath(FILE_NAME), user_config_path())]
    shown = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        source = "default"
        if flags.get(name) is not None:
            source = f"--{name.replace('_', '-')}"
        elif os.environ.get(ENV_PREFIX + name.upper()):
            source = f"${ENV_PREFIX}{name.upper()}"
        else:
            source = next((path for path, keys in files if name in keys), source)
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value or "")
        if name == "mcp_servers":  # who writes a secret into `env` must not find it here
            text = ", ".join(value)
        shown.append({"name": name, "value": redact(text) or "none", "source": source})
    return shown


def _keys(path: str) -> frozenset[str]:
    try:
        with open(path, "rb") as file:
            value = load(decode(file.read(), name=path), name=path).value
    except (OSError, AgentRuntimeError):
        return frozenset()
    return frozenset(value) if isinstance(value, dict) else frozenset()


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        name="python",
        ok=sys.version_info[:2] >= PYTHON_MIN,
        detail=f"{version} in {sys.prefix}",
        remedy="install Python 3.11 or newer",
    )


def _git() -> Check:
    wanted = ".".join(map(str, GIT_MIN))
    remedy = f"install git {wanted} or newer"
    path = shutil.which("git")
    if path is None:
        return Check(name="git", ok=False, detail="not on the PATH", remedy=remedy)
    try:
        said = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS_MAX,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name="git", ok=False, detail=f"{path}: {error}", remedy=remedy)
    found = re.search(r"(\d+)\.(\d+)", said)
    enough = found is not None and (int(found[1]), int(found[2])) >= GIT_MIN
    return Check(name="git", ok=enough, detail=f"{said} at {path}", remedy=remedy)


async def _store(settings: Settings) -> Check:
    url = redact(settings.store)
    try:
        # Opened for real: it takes its locks, and brings an older schema up to date.
        store = await open_store(settings)
    except AgentRuntimeError as error:
        return Check(name="store", ok=False, detail=f"{url}: {error}",
                     remedy="mend that, or name another store with --store")  # fmt: skip
    try:
        detail = f"{url}, writable, locks work"
        if path := store_path(settings):
            detail += f", schema version {await anyio.to_thread.run_sync(_schema_version, path)}"
    finally:
        await store.close()
    return Check(name="store", ok=True, detail=detail)


def _schema_version(path: str) -> int:
    db = open_reader(Path(path), busy_seconds=1.0)
    try:
        return int(db.pragma("user_version"))
    finally:
        db.close()


async def _sandbox(settings: Settings) -> Check:
    climbed = await climb(state_dir(settings), setting=settings.bwrap, boundary=boundary(settings))
    probe = climbed.probe
    remedies = [probe.remedy, *(rung.remedy for rung in climbed.rungs if rung.state == "failed")]
    ways = dict.fromkeys(line for text in remedies for line in text.splitlines())
    return Check(
        name="sandbox",
        ok=climbed.sandbox is not None,
        detail=f"{probe.name}: {probe.detail}",
        remedy="\n".join(ways)
        or "--unsafe-no-sandbox runs tools without one, with your own rights",
        rungs=climbed.rungs,
    )


async def _limits() -> Check:
    probe = await examine_limits()
    return Check(name="limits", ok=probe.ok, needed=False, detail=probe.detail, remedy=probe.remedy)


async def _quotas(settings: Settings) -> Check:
    place = os.path.join(state_dir(settings), "workspaces")
    try:
        reason = await anyio.to_thread.run_sync(quota.unavailable, place)
    except OSError as error:
        reason = str(error)
    return Check(
        name="quotas",
        ok=not reason,
        needed=False,
        detail=f"disk and inodes by the size of each file only: {reason}"
        if reason
        else f"disk and inodes of a task by {quota.MEANS}, where one of them is named",
        remedy=quota.remedy() if reason else "",
    )


def _daemons(settings: Settings) -> Check:
    found = find_daemons(state_dir(settings))
    told = ", ".join(f"{each.address} (pid {each.pid})" for each in found)
    asked = find_daemon(state_dir(settings))
    return Check(
        name="daemon",
        ok=len(found) < 2,
        needed=False,
        detail=told or "none serves this store",
        remedy="no task is driven twice, but each daemon has its own bound on tasks at a time, and "
        f"the verbs ask {asked.address if asked else 'the one that was started last'}: end all "
        "but one",
    )


def _plugins(settings: Settings) -> Check:
    found = load_plugins(settings)
    tools = sum(len(each.contribution.tools) for each in found.loaded)
    parts = [f"{len(found.loaded)} loaded with {tools} tools"]
    standings: dict[str, str] = {}
    for each in found.loaded:
        module = each.contribution.module
        if module is not None and isinstance(module, ConsentingModule):
            standings[module.name] = module.standing()
    troubles = [f"quarantined: {each}" for each in found.quarantined]
    troubles += [f"not loaded: {each}" for each in found.not_allowed]
    troubles += [
        f"{plugins.SETTING} names {name!r}, and no installed plug-in is called that"
        for name in found.not_installed
    ]
    troubles += [f"mcp server {name!r}: {text}" for name, text in standings.items() if text]
    if found.quarantined:
        parts.append(f"{len(found.quarantined)} quarantined")
    if found.not_allowed:
        parts.append(f"{len(found.not_allowed)} not allowed")
    return Check(
        name="plug-ins",
        ok=not troubles,
        needed=False,
        detail=", ".join(parts),
        remedy="\n".join(troubles),
    )


def _disk(settings: Settings) -> Check:
    directory = state_dir(settings)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    free_bytes = shutil.disk_usage(directory).free
    return Check(
        name="disk",
        ok=free_bytes >= DISK_BYTES_LOW,
        needed=free_bytes < DISK_BYTES_MIN,
        detail=f"{free_bytes / (1 << 30):.1f} GiB free at {directory}",
        remedy="`agent-runtime gc` removes old tasks; --store puts new ones elsewhere",
    )
