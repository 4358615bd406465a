"""Faces that plug-ins add to the daemon, each at `/mcp/NAME`: the MCP servers.

A plug-in of the group `agent_runtime.mcp_servers` points at a callable that takes a `MountContext`
and returns a `Mount`. The daemon knows no more of them: the wire they speak is theirs. What stands
before every request (credentials, Host, Origin, sizes, rates) stands before theirs too, and
`scope["caller"]` says who asks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, cast

import anyio.abc
import msgspec

from agent_runtime import contributions, plugins
from agent_runtime.access.callers import SCOPES
from agent_runtime.api.answers import Answer, Receive, Reply, Scope, Send
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.guard import METADATA, MOUNTED, address_of
from agent_runtime.errors import PluginError
from agent_runtime.settings import Settings

log = logging.getLogger(__name__)


_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class Mount(Protocol):
    """An ASGI application with a life of its own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Live until cancelled; requests come after `task_status.started()`."""


@dataclass(frozen=True, slots=True)
class MountContext:
    """What a mount may use."""

    name: str
    daemon: Daemon
    settings: Settings


class MakeMount(Protocol):
    """What the entry point points at. An exception leaves the mount out, and is told."""

    def __call__(self, context: MountContext) -> Mount: ...


def make_mounts(daemon: Daemon, settings: Settings) -> dict[str, Mount]:
    """One of each installed plug-in that may load, by name; a broken one is told and left out."""
    found: dict[str, Mount] = {}
    allowed = {plugins.normalise(each) for each in settings.plugins}
    for plugin in plugins.discover()[0]:
        if plugin.group != plugins.MCP_SERVERS or plugin.name in found:
            continue
        if not (plugin.builtin or plugin.distribution in allowed):
            continue
        try:
            if _NAME.fullmatch(plugin.name) is None:
                raise PluginError(f"{plugin.name!r} is no part of an address: {_NAME.pattern}")
            make = cast(MakeMount, contributions.imported(plugin.source))
            context = MountContext(plugin.name, daemon, settings)
            found[plugin.name] = contributions.guarded(str(plugin), partial(make, context))
        except PluginError as error:
            log.warning("left out: plug-in %s: %s", plugin, error)
    return found


def paths(mounts: Mapping[str, Mount], issuers: Sequence[str]) -> dict[str, Reply]:
    """Where each is found, and what says who may use it."""
    found: dict[str, Reply] = {}
    for name, mount in mounts.items():
        found[MOUNTED + name] = mount
        found[f"{METADATA}{MOUNTED}{name}"] = _Metadata(name, issuers)
    return found


class _Metadata:
    """Says of one mount, to anybody, who gives out credentials for it (RFC 9728)."""

    def __init__(self, name: str, issuers: Sequence[str]) -> None:
        self._name = name
        self._issuers = list(issuers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = {
            "resource": f"{address_of(scope)}{MOUNTED}{self._name}",
            "resource_name": f"agent-runtime {self._name}",
            "bearer_methods_supported": ["header"],
            "scopes_supported": sorted(SCOPES),
            "authorization_servers": self._issuers,
        }
        await Answer(200, msgspec.json.encode(document))(scope, receive, send)


async def run_all(daemon: Daemon, mounts: Mapping[str, Mount]) -> None:
    """Let every mount live until the daemon ends; one that ends takes no other with it."""
    async with anyio.create_task_group() as tasks:
        # Their streams would keep the daemon from ending.
        daemon.at_end.append(tasks.cancel_scope.cancel)
        for name, mount in mounts.items():
            try:
                await tasks.start(_run, name, mount)
            except RuntimeError:
                log.error("%s%s does not start", MOUNTED, name)
        await anyio.sleep_forever()


async def _run(name: str, mount: Mount, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    try:
        await mount.run(task_status=task_status)
    except Exception:
        log.exception("%s%s has ended by a defect", MOUNTED, name)
