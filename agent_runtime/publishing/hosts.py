"""Git hosts that this installation knows: which may be reached, and with which credentials.

    git_credentials:
      github.com/acme: {token: env:ACME_TOKEN}
      git.example.org: {ssh_key: /etc/agent-runtime/deploy, known_hosts: /etc/agent-runtime/hosts}

A process of git gets a token through an unlinked file that only it and its helpers have open: not
through its arguments or variables, which others may read, and never through a repository's
configuration. The host's address is looked up here, looked at, and pinned: what git connects to is
what was allowed. A private one must be named in the setting.
"""

from __future__ import annotations

import shlex
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent_runtime.egress_rules import address_of, is_public
from agent_runtime.errors import ConfigError, PublishFailed, WorkspaceError
from agent_runtime.publishing.addresses import BadAddress, GitAddress, parse
from agent_runtime.secret_sources import read_secret
from agent_runtime.workspaces.remotes import Access

if TYPE_CHECKING:
    from agent_runtime.publishing.github_app import AppTokens

GITHUB: Final = "github.com"
_USERS: Final = {"github": "x-access-token", "gitlab": "oauth2"}
"""Under which name a forge takes a token; others take any."""


@dataclass(frozen=True, slots=True)
class Host:
    """One entry of `git_credentials`."""

    place: str
    told: Mapping[str, str]

    def covers(self, address: GitAddress) -> bool:
        """Is this repository below the entry's place?"""
        return address.place == self.place or address.place.startswith(f"{self.place}/")

    @property
    def netloc(self) -> str:
        return self.place.partition("/")[0]


