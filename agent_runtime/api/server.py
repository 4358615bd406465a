"""One daemon from its first request to its last: sockets, signals, driving, draining.

Ending is in an order: first no new work is taken, then calls are stopped and written down as
interrupted, then streams end and open requests are answered, then the store is closed; each step
is bounded. What is killed instead loses nothing either: the next process goes on.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, Final

import anyio
import anyio.abc
import uvicorn
from anyio.to_thread import run_sync

from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.api.lobby import Lobby, connections_max
from agent_runtime.api.protocol import GuardedProtocol
from agent_runtime.api.short_way import ShortWay
from agent_runtime.errors import AgentRuntimeError, ConfigError, SandboxUnavailable, StoreBroken
from agent_runtime.loop.supervisor import YOUNG_OBJECTS_MIN

log = logging.getLogger(__name__)

App = Callable[..., Awaitable[None]]

BACKLOG: Final = 4096
KEEP_ALIVE_SECONDS: Final = 75
WATCH_SECONDS: Final = 1.0
"""Between two looks whether the store takes writes and the disk has room."""
PROBE_SECONDS: Final = 5.0
"""Between two tries to write to a store that was well. Whoever writes meanwhile is told anyway."""
SANDBOX_SECONDS: Final = 30.0
"""Between two looks for a sandbox where there was none."""
COLLECTIONS: Final = (YOUNG_OBJECTS_MIN, 20, 100)
"""Young objects (a few MB) before they are collected, and how often before the older ones are."""
DISK_BYTES_MIN: Final = 64 << 20
"""Free room below which no new work is taken: what runs needs it."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on `host`, before anything is opened: two daemons on one port are told at once.

    Raises:
        ConfigError: the address is taken or is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"--host {host!r} is no address of this machine: {error}") from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            for other in sockets:
                other.close()
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or end "
                "what listens there"
            ) from None
        sock.setblocking(False)
        sockets.append(sock)
        if port == 0:
            break  # the second family would get another port
    return sockets


