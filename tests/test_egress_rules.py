"""The rules of `policy.egress`: what is asked for, and what it resolves to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent_runtime.egress_rules import BadHost, NetworkMode, parse_rule, parse_rules, target_of


def asks(rules: list[str], authority: str, mode: NetworkMode = "restricted") -> str | None:
    host, port = target_of(authority)
    return parse_rules(mode, rules).refuse_target(host, port)


@pytest.mark.parametrize(
    ("rule", "authority"),
    [
        ("pypi.org", "pypi.org:443"),
        ("pypi.org", "pypi.org:80"),
        ("pypi.org", "PyPI.ORG:443"),
        ("pypi.org", "pypi.org.:443"),
        ("PyPI.org.", "pypi.org:443"),
        ("pypi.org:8443", "pypi.org:8443"),
        ("*.pypi.org", "a.pypi.org:443"),
        ("*.pypi.org", "a.b.pypi.org:443"),
        ("xn--bcher-kva.example", "XN--bcher-kva.example:443"),
        ("10.1.2.3", "10.1.2.3:80"),
        ("10.1.2.3:8080", "10.1.2.3:8080"),
        ("10.0.0.0/8:8080", "10.1.2.3:8080"),
        ("[fd00::1]:8080", "[fd00:0::1]:8080"),
        ("fd00::/16", "[fd00::1]:443"),
        ("127.0.0.1:81", "[::ffff:127.0.0.1]:81"),
        ("169.254.169.254", "169.254.169.254:80"),
    ],
)
def test_what_a_rule_names_is_allowed(rule: str, authority: str) -> None:
    """One written form of a host: case, a last dot and an address's spelling do not matter."""
    assert asks([rule], authority) is None


@pytest.mark.parametrize(
    ("rule", "authority", "why"),
    [
        ("pypi.org", "evil-pypi.org:443", "no rule names this host"),
        ("pypi.org", "pypi.org.evil.com:443", "no rule names this host"),
        ("pypi.org", "a.pypi.org:443", "no rule names this host"),
        ("*.pypi.org", "pypi.org:443", "no rule names this host"),
        ("*.pypi.org", "evilpypi.org:443", "no rule names this host"),
        ("pypi.org", "pypi.org:22", "the host is allowed with port 80 and 443 only"),
        ("pypi.org:8443", "pypi.org:443", "the host is allowed with port 8443 only"),
        ("pypi.org", "93.184.215.14:443", "an address is reached only if a rule names it"),
        ("10.0.0.0/8", "11.0.0.1:443", "an address is reached only if a rule names it"),
        ("10.0.0.0/8", "10.0.0.1:22", "an address is reached only if a rule names it"),
        ("169.254.0.0/16", "169.254.169.254:80", "an address is reached only if a rule names it"),
        ("::/0", "[64:ff9b::a9fe:a9fe]:80", "an address is reached only if a rule names it"),
    ],
)
def test_what_no_rule_names_is_refused(rule: str, authority: str, why: str) -> None:
    """Suffix tricks, other ports, addresses, and credentials behind a wide network."""
    assert (asks([rule], authority) or "").startswith(why)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
        "169.254.1.1", "169.254.169.254", "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1",
        "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::", "fd00:ec2::254", "192.0.2.1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["restricted", "full"])
def test_a_name_that_leads_to_a_private_address_is_refused(mode: NetworkMode, address: str) -> None:
    """A name is the attacker's to point anywhere; also an address that embeds another."""
    rules = parse_rules(mode, ["pypi.org"])
    assert rules.refuse_address(ip_address(address), 443) is not None


@pytest.mark.parametrize("address", ["151.101.0.223", "2a04:4e42::223", "64:ff9b::9765:df"])
def test_a_public_address_is_dialled(address: str) -> None:
    """The last one is 151.101.0.223 behind a NAT64 gateway."""
    assert parse_rules("restricted", ["pypi.org"]).refuse_address(ip_address(address), 443) is None


def test_a_private_mirror_needs_its_name_and_its_network() -> None:
    rules = parse_rules("restricted", ["mirror.corp:8080", "10.1.2.0/24:8080"])
    assert rules.refuse_target("mirror.corp", 8080) is None
    assert rules.refuse_address(ip_address("10.1.2.9"), 8080) is None
    assert rules.refuse_address(ip_address("10.1.3.9"), 8080) is not None
    assert rules.refuse_address(ip_address("10.1.2.9"), 443) is not None


def test_a_public_address_of_this_machine_counts_as_loopback() -> None:
    rules = parse_rules("full", [])
    assert rules.refuse_address(ip_address("151.101.0.223"), 443) is None
    assert "the machine" in (
        rules.refuse_address(ip_address("151.101.0.223"), 443, is_own=True) or ""
    )


def test_full_is_every_public_host_and_port_and_no_private_one() -> None:
    assert asks([], "example.org:22", "full") is None
    assert asks([], "151.101.0.223:22", "full") is None
    assert asks([], "10.0.0.1:80", "full") is not None
    assert asks(["10.0.0.1"], "10.0.0.1:80", "full") is None


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("", "is no name of a host"),
        ("*", "would be every host; say network: full"),
        ("a.*.org", "may have a * only as its first label"),
        ("https://pypi.org", "is a host with an optional port, without scheme"),
        ("me@pypi.org", "is a host with an optional port, without scheme"),
        ("pypi.org/simple", "is a host or a network such as 10.1.2.0/24"),
        ("10.1.2.3/8", "is a host or a network such as 10.1.2.0/24"),
        ("pypi.org:0", "has a port that is no number from 1 to 65535"),
        ("pypi.org:", "has a port that is no number from 1 to 65535"),
        ("pypi.org:65536", "has a port that is no number from 1 to 65535"),
        ("[pypi.org]:80", "has brackets, which only an IPv6 address has"),
        ("bücher.example", "must be written in ASCII: xn--bcher-kva.example"),
        ("127.1", "looks like an address, but is none in its usual form"),
        ("pypi..org", "is no name of a host"),
        ("-a.org", "is no name of a host"),
    ],
)
def test_a_rule_that_is_none_says_what_is_wrong(rule: str, problem: str) -> None:
    with pytest.raises(BadHost) as caught:
        parse_rule(rule)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "authority",
    [
        "a@pypi.org:443", "pypi.org@evil.org:443", "pypi.org", "pypi.org:http", "2130706433:80",
        "0x7f000001:80", "0x7f.1:80", "127.1:80", "0177.0.0.1:80", "127.0.0.1.:80", "1.2.3.4.5:80",
        "[fe80::1%25eth0]:80", "[::1:80", "pypi.org\u3002:443", "p\u0443pi.org:443",
        "a b.org:443", "a/b:443", "pypi.org:+443", "pypi.org:4 43", ":443", "pypi.org\\.evil:443",
    ],
)  # fmt: skip
def test_a_target_that_could_be_read_in_two_ways_is_none(authority: str) -> None:
    with pytest.raises(BadHost):
        target_of(authority)
