"""Where a message may be posted to, and posting it.

How it gets there, and to which address a name leads, is in `connections`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent_runtime.egress_rules import BadHost, Rules, address_of, host_of
from agent_runtime.notices.answered import Answered, NotSent

if TYPE_CHECKING:
    from agent_runtime.notices.connections import Connections

__all__ = ["Answered", "NotSent", "Poster"]

URL_CHARS_MAX: Final = 2000


class Poster:
    """Posts. `rules` None: to wherever the operator says."""

    def __init__(self, rules: Rules | None, environ: Mapping[str, str]) -> None:
        self._rules = rules
        self._environ = environ
        self._connections: Connections | None = None

    def fault_of(self, url: str) -> str:
        """Why `url` can never be posted to, whatever its name means; empty if it may."""
        if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
            return "must be a URL of printable ASCII"
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            host = host_of(parts.hostname or "")
        except (ValueError, BadHost) as error:
            return f"must be a URL with a host: {error}"
        if parts.scheme not in ("https", "http"):
            return "must begin with https://"
        if parts.username is not None or parts.fragment:
            return "must have no user, password or fragment: deliveries are signed instead"
        if self._rules is None:
            return ""
        if parts.scheme == "http" and not self._names(host, port):
            return (
                "must begin with https://, unless the setting webhook_allow names its host and "
                f"port: {self._rules.way_out(host, port)}"
            )
        if why := self._rules.refuse_target(host, port):
            return f"leads where none may: {why}; {self._rules.way_out(host, port)}"
        return ""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Post `body`, once.

        Raises:
            NotSent: there is no answer, or it may not go there.
        """
        if why := self.fault_of(url):
            raise NotSent(f"the address {why}")
        if self._connections is None:
            # The clients import both event loops, 0.2 s, and most commands post nothing.
            from agent_runtime.notices.connections import Connections

            self._connections = Connections(self._rules, self._environ)
        return await self._connections.post(url, headers, body)

    async def close(self) -> None:
        """End every connection."""
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    def _names(self, host: str, port: int) -> bool:
        assert self._rules is not None
        address = address_of(host)
        if address is not None:
            return any(rule.covers(address, port) for rule in self._rules.rules)
        return any(rule.names(host, port) for rule in self._rules.rules)
