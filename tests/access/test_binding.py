"""Where the daemon may listen. A peer's open server on loopback became CVE-2026-22812."""

from __future__ import annotations

from typing import Any

import pytest

from agent_runtime.access.binding import check_bind
from agent_runtime.errors import ConfigError
from agent_runtime.settings import Settings

TLS = {"tls_cert": "/c.pem", "tls_key": "/k.pem"}
PROXY: dict[str, Any] = {"behind_proxy": True, "proxy_addresses": ["10.0.0.0/8"]}
NAMED: dict[str, Any] = {"allowed_hosts": ["agents.example.org"]}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_nothing(host: str) -> None:
    check_bind(host, Settings())


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "agents.example.org", "127.0.0.1.x"]
)
@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, "tls_cert"),
        (NAMED, "--behind-proxy"),
        (TLS, "allowed_hosts"),
        ({**TLS, "allowed_hosts": []}, "allowed_hosts"),
        ({"behind_proxy": True}, None),
        ({**NAMED, "tls_cert": "/c.pem"}, "tls_key"),
        ({**TLS, **NAMED}, None),
        ({**PROXY, **NAMED}, None),
    ],
)
def test_other_machines_need_tls_or_a_proxy_and_a_name(
    host: str, settings: dict[str, Any], missing: str | None
) -> None:
    if missing is None:
        check_bind(host, Settings(**settings))
    else:
        with pytest.raises(ConfigError, match=missing):
            check_bind(host, Settings(**settings))


def test_addresses_of_proxies_without_a_proxy_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="behind_proxy"):
        check_bind("127.0.0.1", Settings(proxy_addresses=("10.0.0.1",)))
