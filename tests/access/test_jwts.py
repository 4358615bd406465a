"""JWTs of an issuer: what counts, what it allows, and what an attacker may write into one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from joserfc import jwk, jws
from joserfc.errors import SecurityWarning

from agent_runtime.access.callers import ROLES, Caller
from agent_runtime.access.gate import Refused
from agent_runtime.access.jwks import AGAIN_SECONDS, FRESH_SECONDS, IssuerUnavailable, Jwks
from agent_runtime.access.jwks import fetch_from as fetched_from
from agent_runtime.access.jwts import JwtVerifier, Rules
from tests.api.asking import Place

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
RULES = Rules(
    issuer="https://id.example.org",
    audience="agent-runtime",
    roles={"team-agents": "operator", "leads": "admin"},
)
EC = jwk.ECKey.generate_key("P-256", {"kid": "one"}, private=True)
OTHER = jwk.ECKey.generate_key("P-256", {"kid": "two"}, private=True)


def public(*keys: jwk.ECKey | jwk.OKPKey) -> dict[str, Any]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


class Issuer:
    """Serves its public keys, and counts how often it is asked."""

    def __init__(self, *keys: jwk.ECKey) -> None:
        self.document: Any = public(*keys)
        self.asked = 0
        self.is_away = False
        self.now = 100.0
        self.keys = Jwks(self.fetch, monotonic=lambda: self.now)
        self.verifier = JwtVerifier(RULES, self.keys)

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.is_away:
            raise IssuerUnavailable("away")
        return json.dumps(self.document).encode()


def token(key: Any = EC, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    said = {
        "iss": RULES.issuer,
        "aud": RULES.audience,
        "sub": "alice@example.org",
        "exp": NOW + 600,
        "scope": "openid tasks:read",
        **claims,
    }
    said = {name: value for name, value in said.items() if value is not None}
    head = {"alg": "ES256", "kid": "one", **(header or {})}
    head = {name: value for name, value in head.items() if value is not None}
    with warnings.catch_warnings(category=SecurityWarning, action="ignore"):
        return jws.serialize_compact(head, json.dumps(said), key, algorithms=[head["alg"]])


async def refused(text: str, issuer: Issuer | None = None) -> str:
    with pytest.raises(Refused) as caught:
        await (issuer or Issuer(EC)).verifier.verify(text, NOW * 1_000_000)
    assert text not in str(caught.value)
    return str(caught.value)


async def test_a_signed_token_becomes_a_caller_until_it_expires() -> None:
    caller, until_us = await Issuer(EC).verifier.verify(token(), NOW * 1_000_000)
    assert caller == Caller("alice@example.org", frozenset({"tasks:read"}), "jwt")
    assert until_us == (NOW + 630) * 1_000_000
    _, until_us = await Issuer(EC).verifier.verify(token(exp=NOW + 99_999), NOW * 1_000_000)
    assert until_us == int(NOW + FRESH_SECONDS) * 1_000_000  # the issuer may take its key back


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": ["team-agents", 7, None]}, ROLES["operator"]),
        ({"scope": "leads"}, ROLES["admin"]),
        ({"scope": "admin operator root"}, frozenset()),
        ({"scope": {"admin": True}}, frozenset()),
        ({"scope": None}, frozenset()),
        (
            {"scope": "tasks:read team-agents approvals:decide"},
            ROLES["operator"] | ROLES["approver"],
        ),
    ],
)
async def test_claims_allow_what_the_settings_say(claims: Any, scopes: frozenset[str]) -> None:
    caller, _ = await Issuer(EC).verifier.verify(token(**claims), NOW * 1_000_000)
    assert caller.scopes == scopes


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://id.example.org/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "somebody"}, "another audience"),
        ({"aud": ["a", "b"]}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"exp": None}, "does not expire"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": "never"}, "no number"),
        ({"exp": True}, "no number"),
        ({"exp": 1e300}, "no moment"),
        ({"nbf": NOW + 31}, "not valid yet"),
        ({"iat": NOW + 31}, "not valid yet"),
        ({"sub": None}, "no subject"),
        ({"sub": ""}, "no subject"),
        ({"sub": "a\nb"}, "no subject"),
        ({"sub": "x" * 201}, "no subject"),
    ],
)
async def test_claims_that_do_not_fit_are_refused(claims: Any, why: str) -> None:
    assert why in await refused(token(**claims))


async def test_clocks_may_differ_by_the_leeway() -> None:
    text = token(exp=NOW - 29, nbf=NOW + 29, aud=["x", "agent-runtime"])
    await Issuer(EC).verifier.verify(text, NOW * 1_000_000)


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any, signature: bytes = b"") -> str:
    claims = {"iss": RULES.issuer, "aud": RULES.audience, "sub": "eve", "exp": NOW + 600}
    return f"{part(header)}.{part(claims)}.{part(signature)}"


async def test_algorithms_cannot_be_talked_into() -> None:
    """`none`, and a symmetric signature with the public key as its secret."""
    for name in ("none", "None", "NONE", "HS256", "ES256K", "", None, 7, ["ES256"]):
        assert "signed by one of" in await refused(forged({"alg": name, "kid": "one"}))
    pem = EC.as_pem(private=False)
    for secret in (pem, pem.strip(), json.dumps(public(EC)["keys"][0]).encode()):
        head = {"alg": "HS256", "kid": "one", "typ": "JWT"}
        signed = forged(head).rpartition(".")[0]
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        assert "signed by one of" in await refused(f"{signed}.{part(mac)}")


async def test_a_key_in_the_token_itself_is_no_key() -> None:
    """`jwk`, `jku` and `x5c` in the header are the attacker's."""
    for more in ({"jwk": OTHER.as_dict(private=False)}, {"jku": "https://evil.example/jwks"}):
        assert "signature" in await refused(token(OTHER, header=more))
    assert "header" in await refused(forged({"alg": "ES256", "kid": "one", "crit": ["exp"]}))
    assert await refused(forged({"alg": "ES256", "kid": "one", "b64": False, "crit": ["b64"]}))
    assert "for access" in await refused(token(header={"typ": "logout+jwt"}))


