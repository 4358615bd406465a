"""Where the daemon is, and the token for it: an argument, the environment, or its state file.

A token goes only where it belongs: the one in a state directory to the daemon that serves it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from agent_runtime.errors import Unreachable, UsageError
from agent_runtime.locations import state_dir_of, store_url

URL_VARIABLE: Final = "AGENT_RUNTIME_URL"
TOKEN_VARIABLE: Final = "AGENT_RUNTIME_TOKEN"
PLAIN_VARIABLE: Final = "AGENT_RUNTIME_PLAIN_HTTP"
"""`1`: a key may be sent to another machine in the clear."""


@dataclass(frozen=True, slots=True)
class Place:
    """A daemon's address, and what it is asked with.

    Raises:
        UsageError: a key would be sent to another machine in the clear, and nobody has allowed it.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    state_dir: str | None = None
    """Of a daemon that was found by its state file: when it is gone, the next one stands there."""

    def __post_init__(self) -> None:
        # A daemon that was found by its state file is on this machine, whatever its address.
        if self.token is None or self.state_dir is not None or _is_private(self.url):
            return
        if os.environ.get(PLAIN_VARIABLE) != "1":
            raise UsageError(
                f"the key for {self.url!r} would be sent in the clear, for everybody on the way to "
                "read: use https://, or a tunnel to 127.0.0.1; where the network is yours, allow "
                f"it with {PLAIN_VARIABLE}=1"
            )

    @property
    def parts(self) -> SplitResult:
        """The address taken apart; its path has no slash at the end."""
        parts = urlsplit(self.url)
        return parts._replace(path=parts.path.rstrip("/"))


def find_place(
    url: str | None = None, *, token: str | None = None, state_dir: str | None = None
) -> Place:
    """The daemon that is meant.

    Raises:
        Unreachable: none is named, and none serves the state directory.
        UsageError: the address is none.
        ConfigError: its token cannot be read, or may be read by others.
    """
    found = look_for_place(url, token=token, state_dir=state_dir)
    if found is None:
        where = state_dir or state_dir_of(store_url())
        raise Unreachable(
            f"no daemon serves {where!r}: start one with `agent-runtime serve`, or name another by "
            f"its address (url=, --url or {URL_VARIABLE})"
        )
    return found


def look_for_place(
    url: str | None = None, *, token: str | None = None, state_dir: str | None = None
) -> Place | None:
    """As `find_place`; None if there is none to be found."""
    if url is None and state_dir is None:
        url = os.environ.get(URL_VARIABLE) or None
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    if url is not None:
        checked(url)
        where = state_dir or state_dir_of(store_url())
        if _address(where) == url.rstrip("/"):
            return Place(url, token or _token(where), where)
        return Place(url, token)
    where = state_dir or state_dir_of(store_url())
    address = _address(where)
    if address is None:
        return None
    return Place(address, token or _token(where), where)


def again(place: Place) -> Place:
    """The same daemon after it was started anew, perhaps at another address."""
    if place.state_dir is None:
        return place
    address = _address(place.state_dir)
    if address is None:
        return place
    return Place(
        address, os.environ.get(TOKEN_VARIABLE) or _token(place.state_dir), place.state_dir
    )


def with_new_token(place: Place) -> Place | None:
    """After a daemon did not know the token: the place with the one that is in force since; None
    if there is no other."""
    fresh = again(place)
    return fresh if fresh.token != place.token else None


def checked(url: str) -> None:
    """`UsageError` unless it is an address of HTTP."""
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        well = False
    if not well or parts.query or parts.fragment or parts.username is not None:
        raise UsageError(
            f"the daemon's address must look like http://127.0.0.1:8700, got {url!r}; a key goes "
            f"into {TOKEN_VARIABLE}"
        )


def _is_private(url: str) -> bool:
    """Is it TLS, or does it not leave this machine?"""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _address(state_dir: str) -> str | None:
    try:
        # It needs flock, and where there is none, no daemon of this machine can be there.
        from agent_runtime.api.presence import find_daemon
    except ImportError:
        return None
    found = find_daemon(state_dir)
    return None if found is None else found.address


def _token(state_dir: str) -> str | None:
    from agent_runtime.access.token import read

    return read(state_dir)
