"""Which host, port and address a task's sandbox may reach: the rules of `policy.egress`. Pure.

A connection is looked at twice: by what the client asked for (`Rules.refuse_target`), then by the
address that the name resolved to (`Rules.refuse_address`). Both must pass, and the connection goes
to the very address that was looked at. The proxy that does so is `sandboxes.egress`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
NetworkMode = Literal["none", "restricted", "full"]

HTTPS_PORT: Final = 443
DEFAULT_PORTS: Final = (80, HTTPS_PORT)
"""Of a rule that names no port."""
HOST_CHARS_MAX: Final = 253
RULES_SHOWN_MAX: Final = 20

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")

METADATA: Final = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # credentials of AWS ECS tasks
        "169.254.170.23",  # AWS EKS pod identity
        "fd00:ec2::254",
        "fd00:ec2::23",
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's, and it looks public
        "192.0.0.192",  # Oracle
    )
)
"""Where clouds hand out credentials: reached only if the address itself is named, as no network."""
_NAT64: Final = ip_network("64:ff9b::/96")
_NOT_PUBLIC_EITHER: Final = (
    ip_network("fec0::/10"),  # site-local: given up in 2004, and still routed here and there
    ip_network("3fff::/20"),  # documentation
)
"""What the standard library takes for public addresses."""
_IPV4_COMPATIBLE: Final = ip_network("::/96")


class BadHost(ValueError):
    """A host or a port that is none; says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `policy.egress`. Exactly one of `name`, `suffix` and `network` is set."""

    text: str
    ports: tuple[int, ...]
    name: str = ""
    suffix: str = ""
    """With its leading dot: `.example.org` of `*.example.org`."""
    network: Network | None = None

    def names(self, host: str, port: int) -> bool:
        """Is this normalised name with this port meant?"""
        meant = host == self.name if self.name else bool(self.suffix) and host.endswith(self.suffix)
        return meant and port in self.ports

    def covers(self, address: Address, port: int) -> bool:
        """Is this address with this port meant? A cloud's metadata only if named by itself."""
        network = self.network
        if network is None or port not in self.ports or address not in network:
            return False
        return network.num_addresses == 1 or not _is_metadata(address)


@dataclass(frozen=True, slots=True)
class Rules:
    """What one sandbox may reach. `full` is every public address, and what `rules` add."""

    mode: NetworkMode
    rules: tuple[Rule, ...] = ()
    place: str = "policy.egress of the task"
    """Where the rules are written, for whoever is refused."""

    def refuse_target(self, host: str, port: int) -> str | None:
        """Why a normalised host (see `host_of`) may not be asked for; None if it may."""
        address = address_of(host)
        if address is not None:
            if any(rule.covers(address, port) for rule in self.rules):
                return None
            if self.mode == "full":
                return None if is_public(address) else _not_public(address)
            return "an address is reached only if a rule names it, and none names this one"
        if self.mode == "full" or any(rule.names(host, port) for rule in self.rules):
            return None
        other = sorted({p for rule in self.rules for p in rule.ports if rule.names(host, p)})
        if other:
            return f"the host is allowed with port {_listed(other)} only"
        return "no rule names this host"

    def refuse_address(self, address: Address, port: int, *, is_own: bool = False) -> str | None:
        """Why what a name resolved to may not be dialled; None if it may.

        `is_own` says that it is an address of this very machine, which counts as loopback.
        """
        if any(rule.covers(address, port) for rule in self.rules):
            return None
        if is_own:
            return f"it leads to {address}, an address of the machine that the sandbox runs on"
        return None if is_public(address) else _not_public(address)

    def refuse_server_name(self, asked: str, port: int, name: str) -> str | None:
        """Why a TLS server of this name may not be asked for behind `asked`; None if it may.

        Behind one address of a content network are many hosts: the name decides which it is.
        """
        if not name or name == asked:
            return None
        why = self.refuse_target(name, port)
        return why and f"inside the tunnel TLS asks for another server, {name!r}: {why}"

    def refuse_plain(self, host: str, port: int) -> str | None:
        """Why a tunnel may carry something else than TLS only elsewhere; None if it may here.

        On port 443 everybody expects TLS, and only TLS tells for whom it is: a rule that names the
        port itself is for those who know better (SSH on port 443, say).
        """
        if port != HTTPS_PORT or self.mode == "full":
            return None
        address = address_of(host)
        for rule in self.rules:
            meant = rule.names(host, port) if address is None else rule.covers(address, port)
            if meant and rule.ports == (port,):
                return None
        return "a tunnel to port 443 carries TLS, unless a rule names the host with this port"

    def way_out(self, host: str, port: int, address: Address | None = None) -> str:
        """What to write, and where, so that it may."""
        wanted: list[str] = []
        if address is None or address_of(host) is not None:
            wanted.append(_written(host, port))
        if address is not None and address_of(host) is None:
            wanted.append(_written(str(address), port))
        rules = " and ".join(repr(rule) for rule in wanted)
        return f"add {rules} to {self.place}, if it is to be reached"

    def shown(self) -> str:
        """The rules in one line, for people."""
        texts = [rule.text for rule in self.rules[:RULES_SHOWN_MAX]]
        if len(self.rules) > RULES_SHOWN_MAX:
            texts.append(f"and {len(self.rules) - RULES_SHOWN_MAX} more")
        if self.mode == "full":
            texts.insert(0, "every public address")
        return ", ".join(texts) or "none"


