"""The setting `mcp_servers`: whose tools agents may use, as its users write it. Pure.

mcp_servers:
  files: {command: npx, args: [-y, "@acme/files"], env: {TOKEN: "${FILES_TOKEN}"}, network: full}
  tracker:
    url: https://mcp.example.org/mcp
    headers: {Authorization: "Bearer ${TRACKER_TOKEN}"}
    effects: {create_issue: idempotent, search: read}

`${NAME}` stands for a secret that the setting `secrets` knows by that name. What is done with a
server is in `agent_runtime_mcp.client`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from agent_runtime.egress_rules import BadHost, NetworkMode, parse_rule
from agent_runtime.schema import nearest

SERVERS_MAX: Final = 50
NAME: Final = re.compile(r"(?=.{1,30}\Z)[a-z][a-z0-9]*(_[a-z0-9]+)*\Z")
"""A toolbelt, and the beginning of its tools' names: with single underscores inside, no two servers
can have a tool of the same name."""
SECRET: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]{0,127})\}")
RESULT_BYTES: Final = 4 << 20
CALL_SECONDS: Final = 300.0

DeclaredEffect = Literal["read", "idempotent", "task", "once"]


class OAuth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Client credentials. `issuer` is the only authorization server that ever sees the secret."""

    client_id: str
    client_secret: str
    issuer: str
    scope: str = ""
    method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"


class RemoteServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One external MCP server: a program (`command`) or an address (`url`)."""

    type: Literal["", "stdio", "http", "streamable-http"] = ""
    """What other clients' files say; it must fit the rest."""
    command: str = ""
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str = ""
    """The one directory of yours that the program may write; empty: one of its own, kept."""
    sandbox: Literal["on", "off"] = "on"
    """`off`: the program runs with the rights of the daemon's user."""
    network: NetworkMode = "none"
    """What the sandboxed program may reach, as a task's policy says it; so is `egress`."""
    egress: list[str] = []
    read: list[str] = []
    """Directories and files that the sandboxed program sees, read-only, at their own paths."""
    url: str = ""
    headers: dict[str, str] = {}
    bearer: str = ""
    oauth: OAuth | None = None
    insecure: bool = False
    """Credentials may go to an `http://` address that is not this machine."""
    wire: Literal["auto", "2026-07-28", "2025"] = "auto"
    """`2025`: the handshake of 2025-11-25 and before, without asking for the newer one."""
    enabled: bool = True
    tasks: Literal["named", "all"] = "named"
    """`named`: a task gets the tools when `policy.tools` names them, or this server."""
    tools: list[str] = msgspec.field(default_factory=lambda: ["*"])
    """Patterns of the tools that are wanted, by the server's own names."""
    trust: Literal["none", "hints"] = "none"
    """`hints`: what the server says of its tools' effects is believed."""
    effects: dict[str, DeclaredEffect] = {}
    """What calls of a tool change, by the server's own names; stands above any hint."""
    timeout_seconds: Annotated[float, Meta(gt=0, le=86_400)] = CALL_SECONDS
    """Of one call, if its step leaves as much."""
    start_seconds: Annotated[float, Meta(gt=0, le=600)] = 30.0
    """From the start of a connection to the list of the tools."""
    result_bytes: Annotated[int, Meta(ge=1024, le=64 << 20)] = RESULT_BYTES
    """Of one message of the server; a longer one ends the connection while it is read."""

    @property
    def remote(self) -> bool:
        """Is it an address?"""
        return bool(self.url)


class BadServer(ValueError):
    """The setting is wrong; says where, and repeats no value that may be a secret."""


def parse_servers(value: Any) -> dict[str, RemoteServer]:
    """The setting, checked. Raises `BadServer` at the first that is wrong."""
    if not isinstance(value, dict):
        raise BadServer("must be a mapping of names to servers: {files: {command: …}}")
    if len(value) > SERVERS_MAX:
        raise BadServer(f"has {len(value)} servers, and must have at most {SERVERS_MAX}")
    return {name: _server(name, each) for name, each in value.items()}


