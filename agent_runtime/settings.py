"""What the installation is told: flags, then `AGENT_RUNTIME_*`, then two YAML files, then defaults.

Per setting, the first of these that names it wins: a flag, the environment, `agent-runtime.yaml` in
the working directory, `$XDG_CONFIG_HOME/agent-runtime/config.yaml`. Secrets are no settings, and
running without a sandbox is a flag only. Every setting is explained in docs/settings.md. Importing
this file costs some 200 ms (pydantic): a command that needs no setting does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from agent_runtime.access.callers import JWT_ALGORITHMS, ROLES
from agent_runtime.documents import BYTES_MAX, Source, decode, load
from agent_runtime.egress_rules import BadHost, parse_rule
from agent_runtime.errors import ConfigError, UsageError
from agent_runtime.locations import SQLITE, config_files, default_store, user_config
from agent_runtime.model_names import endpoint_fault
from agent_runtime.model_names import fault_of as model_fault
from agent_runtime.notices.targets import parse_targets
from agent_runtime.remote_servers import RemoteServer, parse_servers
from agent_runtime.schema import nearest
from agent_runtime.secret_sources import fault_of
from agent_runtime.shapes import shown
from agent_runtime.variables import PREFIX

ENV_PREFIX: Final = PREFIX

_OPENS: Final = "lowers the sandbox's walls"
_OF_THIS_MACHINE: Final = "is about this machine"
_ASKED: Final = "decides who reads your code, with which key"
_WHO_ASKS: Final = "decides who reaches the daemon, and what it reaches"
NOT_IN_DIRECTORY: Final = {
    "allowed_hosts": _WHO_ASKS,
    "host": _WHO_ASKS,
    "workspace_roots": _WHO_ASKS,
    "public_url": _WHO_ASKS,
    "webhook_allow": _WHO_ASKS,
    "notify": _WHO_ASKS,
    "bwrap": _OF_THIS_MACHINE,
    "git_credentials": _OF_THIS_MACHINE,
    "mcp_prompts": _OF_THIS_MACHINE,
    "mcp_servers": _OF_THIS_MACHINE,
    "modules": _OF_THIS_MACHINE,
    "model": _ASKED,
    "model_endpoints": _ASKED,
    "model_fallbacks": _ASKED,
    "model_keys": _ASKED,
    "secrets": _OF_THIS_MACHINE,
    "setup_egress": _OF_THIS_MACHINE,
    "toolchains": _OF_THIS_MACHINE,
    "container_name": _OPENS,
    "container_network": _OPENS,
    "container_writable": _OPENS,
    **dict.fromkeys(
        (
            *("behind_proxy", "proxy_addresses", "rate_limit"),
            *("tls_cert", "tls_key", "tls_client_ca", "jwt_issuer", "jwt_audience", "jwt_jwks"),
            *("jwt_algorithms", "jwt_claim", "jwt_roles", "jwt_leeway_seconds"),
        ),
        _WHO_ASKS,
    ),
}
"""A checkout may bring its own `agent-runtime.yaml`, and must not choose a program that is run, nor
what of this machine is read or reached, nor who is asked with your key, nor who may ask the daemon.
Nor may it say `sandbox: container`."""
REGISTRIES: Final = (
    *("pypi.org", "files.pythonhosted.org", "registry.npmjs.org", "registry.yarnpkg.com"),
    *("index.crates.io", "static.crates.io", "crates.io", "proxy.golang.org", "sum.golang.org"),
)
"""Of package managers: what a setup may reach unless something else is said."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _listed(value: object) -> object:
    """`a, b` is a list too: environment variables have no other."""
    if isinstance(value, str):
        return tuple(part for item in value.split(",") if (part := item.strip()))
    return value


def _mapped(value: Any) -> Any:
    """`NAME=source, NAME=source` is a mapping too."""
    if isinstance(value, str):
        pairs = [part.partition("=") for item in value.split(",") if (part := item.strip())]
        return {name.strip(): source.strip() for name, _, source in pairs}
    return value


