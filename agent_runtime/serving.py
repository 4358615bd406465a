"""The daemon put together: a runtime, its HTTP face, who may use it, and what runs beside it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic
from typing import Final

from agent_runtime import __version__
from agent_runtime.access.binding import check_bind, is_loopback
from agent_runtime.access.opening import make_access
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.guard import METADATA, Guard
from agent_runtime.api.hub import Hub
from agent_runtime.api.idling import Idling
from agent_runtime.api.metrics import Measured, Metrics
from agent_runtime.api.mounts import make_mounts, run_all
from agent_runtime.api.mounts import paths as mount_paths
from agent_runtime.api.presence import daemon_file, find_daemon
from agent_runtime.api.routes import application
from agent_runtime.api.server import listen, serve
from agent_runtime.api.short_way import ShortWay
from agent_runtime.api.tls import tls_options
from agent_runtime.app import (
    open_access,
    open_kept_calls,
    open_notices,
    open_notices_store,
    open_runtime,
    retention_policy,
)
from agent_runtime.notices.hooks import Hooks
from agent_runtime.notify_socket import NotifySocket
from agent_runtime.settings import Settings, state_dir
from agent_runtime.toolbox import PluginToolbox

_log = logging.getLogger(__name__)

HOOK_PREFIXES: Final = ("/hooks/",)
"""Requests of other programs, which look at signatures of their own."""


async def run_daemon(
    settings: Settings,
    *,
    unsafe_no_sandbox: bool = False,
    idle_seconds: float | None = None,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve and drive until a signal ends it; `on_ready` gets the address when work is taken.

    `idle_seconds`: it also ends after that time in which nobody asked and no task was driven.

    Raises:
        ConfigError, StoreBroken: it cannot start, or go on; says why.
    """
    check_bind(settings.host, settings)
    systemd = NotifySocket()
    sockets = listen(settings.host, settings.port)
    directory = state_dir(settings)
    async with AsyncExitStack() as stack:
        for each in sockets:
            stack.callback(each.close)
        runtime = await stack.enter_async_context(
            open_runtime(settings, unsafe_no_sandbox=unsafe_no_sandbox)
        )
        clock = runtime.ports.clock
        toolbox = runtime.ports.toolbox
        assert isinstance(toolbox, PluginToolbox)
        access_store = open_access(runtime.ports.store)
        access = make_access(settings, access_store, now_us=clock.now_us)
        port = sockets[0].getsockname()[1]
        scheme = "https" if settings.tls_cert else "http"
        address = f"{scheme}://{_shown_host(settings.host)}:{port}"
        metrics = Metrics()
        notice_store = open_notices_store(runtime.ports.store)
        notices = open_notices(
            settings, runtime, notice_store, address=address, count=metrics.delivered
        )
        daemon = Daemon(
            runtime=runtime,
            hub=Hub(runtime.ports.store),
            metrics=metrics,
            notices=notices,
            hooks=Hooks(notice_store),
            kept_calls=open_kept_calls(runtime.ports.store),
            modules=toolbox.modules.health,
            state_dir=directory,
            access=access,
            workspace_roots=settings.workspace_roots,
            own_roots=own_roots(settings),
            version=__version__,
        )
        mounts = make_mounts(daemon, settings)
        issuers = [settings.jwt_issuer] if settings.jwt_issuer else []
        operations = application(daemon, mounted=mount_paths(mounts, issuers))
        guarded = Guard(
            operations, access.gate,
            monotonic=monotonic, journal=access.auditor,
            hosts=settings.allowed_hosts, proxies=settings.proxy_addresses,
            large_bodies={"/v1/workspaces": settings.upload_bytes},
            open_prefixes=(*HOOK_PREFIXES, METADATA),
        )  # fmt: skip

        earlier = find_daemon(directory)

        def ready() -> None:
            systemd.ready()
            on_ready(f"agent-runtime {__version__} serves at {address}")
            if earlier is not None:
                _log.warning(
                    "another daemon serves this store, at %s (pid %d): each drives what it takes "
                    "first, and the verbs ask the one that was started last; end one of them",
                    *earlier,
                )

        retention = runtime.retention(retention_policy(settings), audit=access_store)
        retention.may_sweep = lambda: daemon.clock.is_trusted
        with daemon_file(directory, address):
            idling = Idling(Measured(guarded, daemon.metrics, monotonic), monotonic)

            async def end_when_idle() -> None:
                if idle_seconds is not None:
                    await idling.until_idle(idle_seconds, lambda: runtime.supervisor.driven > 0)
                    signal.raise_signal(signal.SIGTERM)

            short_way = ShortWay(
                guarded, operations, metrics=metrics, idling=idling, monotonic=monotonic
            )
            await serve(
                daemon,
                idling,
                sockets,
                short_way=short_way,
                shutdown_seconds=settings.shutdown_seconds,
                chores=[
                    access.run,
                    systemd.keep_alive,
                    runtime.admission.run,
                    retention.run,
                    notices.run,
                    partial(run_all, daemon, mounts),
                    end_when_idle,
                ],
                tls=tls_options(settings),
                on_ready=ready,
                on_stopping=systemd.stopping,
            )


def own_roots(settings: Settings) -> tuple[str, ...] | None:
    """Whoever reads the token's file can read what the daemon can: while nothing is said, and only
    this machine is listened to, they name any directory, as they could without a daemon."""
    said = "workspace_roots" in settings.model_fields_set
    local = is_loopback(settings.host) and not settings.behind_proxy
    return ("/",) if local and not said else None


def _shown_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
