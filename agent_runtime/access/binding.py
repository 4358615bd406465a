"""Where a server may listen: alone on this machine, or with its words covered by TLS.

Credentials are always asked for; there is no way to leave them out.
"""

from __future__ import annotations

from ipaddress import ip_address

from agent_runtime.errors import ConfigError
from agent_runtime.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name other than localhost may be anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(host: str, settings: Settings) -> None:
    """Refuse to listen where keys would be read on the way, or nobody would be answered.

    Raises:
        ConfigError: says what is missing.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("tls_cert and tls_key belong together: name both files, or none")
    if settings.tls_client_ca is not None and settings.tls_cert is None:
        raise ConfigError("tls_client_ca needs TLS: name tls_cert and tls_key, too")
    if settings.proxy_addresses and not settings.behind_proxy:
        raise ConfigError("proxy_addresses count only behind a proxy: set behind_proxy, too")
    if is_loopback(host):
        return
    if settings.tls_cert is None and not settings.behind_proxy:
        raise ConfigError(
            f"{host!r} can be reached from other machines, and keys would go there in clear"
            " text: name tls_cert and tls_key, or put a proxy with TLS before the server"
            " (--behind-proxy), or listen on 127.0.0.1"
        )
    # Behind a proxy it may be asked by a loopback name: a container whose port is published here.
    if not settings.allowed_hosts and not settings.behind_proxy:
        raise ConfigError(
            f"on {host!r} the server must know the names that it is asked by: set allowed_hosts,"
            " such as agents.example.org"
        )