class _Server(uvicorn.Server):
    """uvicorn without its signals: when the daemon ends is decided here."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    daemon: Daemon,
    app: App,
    sockets: Sequence[socket.socket],
    *,
    shutdown_seconds: float,
    chores: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    short_way: ShortWay | None = None,
    tls: dict[str, Any] | None = None,
    on_ready: Callable[[], None] = lambda: None,
    on_stopping: Callable[[], None] = lambda: None,
) -> None:
    """Serve and drive until SIGTERM or SIGINT; a second one ends it without waiting.

    `chores` run beside it and are cancelled at the end. Without `short_way`, every request goes
    through `app`.

    Raises:
        StoreBroken: the store is damaged: the process must end.
    """
    lobby = Lobby(monotonic)
    # To uvicorn, whatever makes one.
    protocol: Any = partial(GuardedProtocol, lobby=lobby, short_way=short_way)
    # Whatever the setting log_level: at debug, the handshakes of WebSockets are printed with keys.
    config = uvicorn.Config(
        app, loop="none", http=protocol, ws="websockets-sansio", lifespan="off",
        log_config=None, log_level="info", access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, ws_max_size=1 << 20,
        timeout_graceful_shutdown=max(1, round(shutdown_seconds)), backlog=BACKLOG,
        **(tls or {}),
    )  # fmt: skip
    connections_max()
    server = _Server(config)
    supervisor = daemon.runtime.supervisor
    async with anyio.create_task_group() as tg:

        async def serving(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            tg.start_soon(_when_started, server, task_status)
            await server.serve(sockets=list(sockets))

        await tg.start(serving)
        works = await _look_at_sandbox(daemon)
        watches = [daemon_watch(daemon)] if works else [daemon_watch(daemon), sandbox_watch(daemon)]
        watches.append(connections_watch(daemon, server, lobby))
        for chore in (daemon.hub.run, *watches, *chores):
            tg.start_soon(chore)
        daemon.readiness = Readiness.READY
        _spare_the_collector()
        on_ready()
        async with anyio.create_task_group() as driving:
            driving.start_soon(
                _stop_on_signal, daemon, on_stopping, driving.cancel_scope, shutdown_seconds
            )
            await supervisor.run_until_stopped()
            driving.cancel_scope.cancel()
        daemon.hub.close()
        for end in daemon.at_end:
            end()
        server.should_exit = True
        await _until_closed(server, shutdown_seconds)
        tg.cancel_scope.cancel()


async def _when_started(server: uvicorn.Server, status: anyio.abc.TaskStatus[None]) -> None:
    while not server.started:
        await anyio.sleep(0.005)
    status.started()


async def _until_closed(server: uvicorn.Server, seconds: float) -> None:
    with anyio.move_on_after(seconds + 2):
        while server.server_state.connections or server.server_state.tasks:
            await anyio.sleep(0.02)


async def _stop_on_signal(
    daemon: Daemon, on_stopping: Callable[[], None], driving: anyio.CancelScope, seconds: float
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            if daemon.readiness is Readiness.DRAINING:
                log.warning("%s again: ending at once", signal.Signals(number).name)
                os._exit(128 + number)
            log.info("%s: no new work is taken, calls are stopped", signal.Signals(number).name)
            daemon.readiness = Readiness.DRAINING
            on_stopping()
            daemon.runtime.supervisor.stop.set()
            # Whoever hangs is left to the next process: what it did is known from the log.
            driving.deadline = anyio.current_time() + seconds


def daemon_watch(daemon: Daemon) -> Callable[[], Coroutine[Any, Any, None]]:
    """Looks, for as long as the process lives, whether work that is taken could be kept."""

    async def watch() -> None:
        probed_at = -math.inf
        while True:
            if "store" in daemon.faults or anyio.current_time() - probed_at >= PROBE_SECONDS:
                probed_at = anyio.current_time()
                try:
                    await daemon.runtime.ports.store.probe()
                except StoreBroken:
                    raise
                except AgentRuntimeError as error:
                    _fault(daemon, "store", str(error))
                else:
                    _well(daemon, "store")
            if jumped := daemon.clock.look():
                _fault(daemon, "clock", jumped)
            else:
                _well(daemon, "clock")
            free = await run_sync(_free_bytes, daemon.state_dir)
            if free < DISK_BYTES_MIN:
                _fault(daemon, "disk", f"only {free >> 20} MiB are free below {daemon.state_dir!r}")
            else:
                _well(daemon, "disk")
            await anyio.sleep(WATCH_SECONDS)

    return watch


def connections_watch(
    daemon: Daemon, server: uvicorn.Server, lobby: Lobby
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Looks, for as long as the process lives, whether connections leave room for others."""

    async def watch() -> None:
        while True:
            if wrong := lobby.look(len(server.server_state.connections)):
                _fault(daemon, "files", wrong)
            else:
                _well(daemon, "files")
            await anyio.sleep(WATCH_SECONDS)

    return watch


def _spare_the_collector() -> None:
    """What was made until now stays, so that nobody has to look at it again.

    A look at all objects takes 0.3 s with 10,000 connections, and everybody waits; by default it
    comes whenever a quarter more is there, several times while they connect. And one at the young
    ones comes every 700 objects, a tenth of a submission's time: nearly all that a request makes is
    freed by its reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)


def sandbox_watch(daemon: Daemon) -> Callable[[], Coroutine[Any, Any, None]]:
    """Looks until a sandbox works: a task that is taken without one would only wait."""

    async def watch() -> None:
        while not await _look_at_sandbox(daemon):
            await anyio.sleep(SANDBOX_SECONDS)

    return watch


async def _look_at_sandbox(daemon: Daemon) -> bool:
    try:
        await daemon.runtime.ports.sandbox.probe()
    except SandboxUnavailable as error:
        _fault(daemon, "sandbox", str(error))
        return False
    _well(daemon, "sandbox")
    return True


def _free_bytes(path: str) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return 1 << 62  # the store says what is wrong
    return found.f_bavail * found.f_frsize


def _fault(daemon: Daemon, name: str, text: str) -> None:
    if name not in daemon.faults:
        log.error("no work is taken: %s", text)
    daemon.faults[name] = text


def _well(daemon: Daemon, name: str) -> None:
    if daemon.faults.pop(name, None) is not None:
        log.warning("work is taken again: nothing is wrong with the %s any more", name)