class GitHosts:
    """The `Remotes` of the workspaces, and the publisher's source of tokens."""

    def __init__(
        self, credentials: Mapping[str, Mapping[str, str]], environ: Mapping[str, str]
    ) -> None:
        self._hosts = sorted(
            (Host(place.strip("/").lower(), told) for place, told in credentials.items()),
            key=lambda host: -len(host.place),
        )
        self._environ = environ
        self._apps: AppTokens | None = None

    # -- what is known --

    def find(self, address: GitAddress) -> Host | None:
        """The entry that is about this repository: the longest one."""
        return next((host for host in self._hosts if host.covers(_lowered(address))), None)

    def forge_of(self, address: GitAddress) -> str:
        """`github` or `gitlab`; empty if nobody says so."""
        host = self.find(address)
        told = host.told.get("forge", "") if host is not None else ""
        if told:
            return told
        if address.host == GITHUB:
            return "github"
        return "gitlab" if "gitlab" in address.host.split(".") else ""

    def api_of(self, address: GitAddress) -> str:
        """Where the forge's API is."""
        host = self.find(address)
        if host is not None and "api" in host.told:
            return host.told["api"].rstrip("/")
        if address.host == GITHUB:
            return "https://api.github.com"
        path = "api/v4" if self.forge_of(address) == "gitlab" else "api/v3"
        return f"https://{address.netloc if address.scheme == 'https' else address.host}/{path}"

    def ca_of(self, address: GitAddress) -> str:
        """A file with the certificates of the company that runs the host; empty: none."""
        host = self.find(address)
        return host.told.get("ca", "") if host is not None else ""

    def may_have_token(self, address: GitAddress) -> bool:
        """Is one named? It is not read."""
        host = self.find(address)
        return host is not None and ("token" in host.told or "app" in host.told)

    def token(self, address: GitAddress) -> str:
        """A token for this repository; empty if there is none. Blocks.

        Raises:
            WorkspaceError: it cannot be had just now; never shows it.
        """
        host = self.find(address)
        if host is None:
            return ""
        try:
            if "token" in host.told:
                return read_secret(f"of {host.place}", host.told["token"], self._environ)
            if "app" in host.told:
                key = read_secret(f"of {host.place}", host.told["private_key"], self._environ)
                # Imported here, where there is an app: cryptography and HTTP take long.
                from agent_runtime.publishing.github_app import AppTokens

                self._apps = self._apps or AppTokens()
                return self._apps.token(
                    app=host.told["app"],
                    installation=host.told["installation"],
                    private_key=key,
                    api=self.api_of(address),
                    ca=host.told.get("ca", ""),
                )
        except ConfigError as error:
            raise WorkspaceError(f"git_credentials.{host.place}: {error}") from error
        return ""

    # -- `Remotes` --

    def check(self, url: str) -> None:
        """Refuse what is no address, and private ones that are written as numbers."""
        address = self.parse(url)
        number = address_of(address.host)
        if (number is not None or address.host == "localhost") and not self._is_named(address):
            if number is None or not is_public(number):
                raise WorkspaceError(self._private(address, address.host))

    def parse(self, url: str) -> GitAddress:
        """The address. `WorkspaceError` if it may never be used."""
        try:
            address = parse(url)
        except BadAddress as error:
            raise WorkspaceError(f"the address {_shown(url)} {error}") from None
        if address.scheme == "http" and not self._is_named(address):
            raise WorkspaceError(
                f"{address.url!r} is not encrypted: use https://, or name {address.netloc!r} in "
                "the setting git_credentials"
            )
        return address

    @contextmanager
    def access(self, url: str) -> Iterator[Access]:
        """Options and credentials of git for one repository. See `Remotes.access`."""
        self.check(url)
        address = self.parse(url)
        pinned = self._reachable(address)
        if address.scheme == "ssh":
            yield Access(url=address.url, env={"GIT_SSH_COMMAND": self._ssh(address, pinned)})
            return
        # A redirection would lead to an address that nobody has looked at.
        options = [("http.followRedirects", "false")]
        if pinned:
            at = f"[{pinned}]" if ":" in pinned else pinned
            options.append(("http.curloptResolve", f"{address.host}:{address.port}:{at}"))
        if ca := self.ca_of(address):
            options.append(("http.sslCAInfo", ca))
        try:
            token = self.token(address)
        except PublishFailed as error:
            raise WorkspaceError(str(error)) from error
        with tempfile.TemporaryFile() as file:
            fds: tuple[int, ...] = ()
            if token:
                user = self._user(address)
                file.write(f"username={user}\npassword={token}\n".encode())
                file.flush()
                fds = (file.fileno(),)
                helper = f'!f() {{ test "$1" = get && cat /dev/fd/{file.fileno()}; }}; f'
                scope = f"credential.{address.scheme}://{address.netloc}.helper"
                options.append((scope, helper))
            env = {"GIT_CONFIG_COUNT": str(len(options))}
            for number, (key, value) in enumerate(options):
                env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
            yield Access(url=address.url, env=env, fds=fds, secrets=(token,) if token else ())

    # -- helpers --

    def _user(self, address: GitAddress) -> str:
        host = self.find(address)
        told = host.told.get("user", "") if host is not None else ""
        return told or _USERS.get(self.forge_of(address), "git")

    def _ssh(self, address: GitAddress, pinned: str) -> str:
        words = ["ssh", "-o", "BatchMode=yes"]
        if pinned:
            # The key of the host is known under its name, not under its address.
            alias = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
            words += ["-o", f"HostName={pinned}", "-o", f"HostKeyAlias={alias}"]
        host = self.find(address)
        told = host.told if host is not None else {}
        if key := told.get("ssh_key"):
            words += ["-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        if hosts := told.get("known_hosts"):
            words += ["-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=yes"]
        return shlex.join(words)

    def _is_named(self, address: GitAddress) -> bool:
        return any(host.netloc == _lowered(address).netloc for host in self._hosts)

    def _reachable(self, address: GitAddress) -> str:
        """The address to connect to; empty where a proxy looks it up."""
        if address.scheme != "ssh" and _by_proxy(address):
            return ""
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            said = f"the host {address.host!r} is not known here: {error.strerror or error}"
            if error.errno == socket.EAI_AGAIN:  # who answers for names did not: a moment's trouble
                raise WorkspaceError(said) from PublishFailed(said, kind="transient")
            raise WorkspaceError(said) from None
        numbers = [str(each[4][0]) for each in found]
        if not self._is_named(address):
            for number in numbers:
                looked_at = address_of(number.partition("%")[0])
                if looked_at is None or not is_public(looked_at):
                    raise WorkspaceError(self._private(address, number))
        return numbers[0]

    def _private(self, address: GitAddress, number: str) -> str:
        return (
            f"{address.url!r} leads to {number}, which is no address of the public internet; name "
            f"{address.netloc!r} in the setting git_credentials if tasks may use it"
        )


def _lowered(address: GitAddress) -> GitAddress:
    # Forges do not tell the case of a path apart; an entry covers more then, and of one host only.
    return GitAddress(
        scheme=address.scheme, host=address.host, port=address.port, path=address.path.lower()
    )


def _by_proxy(address: GitAddress) -> bool:
    # Imported here, where something is reached: it takes as long as all of the above.
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()
    told = proxies.get(address.scheme) or proxies.get("all")
    return bool(told) and not proxy_bypass(f"{address.host}:{address.port}")


def _shown(url: str) -> str:
    """An address for an error, without what may be a password."""
    head, at, tail = url.rpartition("@")
    scheme = head.partition("://")[0] + "://" if "://" in head else ""
    return repr(f"{scheme}…@{tail}" if at and (":" in head.partition("://")[2] or "://" in head)
                else url[:200])  # fmt: skip