def secrets_of(server: RemoteServer) -> set[str]:
    """Names of the secrets that it mentions."""
    oauth = server.oauth
    texts = [*server.env.values(), *server.headers.values(), *server.args, server.bearer]
    if oauth is not None:
        texts += [oauth.client_id, oauth.client_secret]
    return {name for text in texts for name in SECRET.findall(text)}


def filled(text: str, secrets: Mapping[str, str]) -> str:
    """`text` with the values of its secrets."""
    return SECRET.sub(lambda found: secrets[found[1]], text)


def endpoint(server: RemoteServer) -> str:
    """Where its tools come from, in words without secrets: consent is for this, and no other."""
    return server.url or " ".join([server.command, *server.args])


def _server(name: object, value: Any) -> RemoteServer:
    if not isinstance(name, str) or not NAME.match(name):
        raise BadServer(
            f"{name!r} must be lower case letters, digits and single underscores between them, at "
            f"most 30, a letter first: its tools are called NAME__tool"
        )
    if not isinstance(value, dict):
        raise BadServer(f"{name} must be a mapping with a command or a url")
    known = RemoteServer.__struct_fields__
    for key in value:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise BadServer(f"{name}.{key} is unknown{hint} (known: {', '.join(known)})")
    # YAML reads `off` as false, and `on` as true.
    given = {**value}
    if isinstance(given.get("sandbox"), bool):
        given["sandbox"] = "on" if given["sandbox"] else "off"
    try:
        server = msgspec.convert(given, RemoteServer)
    except msgspec.ValidationError as error:
        raise BadServer(f"{name}: {error}") from None
    if fault := _fault(server):
        raise BadServer(f"{name}: {fault}")
    return server


def _fault(server: RemoteServer) -> str:
    if bool(server.command) == bool(server.url):
        return "must have a command (a program) or a url (an address), and not both"
    if server.type and (server.type == "stdio") == server.remote:
        return f"type {server.type!r} does not fit {'a url' if server.remote else 'a command'}"
    if server.remote:
        return _address_fault(server)
    wrong = [key for key in ("headers", "bearer", "oauth") if getattr(server, key)]
    if wrong:
        return f"{wrong[0]} is for a url, and this is a program: give it what it needs as env"
    for rule in server.egress:
        try:
            parse_rule(rule)
        except BadHost as error:
            return f"the rule {rule!r} of egress {error}"
    if server.network == "restricted" and not server.egress:
        return "network: restricted needs what may be reached, as egress: [api.example.org]"
    if server.network == "none" and server.egress:
        return "egress allows nothing with network: none; say network: restricted"
    if any(not path.startswith("/") for path in (server.cwd or "/", *server.read)):
        return "cwd and read must be absolute paths"
    return ""


def _address_fault(server: RemoteServer) -> str:
    wrong = [key for key in ("args", "env", "cwd", "read", "egress") if getattr(server, key)]
    if wrong:
        return f"{wrong[0]} is for a program, and this is a url"
    try:
        url = urlsplit(server.url)
        host = url.hostname or ""
    except ValueError:
        return "url is no URL"
    if url.scheme not in ("https", "http") or not host:
        return "url must begin with https:// or http://"
    if url.username or url.password:
        return "url must not hold a user or a password: use headers with ${NAME}"
    ways = [w for w in ("bearer", "oauth") if getattr(server, w)]
    ways += [key for key in server.headers if key.lower() == "authorization"]
    if len(ways) > 1:
        return f"{' and '.join(ways)} are two ways to say who asks: leave one out"
    if (oauth := server.oauth) is not None:
        try:
            issuer = urlsplit(oauth.issuer)
            issuer_host = issuer.hostname or ""
        except ValueError:
            return "oauth.issuer is no URL"
        if issuer.scheme not in ("https", "http") or not issuer_host:
            return "oauth.issuer must begin with https:// or http://"
        if issuer.scheme == "http" and not _loopback(issuer_host) and not server.insecure:
            return "oauth.client_secret would go unencrypted to another machine: use https://"
    secret = server.bearer or server.oauth or server.headers
    if secret and url.scheme == "http" and not _loopback(host) and not server.insecure:
        return "credentials would go unencrypted to another machine: use https://"
    if any(re.search(r"[\r\n\0]", each) for each in (*server.headers, *server.headers.values())):
        return "headers must not hold line ends"
    return ""


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