def _module_settings(value: object) -> object:
    """`module.name=value, …` is a mapping of mappings too; numbers and lists become texts."""
    if isinstance(value, str):
        nested: dict[str, dict[str, str]] = {}
        for key, text in _mapped(value).items():
            module, dot, name = key.partition(".")
            if not dot or not name:
                raise ValueError(f"{key!r} must name a module and its setting: module.name=value")
            nested.setdefault(module, {})[name] = text
        return nested
    if not isinstance(value, dict):
        return value
    return {
        module: {name: _as_text(each) for name, each in settings.items()}
        if isinstance(settings, dict)
        else settings
        for module, settings in value.items()
    }


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return "\n".join(str(_as_text(each)) for each in value)
    return value


def _secret_sources(value: dict[str, str]) -> dict[str, str]:
    for name, source in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", name):
            raise ValueError(f"{name!r} cannot be the name of a variable")
        if fault := fault_of(source):
            raise ValueError(f"the source of {name} {fault}")
    return value


_GIT_KEYS: Final = (
    *("token", "user", "app", "installation", "private_key"),
    *("ssh_key", "known_hosts", "ca", "forge", "api"),
)
_PLACE = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9.:\[\]_-]*(/[A-Za-z0-9._~/-]+)?\Z")


def _git_settings(value: object) -> object:
    """A variable holds the same mapping on one line, as JSON or YAML."""
    if not isinstance(value, str):
        return value
    try:
        found = load(value, name="git_credentials").value
    except UsageError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("must be a mapping such as {github.com: {token: env:NAME}}")
    return _told_of_places(found)