def parse_rules(
    mode: NetworkMode, texts: Sequence[str], *, place: str = "policy.egress of the task"
) -> Rules:
    """The rules of a task, or of `place`. Raises `BadHost`, naming the first that is none."""
    rules = []
    for text in texts:
        try:
            rules.append(parse_rule(text))
        except BadHost as error:
            raise BadHost(f"the rule {text!r} {error}") from None
    return Rules(mode, tuple(rules), place)


def parse_rule(text: str) -> Rule:
    """`host`, `*.suffix`, an address or a network, each with `:port` or without.

    Raises:
        BadHost: it is none of these; says what would be.
    """
    if "://" in text or "@" in text:
        raise BadHost("is a host with an optional port, without scheme, user or path")
    host, port = _split(text)
    ports = DEFAULT_PORTS if port is None else (port,)
    if host == "*":
        raise BadHost("would be every host; say network: full")
    network = _network(host)
    if network is not None:
        return Rule(text, ports, network=network)
    if host.startswith("*."):
        return Rule(text, ports, suffix="." + _name(host[2:]))
    if "*" in host:
        raise BadHost("may have a * only as its first label: *.example.org")
    if "/" in host:
        raise BadHost(
            "is a host or a network such as 10.1.2.0/24 (all bits behind the prefix 0), with an "
            "optional port and no path"
        )
    return Rule(text, ports, name=_name(host))


def target_of(authority: str, *, default_port: int | None = None) -> tuple[str, int]:
    """Host and port of a request, the host normalised: what the rules are asked about.

    Raises:
        BadHost: it is none, or could be read in two ways; says why.
    """
    if "@" in authority:
        raise BadHost("a user or password in the address is refused")
    host, port = _split(authority)
    if port is None:
        port = default_port
    if port is None:
        raise BadHost("the port is missing")
    return host_of(host), port


def host_of(host: str) -> str:
    """A host in its one written form: lower case, no trailing dot, an address as Python prints it.

    Raises:
        BadHost: it is neither a name nor an address.
    """
    if "%" in host:
        raise BadHost("an address with a zone is refused")
    address = address_of(host.removeprefix("[").removesuffix("]") if host[:1] == "[" else host)
    return str(address) if address is not None else _name(host)


def address_of(host: str) -> Address | None:
    """The address that a host is written as, `::ffff:1.2.3.4` as IPv4; None: it is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_public(address: Address) -> bool:
    """Is it an address of the public internet, whichever way it is written or embedded?"""
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    if address in METADATA or address.is_multicast or address.is_reserved:
        return False
    return address.is_global and not any(address in network for network in _NOT_PUBLIC_EITHER)


def _is_metadata(address: Address) -> bool:
    embedded = _embedded(address)
    return address in METADATA or (embedded is not None and embedded in METADATA)


def _embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that a gateway or the kernel would take it for."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or address in _IPV4_COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _not_public(address: Address) -> str:
    if _is_metadata(address):
        return (
            f"{address} is where a cloud hands out credentials; only a rule for it alone allows it"
        )
    return f"{address} is no public address, and no rule names it or its network"


# ---- reading -----------------------------------------------------------------------------


def _split(text: str) -> tuple[str, int | None]:
    """Host and port; brackets around an IPv6 address are taken off, a bare one has no port."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise BadHost("has brackets, which only an IPv6 address has: [2001:db8::1]:443")
        return host, _port(rest[1:]) if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, _port(port) if colon else None


def _port(text: str) -> int:
    if not _PORT.match(text) or not 0 < int(text) < 65536:
        raise BadHost("has a port that is no number from 1 to 65535")
    return int(text)


def _network(host: str) -> Network | None:
    try:
        network = ip_network(host)
    except ValueError:
        return None
    return network


def _name(host: str) -> str:
    if not host.isascii():
        raise BadHost(f"must be written in ASCII{_suggested(host)}")
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if not name or len(name) > HOST_CHARS_MAX or not all(_LABEL.match(label) for label in labels):
        raise BadHost("is no name of a host")
    if _NUMBER.match(labels[-1]):
        # Resolvers take 127.1, 0x7f.1 and 2130706433 for addresses: no name ends in a number.
        raise BadHost("looks like an address, but is none in its usual form")
    return name


def _suggested(host: str) -> str:
    try:
        return f": {host.lower().encode('idna').decode()}"
    except UnicodeError:
        return " (xn--…)"


def _written(host: str, port: int) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port in DEFAULT_PORTS else f"{host}:{port}"


def _listed(ports: Sequence[int]) -> str:
    return " and ".join(str(port) for port in ports)
