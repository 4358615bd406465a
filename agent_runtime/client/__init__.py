"""A daemon's tasks from Python: `Client` for plain code, `AsyncClient` for an event loop.

Reading order: `asks` (every operation as a value: what is sent, and how its answer is read),
`views` (what comes back), `problems` (what goes wrong, as the runtime's own errors), `patience`
(what is tried again, and when), `following` with `sse` (a stream that goes on where it was cut),
`places` (where the daemon is, and the token for it); all of them without a connection. Then
`blocking` and `waiting`, which are the two clients. docs/client.md has examples that run.

Importing this imports no event loop and no server; `AsyncClient` brings httpx2 when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent_runtime.client.blocking import Client, connect
from agent_runtime.client.following import Output
from agent_runtime.client.views import Event

if TYPE_CHECKING:
    from agent_runtime.client.waiting import AsyncClient, connect_async

__all__ = ["AsyncClient", "Client", "Event", "Output", "connect", "connect_async"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "connect_async"):
        # httpx2 costs as much as all the rest, and a command line does without.
        from agent_runtime.client import waiting

        return getattr(waiting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
