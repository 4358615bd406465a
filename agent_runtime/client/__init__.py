"""A daemon's tasks from Python: `Client` for plain code, `AsyncClient` for an event loop.

Reading order: `asks` (every operation as a value: what is sent, and how its answer is read),
`views` (what comes back), `problems` (what goes wrong, as the runtime's own errors), `patience`
(what is tried again, and when), `following` with `sse` (a stream that goes on where it was cut),
`places` (where the daemon is, and the token for it), `wire` (what every request says); all of them
without a connection. Then `blocking` and `waiting`, which are the two clients, each with its own
wire: `blocking_wire`, `waiting_wire`. docs/client.md has examples that run.

Importing this imports nothing; `AsyncClient` brings httpx2 when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from agent_runtime.client.blocking import Client, connect
    from agent_runtime.client.following import Output
    from agent_runtime.client.views import Event
    from agent_runtime.client.waiting import AsyncClient, connect_async

__all__ = ["AsyncClient", "Client", "Event", "Output", "connect", "connect_async"]

_PLACES: Final = {
    "AsyncClient": "waiting",
    "Client": "blocking",
    "Event": "views",
    "Output": "following",
    "connect": "blocking",
    "connect_async": "waiting",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A process that only looks where the daemon is must start at once.
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