async def test_what_was_changed_or_cut_is_refused() -> None:
    good = token()
    head, _, signature = good.split(".")
    other = forged({}).split(".")[1]
    for text in (f"{head}.{other}.{signature}", f"{head}.{other}.", good + "A", good[:-4] + "AAAA"):
        assert "signature" in await refused(text)
    for text in ("a.b.c", "..", good.rpartition(".")[0], "x" * 9_000, f"{part(b'[]')}.e30.e30"):
        assert await refused(text)


async def test_shared_and_private_keys_in_a_set_are_not_used() -> None:
    """A set that holds a secret must not make that secret count."""
    issuer = Issuer()
    octets = jwk.OctKey.import_key(b"s" * 32, {"kid": "one", "alg": "ES256"})
    issuer.document = {"keys": [octets.as_dict(private=True), 7, {}, {"kty": "EC"}]}
    assert "signature" in await refused(token(), issuer)
    issuer = Issuer()
    issuer.document = {"keys": [EC.as_dict(private=True) | {"use": "enc"}]}
    assert "signature" in await refused(token(), issuer)
    issuer = Issuer()
    issuer.document = {"keys": [EC.as_dict(private=True)]}
    caller, _ = await issuer.verifier.verify(token(), NOW * 1_000_000)
    assert caller.subject == "alice@example.org"


async def test_new_keys_of_the_issuer_are_found_and_strangers_cannot_make_it_be_asked() -> None:
    issuer = Issuer(EC)
    await issuer.verifier.verify(token(), NOW * 1_000_000)
    await issuer.verifier.verify(token(header={"kid": None}), NOW * 1_000_000)
    assert issuer.asked == 1
    for number in range(50):
        assert "signature" in await refused(token(header={"kid": f"junk{number}"}), issuer)
    assert issuer.asked == 1  # it was asked a moment ago
    issuer.document = public(OTHER)
    issuer.now += AGAIN_SECONDS
    rotated = token(OTHER, header={"kid": "two"})
    await issuer.verifier.verify(rotated, NOW * 1_000_000)
    assert issuer.asked == 2
    assert "signature" in await refused(token(), issuer)  # what the issuer took back
    issuer.now += FRESH_SECONDS + 1
    issuer.is_away = True
    await issuer.verifier.verify(rotated, NOW * 1_000_000)  # known keys count while it is away
    assert issuer.asked == 3


async def test_without_any_key_nobody_can_say() -> None:
    issuer = Issuer(EC)
    issuer.is_away = True
    place = Place(jwts=issuer.verifier)
    place.now = float(NOW)
    assert (await place.ask(key=token())).status == 503
    issuer.is_away, issuer.now = False, issuer.now + AGAIN_SECONDS
    assert [(await place.ask(key=token())).status for _ in range(2)] == [200, 200]
    assert place.callers[0].how == "jwt"


async def test_a_token_is_verified_once_and_not_believed_longer_than_it_says() -> None:
    issuer = Issuer(EC)
    place = Place(jwts=issuer.verifier, rate=1)
    place.now, text = float(NOW), token(exp=NOW + 10)
    assert (await place.ask(key=text)).status == 200
    issuer.document, issuer.keys._keys = public(OTHER), []
    assert (await place.ask(key=text)).status == 200  # not verified again
    # Another token of the same subject is no way around the rate.
    issuer.document, issuer.now = public(EC), issuer.now + AGAIN_SECONDS
    assert (await place.ask(key=token(exp=NOW + 11))).status == 429
    place.now += 41
    assert "expired" in (await place.ask(key=text)).problem["detail"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    keys = Jwks(fetched_from(str(file)), monotonic=lambda: 100.0)
    with pytest.raises(IssuerUnavailable):
        await keys.find("one", "ES256")
    edwards = jwk.OKPKey.generate_key("Ed25519", {"kid": "ed"}, private=True)
    file.write_text(json.dumps(public(edwards)), encoding="utf-8")
    verifier = JwtVerifier(RULES, Jwks(fetched_from(str(file)), monotonic=lambda: 100.0))
    for name in ("EdDSA", "Ed25519"):
        text = token(edwards, header={"alg": name, "kid": "ed"})
        caller, _ = await verifier.verify(text, NOW * 1_000_000)
        assert caller.subject == "alice@example.org"


class Server:
    """Answers every request with what it is given."""

    def __init__(self, status: str, body: bytes) -> None:
        self._answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode()
        self._answer += b"Location: /elsewhere\r\nConnection: close\r\n\r\n" + body

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            with suppress(anyio.BrokenResourceError):  # who has read enough, goes
                await stream.send(self._answer)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        ("200 OK", json.dumps(public(EC)).encode(), ""),
        ("404 Not Found", b"", "answered 404"),
        ("302 Found", b"", "answered 302"),
        ("200 OK", b"x" * (2 << 20), "more than 1 MiB"),
    ],
)
async def test_keys_come_from_a_url_and_from_there_only(
    status: str, body: bytes, told: str
) -> None:
    """A redirection would let somebody else say whose signatures count."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, Server(status, body).serve)
        fetch = fetched_from(f"http://127.0.0.1:{port}/jwks")
        if told:
            with pytest.raises(IssuerUnavailable, match=told):
                await fetch()
        else:
            assert await fetch() == body
        tg.cancel_scope.cancel()
