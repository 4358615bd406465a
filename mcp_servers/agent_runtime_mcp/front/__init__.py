"""The thin way from a client's stdin and stdout to a server of the daemon.

Reading order: `relay` (one conversation: what goes where, and what is done again), `pipes` (the
client's side), `session` and `questions` (what must be built up anew when the daemon of a session
was restarted), `headers` (what the wire wants to know of a message beside its body), `way`
(requests to the daemon), `daemons` (which one, and starting one), `http` (as much of it as is
needed), `words`.

A client starts such a process for each of its windows and waits for it: nothing here imports the
SDK, an event loop or a library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from agent_runtime_mcp.front.daemons import Daemons
from agent_runtime_mcp.front.relay import Relay


def serve(
    name: str,
    query: Mapping[str, str],
    *,
    url: str | None = None,
    store: str | None = None,
    may_start: bool = True,
) -> None:
    """Connect stdin and stdout with `/mcp/NAME` of the daemon, until the client has gone.

    `query`: options of the address. `url` and `store` say which daemon, as on the command line.
    Never returns: threads that wait for somebody must not keep the process.

    Raises:
        UsageError, ConfigError: the address is none, or the token may be read by others.
    """
    relay = Relay(Daemons(url=url, store=store, may_start=may_start), name, query)
    try:
        relay.run()
    finally:
        relay.close()
    os._exit(0)
