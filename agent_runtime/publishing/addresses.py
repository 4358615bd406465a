"""Addresses of git repositories, taken apart: what a task may name, before any connection.

Everything that is no plain `https`, `http` or `ssh` address is refused: `file://` and paths (a push
there would run its hooks in the daemon), `ext::` and other helpers (they run programs), `git://`
(nobody proves who answers), words that git or ssh would take for options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_runtime.egress_rules import BadHost, host_of

_URL: Final = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<rest>.*)\Z", re.DOTALL)
_SCP: Final = re.compile(r"(?:(?P<user>[\w.-]+)@)?(?P<host>[\w.-]+):(?P<path>(?!//).+)\Z")
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f\\\"]")
_HIDDEN: Final = re.compile(r"%(2e|2f|5c|25|00)", re.IGNORECASE)
PORTS: Final = {"https": 443, "http": 80, "ssh": 22}


class BadAddress(ValueError):
    """It is none that may be used; says why, and never shows a password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAddress:
    """A repository behind a URL. `path` has no leading slash."""

    scheme: str
    host: str
    port: int
    path: str
    user: str = ""

    @property
    def place(self) -> str:
        """`host[:port]/path` without `.git`: what credentials are named for."""
        return f"{self.netloc}/{self.project}"

    @property
    def netloc(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def project(self) -> str:
        """The path as a forge knows it: `owner/name`."""
        return self.path.strip("/").removesuffix(".git")

    @property
    def url(self) -> str:
        """As git gets it: never a password."""
        user = f"{self.user}@" if self.user and self.scheme == "ssh" else ""
        return f"{self.scheme}://{user}{self.netloc}/{self.path}"


def parse(text: str) -> GitAddress:
    """What `text` names.

    Raises:
        BadAddress: another kind of address, or one that hides something.
    """
    if not text or text.startswith("-") or _CONTROL.search(text):
        raise BadAddress("is no git URL: blanks, quotes, control characters and a leading '-'")
    if "::" in text.split("/")[0] and not text.startswith("["):
        raise BadAddress("names a helper program of git; only https and ssh addresses are used")
    found = _URL.match(text)
    if found is None:
        return _scp(text)
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme not in PORTS:
        raise BadAddress(f"has the scheme {scheme!r}; only https:// and ssh:// are used")
    netloc, _, path = rest.partition("/")
    userinfo, _, hostport = netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if colon or (user and scheme != "ssh"):
        raise BadAddress(
            "holds a user or a password, which every reader of the log would see; put it into the "
            "setting git_credentials"
        )
    host, port = _host(hostport, PORTS[scheme])
    return _checked(GitAddress(scheme=scheme, host=host, port=port, path=path, user=user))


def _scp(text: str) -> GitAddress:
    found = _SCP.match(text)
    if found is None:
        raise BadAddress("is no git URL: write https://host/path.git or git@host:path.git")
    host, _ = _host(found["host"], 22)
    path = found["path"].lstrip("/")
    user = found["user"] or ""
    return _checked(GitAddress(scheme="ssh", host=host, port=22, path=path, user=user))


def _host(text: str, port: int) -> tuple[str, int]:
    host, told = text, ""
    if text.startswith("["):
        host, _, told = text[1:].partition("]")
        told = told.removeprefix(":")
    elif ":" in text:
        host, _, told = text.partition(":")
    if told and not (told.isascii() and told.isdigit() and 0 < int(told) < 65_536):
        raise BadAddress(f"has the port {told[:20]!r}, which is none")
    try:
        return host_of(host), int(told) if told else port
    except BadHost as error:
        raise BadAddress(f"names no host: {error}") from None


def _checked(address: GitAddress) -> GitAddress:
    if address.user.startswith("-") or address.host.startswith("-"):
        raise BadAddress("has a host or a user that ssh would take for an option")
    parts = address.path.split("/")
    if not address.project or ".." in parts or address.path.startswith("-"):
        raise BadAddress("names no repository below its host")
    # A server undoes what we would compare: `acme/%2e%2e/other` is not below `acme`.
    if _HIDDEN.search(address.path) or "." in parts or "" in parts[:-1]:
        raise BadAddress("hides dots or slashes in its path; write it as the server shows it")
    if "?" in address.path or "#" in address.path:
        raise BadAddress("has a query or a fragment, which git servers do not know")
    return address
