"""What a task's sandboxes reached and what they were refused: the fold of `EgressObserved`. Pure.

Sums for each host and port. What was refused cannot push out what was reached: a sandbox that asks
for a million names does not hide the one that it talked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from agent_runtime.loop import events as e
from agent_runtime.types import Json

HOSTS_MAX = 200
"""Hosts of either kind that a state knows by name; the others are counted."""

SETUP = "setup"
"""The source of what the environment's setup reaches."""

replace = msgspec.structs.replace


class Host(msgspec.Struct, frozen=True, gc=False):
    """One host and port. `reason` is the last one why it was refused, or could not be reached."""

    host: str
    port: int
    opened: int = 0
    by_setup: int = 0
    """Of those opened: by the environment's setup, which has rules of its own."""
    ended: int = 0
    """Of those opened: their bytes are known. The others lived when their owner was killed."""
    refused: int = 0
    failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    reason: str = ""


class Reached(msgspec.Struct, frozen=True, gc=False):
    """All that left, by `host:port`, and all that was not let out or found nobody."""

    hosts: Mapping[str, Host] = {}
    turned_away: Mapping[str, Host] = {}
    left_out: int = 0
    """Facts about other hosts, for which there was no room."""
    mark: int = 0
    """How far the sandboxes' own record is in the log."""


def observe(known: Reached, event: e.EgressObserved) -> Reached:
    """Add what one event says."""
    hosts, turned_away = dict(known.hosts), dict(known.turned_away)
    left_out = known.left_out + event.left_out
    for entry in event.entries:
        was_opened = bool(entry.address or entry.via)
        if was_opened and not _add(hosts, entry):
            left_out += entry.count
        if entry.kind in ("refused", "failed") and not _add(turned_away, entry, away=True):
            left_out += entry.count
    return Reached(hosts, turned_away, left_out, max(known.mark, event.mark))


def _add(hosts: dict[str, Host], entry: e.EgressEntry, *, away: bool = False) -> bool:
    key = f"{entry.host}:{entry.port}"
    host = hosts.get(key)
    if host is None:
        if len(hosts) >= HOSTS_MAX:
            return False
        host = Host(entry.host, entry.port)
    if away:
        changes = {entry.kind: getattr(host, entry.kind) + entry.count, "reason": entry.reason}
    elif entry.kind == "opened":
        changes = {
            "opened": host.opened + entry.count,
            "by_setup": host.by_setup + entry.count * (entry.source == SETUP),
        }
    else:
        changes = {
            "ended": host.ended + entry.count,
            "bytes_sent": host.bytes_sent + entry.bytes_sent,
            "bytes_received": host.bytes_received + entry.bytes_received,
        }
    hosts[key] = replace(host, **changes)
    return True


def told(reached: Reached) -> dict[str, Json]:
    """For `show --json` and the certificate."""
    return {
        "hosts": [
            {
                "host": host.host,
                "port": host.port,
                "connections": host.opened,
                "by_setup": host.by_setup,
                "not_ended": host.opened - host.ended,
                "bytes_sent": host.bytes_sent,
                "bytes_received": host.bytes_received,
            }
            for host in _sorted(reached.hosts)
        ],
        "turned_away": [
            {
                "host": host.host,
                "port": host.port,
                "refused": host.refused,
                "failed": host.failed,
                "reason": host.reason,
            }
            for host in _sorted(reached.turned_away)
        ],
        "left_out": reached.left_out,
    }


def _sorted(hosts: Mapping[str, Host]) -> Iterable[Host]:
    return sorted(hosts.values(), key=lambda host: (host.host, host.port))


def connection_words(host: Host) -> str:
    """`3 connections, 120 bytes out, 4000 in`."""
    said = f"{host.opened} connection{'s' * (host.opened != 1)}"
    if host.by_setup:
        said += f" ({host.by_setup} by setup)"
    said += f", {host.bytes_sent} bytes out, {host.bytes_received} in"
    if unended := host.opened - host.ended:
        said += f"; {unended} of them without an end in the log"
    return said


def reason_of(host: Host) -> str:
    """The reason, without what the line has said already."""
    prefix = f"{host.host}:{host.port} is not allowed by policy.egress: "
    return host.reason.removeprefix(prefix)


def away_words(host: Host) -> str:
    """`refused 2 times`, `failed once`, or both."""
    parts = [
        f"{word} {'once' if count == 1 else f'{count} times'}"
        for word, count in (("refused", host.refused), ("failed", host.failed))
        if count
    ]
    return ", ".join(parts)
