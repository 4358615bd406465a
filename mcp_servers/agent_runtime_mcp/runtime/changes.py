"""Who has subscribed to tasks hears that something happened to them.

All subscriptions read one topic of the daemon's hub; each event is encoded once for all of them.
What happens in quick succession is told once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio

from agent_runtime.api.daemon import Daemon
from agent_runtime.api.hub import EVERYTHING
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.loop import events as e
from agent_runtime_mcp.definitions import Change
from agent_runtime_mcp.runtime.documents import task_of

PAUSE_SECONDS: Final = 0.25
AGAIN_SECONDS: Final = 1.0
"""After the store could not be read."""

_LISTED: Final = frozenset({e.TaskSubmitted.__name__, e.Forked.__name__, e.TaskEnded.__name__})
"""Events with which the list of tasks reads differently."""


async def changes(daemon: Daemon, uris: Sequence[str]) -> AsyncIterator[Change]:
    """Changes of these resources, and of the list, from now on; goes on until the daemon ends."""
    wanted: dict[str, list[str]] = {}
    for uri in uris:
        if task_id := task_of(uri):
            wanted.setdefault(task_id, []).append(uri)
    hub, store = daemon.hub, daemon.runtime.ports.store
    with hub.follow(EVERYTHING) as topic:
        cursor = await store.position()
        while not hub.is_closed:
            grown = topic.grown
            try:
                news = await hub.news(topic, cursor)
            except AgentRuntimeError:
                await anyio.sleep(AGAIN_SECONDS)
                continue
            if not news:
                await grown.wait()
                continue
            cursor = news[-1].cursor
            for task_id in dict.fromkeys(event.task_id for event in news):
                for uri in wanted.get(task_id, ()):
                    yield Change("resource", uri)
            if any(event.type in _LISTED for event in news):
                yield Change("resources")
            await anyio.sleep(PAUSE_SECONDS)
