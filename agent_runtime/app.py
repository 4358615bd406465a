"""The composition root: settings in, adapters out. The only file that names concrete adapters."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

from agent_runtime import plugins
from agent_runtime.access.ports import AccessStore
from agent_runtime.admission import Bounds
from agent_runtime.bus import LocalBus, LocalListeners
from agent_runtime.clock import SystemClock
from agent_runtime.egress_rules import parse_rules
from agent_runtime.errors import ConfigError
from agent_runtime.kept_calls.ports import KeptCallStore
from agent_runtime.loop.supervisor import Supervisor
from agent_runtime.models import open_model
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.service import Notices
from agent_runtime.notices.targets import parse_targets
from agent_runtime.ports.everything import Ports
from agent_runtime.ports.modules import Installation
from agent_runtime.ports.sandbox import Sandbox, SandboxCeiling, SandboxLimits
from agent_runtime.ports.store import Store
from agent_runtime.ports.workspaces import ArtifactLimits
from agent_runtime.publishing.hosts import GitHosts
from agent_runtime.publishing.publisher import GitPublisher
from agent_runtime.resources import bounded
from agent_runtime.retention import Policy
from agent_runtime.runtime import Runtime
from agent_runtime.sandboxes.egress_records import EgressFiles
from agent_runtime.sandboxes.lazy import LazySandbox
from agent_runtime.sandboxes.surroundings import Boundary
from agent_runtime.schema import nearest
from agent_runtime.settings import Settings, mcp_servers, state_dir
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.stores.memory_access import MemoryAccess
from agent_runtime.stores.memory_kept_calls import MemoryKeptCalls
from agent_runtime.stores.memory_notices import MemoryNotices
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess
from agent_runtime.stores.sqlite_kept_calls import SqliteKeptCalls
from agent_runtime.stores.sqlite_notices import SqliteNotices
from agent_runtime.toolbox import PluginToolbox
from agent_runtime.workspaces import LocalWorkspaces
from agent_runtime.workspaces.environment import LocalEnvironment
from agent_runtime.workspaces.uploads import LocalUploads
from agent_runtime.workspaces.verify import Verifier


@asynccontextmanager
async def open_runtime(
    settings: Settings, *, unsafe_no_sandbox: bool = False
) -> AsyncIterator[Runtime]:
    """Put a runtime together and take it apart again.

    No sandbox is probed before the first one is needed. `unsafe_no_sandbox` runs tools without one.

    Raises:
        ConfigError, StoreBroken: the store or a plug-in setting is not usable; says why.
    """
    directory = state_dir(settings)
    store = await open_store(settings)
    try:
        sandbox = open_sandbox(settings, unsafe_no_sandbox=unsafe_no_sandbox)
        loaded = load_plugins(settings, sandbox)
        hosts = GitHosts(settings.git_credentials, os.environ)
        workspaces = LocalWorkspaces(directory, remotes=hosts)
        shared = shared_dir(settings, loaded)
        async with (
            PluginToolbox.from_plugins(
                loaded, state_dir=directory, shared_dir=shared, settings=settings.modules
            ) as toolbox,
            open_model(settings) as model,
        ):
            ports = Ports(
                store=store,
                clock=SystemClock(),
                bus=LocalBus(),
                listeners=LocalListeners(),
                toolbox=toolbox,
                sandbox=sandbox,
                workspaces=workspaces,
                verifier=Verifier(workspaces),
                environment=LocalEnvironment(
                    os.environ,
                    workspaces=workspaces,
                    state_dir=directory,
                    registries=settings.setup_egress,
                    toolchains_named=settings.toolchains,
                    secrets=settings.secrets,
                ),
                model=model,
                plugin_paths=plugins.plugin_paths(loaded),
                shared_dir=shared,
                sandbox_limits=sandbox_limits(settings),
                sandbox_ceiling=sandbox_ceiling(settings),
                egress_files=EgressFiles(directory),
                artifact_limits=ArtifactLimits(
                    files=settings.artifact_files, bytes=settings.artifact_bytes
                ),
                publisher=GitPublisher(directory, hosts),
                uploads=LocalUploads(directory, bytes_max=settings.upload_bytes),
            )
            yield Runtime(
                ports,
                state_dir=directory,
                supervisor=Supervisor(
                    ports,
                    tasks_max=settings.tasks_max,
                    submitter_tasks_max=settings.submitter_tasks_max,
                    hibernate_seconds=settings.hibernate_seconds,
                ),
                bounds=Bounds(
                    pending=settings.pending_tasks_max, memory_bytes=settings.memory_bytes_max
                ),
            )
    finally:
        await store.close()


def load_plugins(settings: Settings, sandbox: Sandbox | None = None) -> plugins.Plugins:
    """Every plug-in of the installation, external MCP servers among them; starts nothing.

    Raises:
        ConfigError: the file of `mcp add` is not usable.
    """
    return plugins.load(allowed=settings.plugins, installation=installation(settings, sandbox))


def installation(settings: Settings, sandbox: Sandbox | None = None) -> Installation:
    """What makers of modules are told."""
    return Installation(
        state_dir=state_dir(settings),
        mcp_servers=mcp_servers(settings),
        secrets=settings.secrets,
        environ=os.environ,
        sandbox=sandbox,
    )


def shared_dir(settings: Settings, loaded: plugins.Plugins) -> str:
    """The directory that modules share with sandboxes, made; empty if no module is told anything.

    There is one for each way of telling them: of two processes on one store neither sees what the
    other was told.

    Raises:
        ConfigError: a module is told something that is not installed, or it cannot be made.
    """
    known = {each.contribution.module.name for each in loaded.loaded if each.contribution.module}
    others = {each.plugin.name for each in (*loaded.quarantined, *loaded.not_allowed)}
    for name in settings.modules.keys() - known - others:
        guess = nearest(name, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise ConfigError(
            f"modules.{name}: no module is called {name!r}{hint} (installed: "
            f"{', '.join(sorted(known)) or 'none'})"
        )
    if not settings.modules:
        return ""
    told = json.dumps(settings.modules, sort_keys=True).encode()
    path = os.path.join(state_dir(settings), "shared", hashlib.sha256(told).hexdigest()[:16])
    try:
        os.makedirs(path, exist_ok=True)
        # The sandbox may run as another user.
        os.chmod(path, 0o755)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {path!r}: {error.strerror}") from error
    return path


async def open_store(settings: Settings) -> Store:
    """The store that the URL names."""
    scheme, _, rest = settings.store.partition("://")
    match scheme:
        case "sqlite":
            return await SqliteStore.open(rest.removeprefix("/") if rest.startswith("//") else rest)
        case "memory":
            return MemoryStore()
        case _:
            raise ConfigError(
                f"no store for {settings.store!r}: this version knows sqlite:///path and memory://"
            )


def open_sandbox(settings: Settings, *, unsafe_no_sandbox: bool = False) -> Sandbox:
    """The best sandbox that works here, chosen when it is first needed."""
    return LazySandbox(
        state_dir(settings),
        setting=settings.bwrap,
        unsafe=unsafe_no_sandbox,
        spares_max=settings.sandbox_spares,
        boundary=boundary(settings),
    )


def boundary(settings: Settings) -> Boundary:
    """What the settings say about the container that this may be."""
    return Boundary(
        declared=settings.sandbox == "container",
        name=settings.container_name,
        network=settings.container_network,
        writable=settings.container_writable,
    )


def sandbox_limits(settings: Settings) -> SandboxLimits:
    """Of every sandbox whose task names no other."""
    limits = SandboxLimits(
        memory_bytes=settings.sandbox_memory_bytes,
        cpus=settings.sandbox_cpus,
        processes=settings.sandbox_processes,
        disk_bytes=settings.sandbox_disk_bytes,
        inodes=settings.sandbox_inodes,
    )
    return bounded(limits, sandbox_ceiling(settings))


def sandbox_ceiling(settings: Settings) -> SandboxCeiling:
    """What no task may ask more of."""
    return SandboxCeiling(
        memory_bytes=settings.sandbox_memory_bytes_max,
        cpus=settings.sandbox_cpus_max,
        processes=settings.sandbox_processes_max,
        disk_bytes=settings.sandbox_disk_bytes_max,
        inodes=settings.sandbox_inodes_max,
    )


def open_notices_store(store: Store) -> NoticeStore:
    """Webhooks, hooks and deliveries, where the tasks are kept."""
    return SqliteNotices(store) if isinstance(store, SqliteStore) else MemoryNotices()


def open_notices(
    settings: Settings, runtime: Runtime, store: NoticeStore, *, address: str,
    count: Callable[[str, str], None],
) -> Notices:  # fmt: skip
    """What tells others of events. `address`: where the daemon serves, for links."""
    return Notices(
        runtime.ports.store, store, state_dir=state_dir(settings),
        allow=parse_rules("full", settings.webhook_allow, place="the setting webhook_allow"),
        notify=parse_targets(settings.notify),
        link=f"{(settings.public_url or address).rstrip('/')}/v1/tasks/", environ=os.environ,
        now_us=runtime.ports.clock.now_us, monotonic=monotonic, count=count,
    )  # fmt: skip


def retention_policy(settings: Settings) -> Policy:
    """What is kept, as the settings say it."""
    return Policy(
        settings.retention_days, settings.retention_bytes, settings.upload_hours,
        settings.retention_audit_days,
    )  # fmt: skip


def open_access(store: Store) -> AccessStore:
    """Keys and the audit record, where the tasks are kept."""
    return SqliteAccess(store) if isinstance(store, SqliteStore) else MemoryAccess()


def open_kept_calls(store: Store) -> KeptCallStore:
    """Calls that outlive their connection, where the tasks are kept."""
    return SqliteKeptCalls(store) if isinstance(store, SqliteStore) else MemoryKeptCalls()
