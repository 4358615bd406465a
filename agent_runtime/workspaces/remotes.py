"""What git gets for one connection to a remote: its options, its variables, its credentials.

The port between the workspaces and whoever holds credentials. Without anybody git gets nothing: it
can read what is public, and what the user's ssh agent opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """For git processes that run while it is open. `fds` are theirs to read."""

    url: str
    env: Mapping[str, str] = field(default_factory=dict)
    fds: tuple[int, ...] = ()
    secrets: tuple[str, ...] = ()
    """What must not be in anything that git prints."""

    def shown(self, text: str) -> str:
        """`text` without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


class Remotes(Protocol):
    """Who may be reached, and with which credentials."""

    def check(self, url: str) -> None:
        """Refuse, without a connection, what `access` would refuse. `WorkspaceError` says why."""

    def access(self, url: str) -> AbstractContextManager[Access]:
        """Credentials for one repository, fresh ones if need be. Blocks.

        Raises:
            WorkspaceError: it may not be reached, or its credentials cannot be had.
        """


class AnyRemote:
    """Every address, without credentials: for a user's own command line and for tests."""

    def check(self, url: str) -> None:
        """All of them."""

    @contextmanager
    def access(self, url: str) -> Iterator[Access]:
        """The address alone."""
        yield Access(url=url)