def _told_of_places(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {
        place: {name: _as_text(each) for name, each in (told or {}).items()}
        if told is None or isinstance(told, dict)
        else told
        for place, told in value.items()
    }


def _git_credentials(value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    for place, told in value.items():
        if not _PLACE.match(place):
            raise ValueError(f"{place!r} is no host[:port][/path]: leave out the scheme and users")
        for name in told:
            if name not in _GIT_KEYS:
                guess = nearest(name, _GIT_KEYS)
                hint = f"; did you mean {guess!r}?" if guess else ""
                raise ValueError(f"{place}.{name} is unknown{hint} (known: {', '.join(_GIT_KEYS)})")
        for name in ("token", "private_key"):
            if name in told and (fault := fault_of(told[name])):
                raise ValueError(f"{place}.{name} {fault}")
        for name in ("ssh_key", "known_hosts", "ca"):
            if name in told and not os.path.isabs(told[name]):
                raise ValueError(f"{place}.{name} must be an absolute path")
        app = [name in told for name in ("app", "installation", "private_key")]
        if any(app) and not all(app):
            raise ValueError(f"{place}: app, installation and private_key belong together")
        if told.get("forge", "github") not in ("github", "gitlab"):
            raise ValueError(f"{place}.forge must be github or gitlab, got {told['forge']!r}")
        if not told.get("api", "https://").startswith(("https://", "http://")):
            raise ValueError(f"{place}.api must be a URL")
    return value


def _model(value: str) -> str:
    if fault := model_fault(value):
        raise ValueError(fault)
    return value


def _models(value: tuple[str, ...]) -> tuple[str, ...]:
    for name in value:
        _model(name)
    return value


def _endpoints(value: dict[str, str]) -> dict[str, str]:
    for name, url in value.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
            raise ValueError(f"{name!r} cannot stand before the slash of a model's name")
        if fault := endpoint_fault(url):
            raise ValueError(f"the address of {name} {fault}")
    return value


def _egress_rules(value: tuple[str, ...]) -> tuple[str, ...]:
    for rule in value:
        try:
            parse_rule(rule)
        except BadHost as error:
            raise ValueError(f"the rule {rule!r} {error}") from None
    return value


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    for host in value:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no name of a host: example.org, or example.org:8700")
    return value


def _networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        try:
            ip_network(each, strict=False)
        except ValueError as error:
            raise ValueError(f"{each!r} is no address or network: {error}") from None
    return value


def _algorithms(value: tuple[str, ...]) -> tuple[str, ...]:
    for each in value:
        if each not in JWT_ALGORITHMS:
            raise ValueError(f"{each!r} is none of {', '.join(JWT_ALGORITHMS)}")
    if not value:
        raise ValueError("must name at least one")
    return value


def _jwks(value: str) -> str:
    url = urlsplit(value)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return value
    if url.scheme:
        raise ValueError("must be an https:// URL (http:// on this machine only) or a file")
    return _absolute(value)


def _roles(value: dict[str, str]) -> dict[str, str]:
    for name, role in value.items():
        if role not in ROLES:
            raise ValueError(f"the role of {name!r} is none of {', '.join(ROLES)}")
    return value


def _decoded(value: object) -> object:
    """A variable holds it as JSON."""
    if isinstance(value, str):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise ValueError("must be a JSON object in a variable") from None
    return value


def _notify(value: object) -> object:
    value = _decoded(value)
    parse_targets(value)
    return value


def _mcp_servers(value: object) -> object:
    value = _decoded(value)
    parse_servers(value)
    return value


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _no_boolean(value: object) -> object:
    # pydantic reads true as 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _absolute(value: str) -> str:
    path = os.path.expanduser(value)
    if not os.path.isabs(path):
        raise ValueError("must be an absolute path")
    return os.path.normpath(path)


def _store_url(value: str) -> str:
    """The URL with an absolute path, so that it means the same from any directory."""
    if not _URL.match(value):
        raise ValueError("must be a URL: sqlite:///relative/path or sqlite:////absolute/path")
    if not value.startswith("sqlite:"):
        return value
    path = value.removeprefix(SQLITE)
    if not value.startswith(SQLITE) or not path or path.endswith("/") or "\0" in path:
        raise ValueError(
            "must name a file: sqlite:///relative/path or, with a fourth slash, "
            "sqlite:////absolute/path"
        )
    return SQLITE + os.path.abspath(path)


Number = Annotated[float, BeforeValidator(_no_boolean)]
Bytes = Annotated[int, BeforeValidator(_no_boolean), Field(ge=64 << 20, le=1 << 50)]
DiskBytes = Annotated[int, BeforeValidator(_no_boolean), Field(ge=64 << 20, le=1 << 43)]
Inodes = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1_000, le=1 << 30)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Every setting; made by `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    store: Annotated[str, AfterValidator(_store_url)] = Field(default_factory=default_store)
    """URL of the store. State lives beside it: see `state_dir`."""
    plugins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Distributions whose plug-ins may load; the built-in ones always do."""
    sandbox: Annotated[Literal["auto", "bubblewrap", "container"], BeforeValidator(_lowered)] = (
        "auto"
    )
    """Which sandbox runs tools; `container` declares that this container may be the boundary."""
    container_name: str | None = None
    """The host name of the container, where nothing else shows that it is one."""
    container_network: Annotated[Literal["closed", "shared"], BeforeValidator(_lowered)] = "closed"
    """`shared`: in the `container` sandbox, direct connections are not stopped."""
    container_writable: Annotated[tuple[AbsolutePath, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Directories that tools may write in the `container` sandbox besides their own."""
    bwrap: AbsolutePath | None = None
    """The bubblewrap program; None: the installed wheel's, then the one on PATH."""
    sandbox_memory_bytes: Bytes | None = None
    """Of a sandbox: all processes together where cgroups can be had, else each one's addresses."""
    sandbox_cpus: Annotated[Number, Field(ge=0.05, le=1024, allow_inf_nan=False)] | None = None
    """Processors' time of a sandbox, where cgroups can be had; None: 70 % of the machine."""
    sandbox_processes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=16, le=65_536)] = 256
    sandbox_disk_bytes: DiskBytes | None = None
    """Of a task's working copy and HOME together, and of each check's checkout, where quotas can be
    had; None: not limited."""
    sandbox_inodes: Inodes | None = None
    """Files, directories and links there; None: one for 16 KiB of the disk."""
    sandbox_spares: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=1000)] = 4
    """Workers at most that are started before their task's first call; 0: none."""
    sandbox_memory_bytes_max: Bytes | None = None
    """What no task may ask more of, as the four below; None: no bound."""
    sandbox_cpus_max: Annotated[Number, Field(ge=0.05, le=1024, allow_inf_nan=False)] | None = None
    sandbox_processes_max: (
        Annotated[int, BeforeValidator(_no_boolean), Field(ge=16, le=65_536)] | None
    ) = None
    sandbox_disk_bytes_max: DiskBytes | None = None
    sandbox_inodes_max: Inodes | None = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(_lowered)
    ] = "info"
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lowered)] = "text"
    approval_wait_seconds: Annotated[Number, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 15
    """How long a command waits for a person before it ends with exit code 9."""
    retention_days: Annotated[Number, Field(gt=0, le=36_500, allow_inf_nan=False)] = 30
    """How long a finished task's log, blobs and trees are kept."""
    retention_bytes: (
        Annotated[int, BeforeValidator(_no_boolean), Field(ge=1 << 20, le=1 << 50)] | None
    ) = None
    """Of the store and all ended tasks' files; beyond it the oldest go first. None: no bound."""
    retention_audit_days: Annotated[Number, Field(gt=0, le=36_500, allow_inf_nan=False)] = 365
    """How long entries of the audit record are kept."""
    mcp_short_way: bool = True
    """Answer MCP's hot methods without the SDK; off: every message goes through it."""
    mcp_prompts: AbsolutePath | None = None
    """A folder of prompts for MCP clients, beside those that come with the runtime."""
    tasks_max: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=100_000)] = 1000
    """Tasks that the daemon drives at the same time; the others wait, as rows in the store."""
    submitter_tasks_max: (
        Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=100_000)] | None
    ) = None
    """Of one submitter at the same time; None: no bound of its own."""
    pending_tasks_max: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=10_000_000)] = (
        100_000
    )
    """Tasks that may wait for their turn; beyond it the daemon takes no more in."""
    memory_bytes_max: Bytes | None = None
    """Of the daemon itself: above it no more is taken in; None: four fifths of what there is."""
    hibernate_seconds: Annotated[Number, Field(ge=1, le=86_400, allow_inf_nan=False)] = 300
    """How long a task that waits for somebody keeps its worker; sooner if others need its place."""
    setup_egress: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_egress_rules)
    ] = REGISTRIES
    """What a setup may reach whose task does not say; also the most that a repository may say."""
    toolchains: Annotated[tuple[AbsolutePath, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Directories of programs that every sandbox sees, read-only and on PATH."""
    secrets: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_mapped), AfterValidator(_secret_sources)
    ] = {}
    """Names that tasks may ask for, and where each is: env:NAME, file:/path or command:words."""
    modules: Annotated[dict[str, dict[str, str]], NoDecode, BeforeValidator(_module_settings)] = {}
    """What each module is told: names and values are its own."""
    mcp_servers: Annotated[dict[str, Any], NoDecode, BeforeValidator(_mcp_servers)] = {}
    """External MCP servers whose tools agents may use; see `remote_servers`."""
    model: Annotated[str, AfterValidator(_model)] | None = None
    """Who thinks for tasks that name no model."""
    model_fallbacks: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_models)
    ] = ()
    """Models that are tried in this order when the task's does not answer."""
    model_keys: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_mapped), AfterValidator(_secret_sources)
    ] = {}
    """Where a provider's key is, if not in the variable of that name."""
    model_endpoints: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_mapped), AfterValidator(_endpoints)
    ] = {}
    """Addresses of model servers, by the name that stands before the slash of a model's name."""
    model_cache_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=1 << 40)] = 0
    """Room for answers that are given again to exactly the same request; 0: none is kept."""
    artifact_files: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=100_000)] = 1000
    """Files that a task may keep as artifacts."""
    artifact_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=1 << 40)] = (
        256 << 20
    )
    """All artifacts of a task together."""
    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    """Where the daemon listens."""
    port: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0, le=65_535)] = 8700
    """0: a free one."""
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_hosts)
    ] = ()
    """Names beside the loopback ones by which the daemon may be asked, with or without a port."""
    shutdown_seconds: Annotated[Number, Field(gt=0, le=3600, allow_inf_nan=False)] = 20
    """How long each step of the daemon's ending may take."""
    git_credentials: Annotated[
        dict[str, dict[str, str]],
        NoDecode,
        BeforeValidator(_told_of_places),
        BeforeValidator(_git_settings),
        AfterValidator(_git_credentials),
    ] = {}
    """Git hosts, and repositories below them: what opens them, and which forge they are."""
    upload_bytes: Annotated[int, BeforeValidator(_no_boolean), Field(ge=1 << 16, le=1 << 40)] = (
        1 << 30
    )
    """Of one repository that is sent to the daemon."""
    upload_hours: Annotated[Number, Field(gt=0, le=8760, allow_inf_nan=False)] = 24
    """How long a sent repository is kept that no task works on."""
    public_url: Annotated[str, Field(pattern=r"^https?://[!-~]{1,500}$")] | None = None
    """The daemon's address as others know it, for links."""
    webhook_allow: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_egress_rules)
    ] = ()
    """Hosts, addresses and networks that webhooks may lead to beside the public ones."""
    notify: Annotated[dict[str, Any], NoDecode, BeforeValidator(_notify)] = {}
    """Who is told when a task waits or ends; see `notices.targets`."""
    workspace_roots: Annotated[tuple[AbsolutePath, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Directories below which a daemon's tasks may name repositories."""
    behind_proxy: bool = False
    """TLS ends at a proxy before the daemon."""
    proxy_addresses: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_networks)
    ] = ()
    """Of that proxy: who else says `X-Forwarded-For` is not believed."""
    tls_cert: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    tls_client_ca: AbsolutePath | None = None
    """Clients must show a certificate that these have signed."""
    rate_limit: Annotated[Number, Field(ge=0.001, le=1_000_000, allow_inf_nan=False)] | None = 100
    """Requests a second of each key that has no rate of its own; twice as many at once."""
    jwt_issuer: str | None = None
    """Whose JWTs are taken: exactly their `iss`."""
    jwt_audience: str | None = None
    """What their `aud` must name."""
    jwt_jwks: Annotated[str, AfterValidator(_jwks)] | None = None
    """Where the issuer's public keys are: an https:// URL or a file."""
    jwt_algorithms: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_listed), AfterValidator(_algorithms)
    ] = ("RS256", "ES256", "EdDSA", "Ed25519")
    jwt_claim: str = "scope"
    """Where a JWT says what it allows: a claim, or a path with dots."""
    jwt_roles: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_mapped), AfterValidator(_roles)
    ] = {}
    """What that claim may say, and the role that this is here."""
    jwt_leeway_seconds: Annotated[Number, Field(ge=0, le=600, allow_inf_nan=False)] = 30

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, then the files in their order; no .env and no secret files."""
        files = (
            InitSettingsSource(settings_cls, init_kwargs=_read_file(path))
            for path in config_files()
        )
        return (init_settings, env_settings, *files)


def load_settings(flags: Mapping[str, object] | None = None) -> Settings:
    """The settings in force. A flag that is None was not given.

    Raises:
        ConfigError: a file that cannot be read, an unknown key or a wrong value, with its source.
    """
    given: dict[str, Any] = {k: v for k, v in (flags or {}).items() if v is not None}
    try:
        os.getcwd()
    except OSError:
        raise ConfigError("the working directory was removed; change to one that exists") from None
    try:
        return Settings(**given)
    except ValidationError as error:
        texts = [_told(fault, given) for fault in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(texts))) from None


def store_path(settings: Settings) -> str | None:
    """The SQLite store's file; None for another kind of store."""
    store = settings.store
    return store.removeprefix(SQLITE) if store.startswith(SQLITE) else None


def state_dir(settings: Settings) -> str:
    """The store's directory: workspaces, owners and sandbox records lie beside it.

    A store that is no file keeps them in `$XDG_STATE_HOME/agent-runtime`.
    """
    path = store_path(settings) or default_store().removeprefix(SQLITE)
    return os.path.dirname(path)


def mcp_servers(settings: Settings) -> dict[str, RemoteServer]:
    """The external MCP servers: those of the setting, and those that `mcp add` has written.

    Raises:
        ConfigError: the file of `mcp add` cannot be read, or says what no server is.
    """
    added = _added_servers(mcp_servers_path())
    return {**added, **parse_servers(settings.mcp_servers)}


def mcp_servers_path() -> str:
    """The file that `mcp add` writes, in the form that other clients read: `mcpServers`."""
    return os.path.join(os.path.dirname(user_config()), "mcp.json")


def _added_servers(path: str) -> dict[str, RemoteServer]:
    try:
        with open(path, "rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        found = msgspec.json.decode(raw[:BYTES_MAX], type=dict[str, Any]).get("mcpServers", {})
        # Other clients take any name.
        return parse_servers(
            {re.sub(r"[^a-z0-9_]", "_", name.lower()): each for name, each in dict(found).items()}
        )
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def user_config_path() -> str:
    """The user's own settings file, whether it exists or not."""
    return user_config()


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            raw = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        document = load(decode(raw, name=path), name=path)
    except UsageError as error:
        raise ConfigError(str(error)) from None
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}: must hold a mapping, got {shown(document.value)}")
    faults = [f"{path}:{line}: {text}" for _, text, line in document.problems]
    for key in document.value:
        line = document.sources.get((key,), Source(1)).line
        if fault := _key_fault(key, path, document.value[key]):
            faults.append(f"{path}:{line}: {key}: {fault}")
    if faults:
        raise ConfigError("\n".join(faults))
    return document.value


def _key_fault(key: str, path: str, value: object = None) -> str:
    known: Mapping[str, FieldInfo] = Settings.model_fields
    if key not in known:
        if key.replace("-", "_") == "unsafe_no_sandbox":
            return "is a flag only (--unsafe-no-sandbox): a file must not take the sandbox away"
        guess = nearest(key, known)
        hint = f"; did you mean {guess!r}?" if guess else ""
        return f"unknown setting{hint} (known: {', '.join(known)})"
    why = NOT_IN_DIRECTORY.get(key, "")
    if key == "sandbox" and _lowered(value) == "container":
        why = _OPENS
    if why and path != user_config_path():
        return (
            f"{why}, and a file in the working directory may come from anybody: set it "
            f"in {user_config_path()} or as {ENV_PREFIX}{key.upper()}"
        )
    return ""


def _told(fault: Any, flags: Mapping[str, object]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    if fault["type"] == "extra_forbidden":
        return f"flag {name}: {_key_fault(name, '')}"
    said = str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    # A URL may hold a password; who confuses a secret's source with its value, the value.
    hidden = ("store", "secrets", "model", "model_fallbacks", "model_keys", "model_endpoints",
              "git_credentials", "notify", "mcp_servers")  # fmt: skip
    got = "" if name in hidden else f", got {shown(fault['input'])}"
    return f"{_origin(name, flags)}: {said}{got}"


def _origin(name: str, flags: Mapping[str, object]) -> str:
    """Where the value in force was set, as its writer knows it."""
    if name in flags:
        return f"--{name.replace('_', '-')}"
    variables = {variable.upper() for variable, value in os.environ.items() if value}
    if (variable := ENV_PREFIX + name.upper()) in variables:
        return variable
    for path in config_files():
        if name in _read_file(path):
            return f"{path}: {name}"
    return name
