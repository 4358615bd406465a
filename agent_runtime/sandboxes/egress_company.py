"""The company's own proxy and certificates, from the daemon's environment. Pure.

Read are the variables that curl, pip and git read: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
`NO_PROXY` (lower case first, as curl does), `SSL_CERT_FILE` and its like. What the sandbox gets is
in `sandbox_variables`; a password in a proxy's address never gets there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

from agent_runtime.egress_rules import address_of

PORT: Final = 13128
"""Where the relay listens inside, on 127.0.0.1: the sandbox's own network has nobody else."""
NO_PROXY: Final = "localhost,127.0.0.1,::1"
_CA_BUNDLES: Final = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
)  # fmt: skip
_CA_NAMES: Final = (*_CA_BUNDLES, "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "npm_config_cafile")


class BadProxy(ValueError):
    """A variable names a proxy that cannot be used; says which and why, without its password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One upstream proxy. `authorization` is a header's value, or empty."""

    host: str
    port: int
    authorization: str = ""

    @property
    def shown(self) -> str:
        """For people and records."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Company:
    """What the daemon's environment says about the way out."""

    tunnel: Proxy | None = None
    """For CONNECT."""
    plain: Proxy | None = None
    """For http://."""
    exceptions: tuple[str, ...] = ()
    """`NO_PROXY`: reached directly."""
    ca_bundle: str = ""
    """A file with every certificate to trust."""
    ca_extra: str = ""
    """A file with more of them, for Node only."""

    def proxy_for(self, host: str, *, is_tunnel: bool) -> Proxy | None:
        """The proxy to go through; None: directly. This machine is always reached directly."""
        proxy = self.tunnel if is_tunnel else self.plain
        address = address_of(host)
        if proxy is None or (address is not None and address.is_loopback):
            return None
        return None if any(_excepted(host, entry) for entry in self.exceptions) else proxy


def company(environ: Mapping[str, str]) -> Company:
    """Read the environment. Raises `BadProxy`."""
    every = _proxy(environ, "all_proxy")
    exceptions = _value(environ, "no_proxy").split(",")
    return Company(
        tunnel=_proxy(environ, "https_proxy") or every,
        plain=_proxy(environ, "http_proxy") or every,
        exceptions=tuple(text for entry in exceptions if (text := entry.strip().lower())),
        ca_bundle=next((environ[name] for name in _CA_BUNDLES if environ.get(name)), ""),
        ca_extra=environ.get("NODE_EXTRA_CA_CERTS", ""),
    )


def sandbox_variables(
    *, ca_bundle: str, ca_extra: str, relay: str = f"http://127.0.0.1:{PORT}"
) -> dict[str, str]:
    """What programs in the sandbox are told; the files are paths inside, empty for none."""
    variables = {
        # Node reads the proxy variables only if it is told to (from version 24 on).
        "NODE_USE_ENV_PROXY": "1",
        # Nobody is there to type a password, and what pip and npm look up on the side is refused.
        "GIT_TERMINAL_PROMPT": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "npm_config_update_notifier": "false",
        "YARN_HTTP_PROXY": relay,
        "YARN_HTTPS_PROXY": relay,
    }
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        variables |= {name: relay, name.upper(): relay}
    variables |= {"no_proxy": NO_PROXY, "NO_PROXY": NO_PROXY}
    if ca_bundle:
        variables |= dict.fromkeys(_CA_NAMES, ca_bundle)
    if ca_extra or ca_bundle:
        variables["NODE_EXTRA_CA_CERTS"] = ca_extra or ca_bundle
    return variables


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _proxy(environ: Mapping[str, str], name: str) -> Proxy | None:
    text = _value(environ, name).strip()
    if not text:
        return None
    shown = name.upper()
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port or 80
    except ValueError as error:
        raise BadProxy(f"{shown} in the environment is no address of a proxy: {error}") from None
    if url.scheme != "http" or not host:
        raise BadProxy(
            f"{shown} in the environment names a proxy of the kind {url.scheme!r}; this version "
            "goes out through http:// proxies only. Name one, or unset the variable"
        )
    authorization = ""
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        if re.search(r"[\r\n\x00]", pair):
            raise BadProxy(f"{shown} in the environment has a control character in its user")
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(host, port, authorization)


def _excepted(host: str, entry: str) -> bool:
    """Does an entry of NO_PROXY mean this host? Names mean everything below them, too."""
    if entry == "*":
        return True
    address = address_of(host)
    if address is not None:
        try:
            return address in ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            return False
    name = entry.removeprefix("*").removeprefix(".").split(":")[0]
    return bool(name) and (host == name or host.endswith(f".{name}"))
