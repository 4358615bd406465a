"""Access to a real daemon: sockets, its store, its log, and keys that another process gives."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwk, jws

from agent_runtime.access import token
from agent_runtime.access.auditor import Auditor
from agent_runtime.access.callers import ROLES, Caller
from agent_runtime.access.desk import Desk
from agent_runtime.access.keys import NewKey
from agent_runtime.api import guard
from agent_runtime.api.tls import tls_context
from agent_runtime.serving import run_daemon
from agent_runtime.settings import Settings
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_access import SqliteAccess

pytestmark = pytest.mark.anyio
_V13 = ["Sec-WebSocket-Version: 13"]
BOSS = Caller("boss", ROLES["admin"], "cli")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Daemon:
    """One that serves, and a desk as another process would have it."""

    port: int
    token: str
    desk: Desk
    access: SqliteAccess

    async def send(self, *lines: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """A request as it is written here; the status, headers and body of what comes back."""
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        with anyio.fail_after(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(head + body)
                raw = await reader.readuntil(b"\r\n\r\n")
                status, *fields = raw.decode("latin-1").strip().split("\r\n")
                headers = {k.lower(): v for k, _, v in (field.partition(": ") for field in fields)}
                length = int(headers.get("content-length", 0))
                return int(status.split()[1]), headers, await reader.readexactly(length)
            finally:
                writer.close()

    async def ask(
        self, line: str, key: str | None, *more: str, body: Any = None, host: str = "localhost"
    ) -> tuple[int, Any]:
        lines = [f"{line} HTTP/1.1", f"Host: {host}", *more]
        if key is not None:
            lines.append(f"Authorization: Bearer {key}")
        data = b"" if body is None else json.dumps(body).encode()
        if data:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        status, _, answer = await self.send(*lines, body=data)
        return status, json.loads(answer) if answer else None


@asynccontextmanager
async def serving(directory: Path, **settings: Any) -> AsyncIterator[Daemon]:
    store_url = f"sqlite:///{directory}/store.db"
    ready = anyio.Event()
    told: list[str] = []

    def on_ready(text: str) -> None:
        told.append(text)
        ready.set()

    async with anyio.create_task_group() as tg:

        async def run() -> None:
            await run_daemon(Settings(store=store_url, port=0, **settings), on_ready=on_ready)

        tg.start_soon(run)
        with anyio.fail_after(30):
            await ready.wait()
        other = await SqliteStore.open(directory / "store.db")
        access = SqliteAccess(other)
        desk = Desk(access, Auditor(access, now_us=lambda: 1), now_us=lambda: 1)
        text = token.read(str(directory))
        assert text is not None
        yield Daemon(int(told[0].rpartition(":")[2]), text, desk, access)
        await other.close()
        signal.raise_signal(signal.SIGTERM)


async def until(condition: Callable[[], Any], *, every_seconds: float = 0.02) -> None:
    with anyio.fail_after(20):
        while not await condition():
            await anyio.sleep(every_seconds)


async def test_keys_are_given_and_taken_back_by_another_process_and_all_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(tmp_path) as daemon:
        for path in ("/livez", "/readyz", "/openapi.json"):
            assert (await daemon.ask(f"GET {path}", None))[0] == 200
        assert (await daemon.ask("GET /v1/tasks", None))[0] == 401

        _, operator = await daemon.desk.make(NewKey(name="ci", role="operator"), caller=BOSS)
        found, viewer = await daemon.desk.make(NewKey(name="eyes", role="viewer"), caller=BOSS)
        task = {"goal": "Say hello"}
        status, made = await daemon.ask("POST /v1/tasks", operator, body=task)
        assert status == 201
        # A key of another role: told which scope is missing, and written down.
        for line, body in (
            ("POST /v1/tasks", task),
            (f"POST /v1/tasks/{made['id']}/cancel", {}),
            (f"POST /v1/approvals/{made['id']}.a/decide", {"decision": "approve"}),
            ("POST /v1/keys", {"name": "mine", "role": "admin"}),
            ("GET /v1/audit", None),
        ):
            status, problem = await daemon.ask(line, viewer, body=body)
            assert status == 403 and problem["type"] == "/problems/forbidden", line
        assert (await daemon.ask("GET /v1/tasks", viewer))[0] == 200
        await daemon.desk.revoke(found.key_id, caller=BOSS)

        async def is_refused() -> bool:
            return (await daemon.ask("GET /v1/tasks", viewer))[0] == 401

        await until(is_refused)

        # Nobody can give away more than they have; what is given is told once.
        limited = NewKey(name="clerk", scopes=("keys:admin", "tasks:read"))
        _, clerk = await daemon.desk.make(limited, caller=BOSS)
        wish = {"name": "too-much", "role": "operator"}
        status, problem = await daemon.ask("POST /v1/keys", clerk, body=wish)
        assert status == 403 and "tasks:write" in problem["detail"]
        status, given = await daemon.ask("POST /v1/keys", clerk, body={**wish, "role": "viewer"})
        assert status == 201
        assert (await daemon.ask("GET /v1/tasks", given["secret"]))[0] == 200
        key_path = f"/v1/keys/{given['key']['id']}"
        _, shown = await daemon.ask(f"GET {key_path}", clerk)
        assert "secret" not in shown and shown["created_by"] == "key:clerk"
        assert (await daemon.ask(f"DELETE {key_path}", clerk))[0] == 204
        assert (await daemon.ask("GET /v1/tasks", given["secret"]))[0] == 401
        assert (await daemon.ask(f"GET {key_path}", clerk))[0] == 404
        _, listed = await daemon.ask("GET /v1/keys?revoked=true", clerk)
        revoked = {key["name"] for key in listed["keys"] if key["revoked_at"]}
        assert revoked == {"eyes", "too-much"}

        await daemon.ask(f"POST /v1/tasks/{made['id']}/cancel", operator, body={"reason": "enough"})
        status, page = await daemon.ask("GET /v1/audit?limit=500", daemon.token)
        assert status == 200 and page["next_cursor"] is None
        did = [(entry["by"], entry["action"], entry["target"]) for entry in page["entries"]]
        assert ("key:ci", "task.submit", made["id"]) in did
        assert ("key:ci", "task.cancel", made["id"]) in did
        assert ("key:clerk", "key.create", given["key"]["id"]) in did
        assert ("key:clerk", "key.revoke", given["key"]["id"]) in did
        told = [entry["detail"] for entry in page["entries"] if entry["by"] == "key:eyes"]
        assert "scope tasks:write" in told and "scope approvals:decide" in told
        assert await daemon.access.audit_fault() is None
        assert page["entries"][-1]["by"] == "cli:boss"

        # A library that prints headers when it debugs would print this key.
        attach = ["GET /v1/tasks/x/attach HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
        attach += ["Upgrade: websocket", f"Sec-WebSocket-Key: {'A' * 22}==", *_V13]
        status, _, _ = await daemon.send(*attach, f"Authorization: Bearer {operator}")
        assert status == 101

        secrets = [operator, viewer, clerk, given["secret"], daemon.token]
        for secret in secrets:
            status, _ = await daemon.ask(f"GET /v1/tasks?key={secret}", operator)
            assert status == 400
    kept = caplog.text.encode()
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != token.NAME:
            kept += file.read_bytes()
    for secret in secrets:
        assert secret.rpartition("_")[2].encode() not in kept


async def test_hostile_requests_are_refused_while_others_are_served(tmp_path: Path) -> None:
    signing = jwk.ECKey.generate_key("P-256", {"kid": "one"}, private=True)
    keys = {"keys": [signing.as_dict(private=False)]}
    (tmp_path / "jwks.json").write_text(json.dumps(keys), encoding="utf-8")
    claims = {"iss": "https://id", "aud": "us", "sub": "alice", "exp": 4_000_000_000, "scope": "r"}
    head = {"alg": "ES256", "kid": "one"}
    alice = jws.serialize_compact(head, json.dumps(claims), signing, ["ES256"])
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    settings = {
        "allowed_hosts": ("agents.example.org",),
        "upload_bytes": 100_000_000,
        "jwt_issuer": "https://id",
        "jwt_audience": "us",
        "jwt_jwks": f"{tmp_path}/jwks.json",
        "jwt_roles": {"r": "viewer"},
    }
    async with serving(tmp_path, **settings) as daemon:
        assert (await daemon.ask("GET /v1/tasks", alice))[0] == 200
        auth = f"Authorization: Bearer {daemon.token}"
        site = "Sec-Fetch-Site: cross-site"
        form = ("Content-Type: text/plain", "Content-Length: 16")
        post = ["POST /v1/tasks HTTP/1.1", "Host: localhost"]
        get = ["GET /v1/tasks HTTP/1.1", "Host: localhost"]
        attach = ["GET /v1/tasks/x/attach HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
        attach += ["Upgrade: websocket", f"Sec-WebSocket-Key: {'A' * 22}==", *_V13]
        large = "Content-Length: 104857600"
        cases: list[tuple[int, list[str], bytes]] = [
            (421, ["GET /v1/tasks HTTP/1.1", "Host: evil.example", auth], b""),
            (421, ["GET /v1/tasks HTTP/1.0", auth], b""),
            (400, [*get, "Host: a", auth], b""),
            (403, [*post, site, auth, *form], b'{"goal": "evil"}'),
            (403, [*post, "Origin: null", auth, *form], b'{"goal": "evil"}'),
            (
                400,
                [*post, auth, "Content-Length: 5", "Transfer-Encoding: chunked"],
                b"0\r\n\r\nGET /v1/keys HTTP/1.1\r\n\r\n",
            ),
            (400, [*post, auth, "Content-Length: 5", "Content-Length: 6"], b"123456"),
            (413, [*post, auth, large], b"x"),
            (401, [*post, large], b"x"),
            (413, ["POST /v1/workspaces HTTP/1.1", "Host: localhost", auth, large], b"x"),
            (401, [*get, f"{auth}x"], b""),
            (401, [*get, f"Authorization: Bearer {alice[:-9]}{'A' * 9}"], b""),
            (401, [*get, f"Authorization: Bearer {unsigned}.{alice.split('.')[1]}."], b""),
            (403, [*post, f"Authorization: Bearer {alice}", *form], b'{"goal": "evil"}'),
            (401, attach, b""),
            (403, [*attach, auth, "Origin: http://evil.example"], b""),
            (400, [*get, auth, auth], b""),
        ]
        for expected, lines, body in cases:
            status, _, _ = await daemon.send(*lines, body=body)
            assert status == expected, lines
            assert (await daemon.ask("GET /v1/tasks", daemon.token))[0] == 200
        asked = daemon.ask("GET /v1/tasks", daemon.token, host="agents.example.org:8700")
        assert (await asked)[0] == 200


async def test_an_open_stream_ends_when_its_key_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LET_IN_SECONDS", 0.1)
    async with serving(tmp_path) as daemon:
        key, text = await daemon.desk.make(NewKey(name="ci", role="operator"), caller=BOSS)
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(
            f"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {text}\r\n\r\n".encode()
        )
        with anyio.fail_after(20):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await daemon.desk.revoke(key.key_id, caller=BOSS)
        ended = anyio.Event()

        async def read() -> None:
            while not (await reader.read(65_536)).endswith(b"0\r\n\r\n"):
                pass
            ended.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(read)

            async def has_ended() -> bool:
                # Each task is something that the stream has to tell.
                await daemon.ask("POST /v1/tasks", daemon.token, body={"goal": "tick"})
                return ended.is_set()

            await until(has_ended, every_seconds=0.1)
        writer.close()


# ---- TLS ---------------------------------------------------------------------------------


def write_certificate(directory: Path, serial: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
    no_password = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(pem, form, no_password))


async def test_new_certificates_are_served_without_a_restart_and_broken_ones_are_not(
    tmp_path: Path,
) -> None:
    write_certificate(tmp_path, 1)
    context = tls_context(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), None)

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    async def serial() -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    assert await serial() == 1
    write_certificate(tmp_path, 2)
    assert await serial() == 2
    (tmp_path / "key.pem").write_text("half", encoding="utf-8")
    assert await serial() == 2
    write_certificate(tmp_path, 3)
    assert await serial() == 3
    server.close()
