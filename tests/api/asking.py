"""Asking a guard by hand: an ASGI scope in, a status and a problem out."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from agent_runtime.access.auditor import Auditor
from agent_runtime.access.callers import Caller
from agent_runtime.access.gate import Gate, Verifier
from agent_runtime.access.keys import NewKey, digest, make
from agent_runtime.access.ports import AccessStore
from agent_runtime.api.answers import Message, Receive, Scope, Send
from agent_runtime.api.guard import Guard
from agent_runtime.stores.memory_access import MemoryAccess

TOKEN = "ark_local_" + "t" * 43
HOST = (b"host", b"127.0.0.1:8700")


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status and found["title"] and found["detail"]
        return found


class Place:
    """A guard before an application that says who called, with clocks that stand still."""

    def __init__(
        self,
        *,
        store: AccessStore | None = None,
        jwts: Verifier | None = None,
        rate: float | None = None,
        **options: Any,
    ) -> None:
        self.now = 1_800_000_000.0
        self.store = store if store is not None else MemoryAccess()
        self.auditor = Auditor(self.store, now_us=self.now_us)
        self.gate = Gate(
            self.store,
            now_us=self.now_us,
            monotonic=lambda: self.now,
            token_hash=lambda: digest(TOKEN),
            jwts=jwts,
            rate=rate,
        )
        self.guard = Guard(
            self.app, self.gate, monotonic=lambda: self.now, journal=self.auditor, **options
        )
        self.callers: list[Caller] = []
        self.clients: list[Any] = []
        self.body = b""

    def now_us(self) -> int:
        return int(self.now * 1e6)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.callers.append(scope["caller"])
        self.clients.append((scope["client"], scope["scheme"]))
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        self.body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client has gone")
            self.body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def make_key(self, name: str = "ci", **wish: Any) -> tuple[str, str]:
        """Its id and its text."""
        choose = random.Random(name).choice
        wish = {"role": "operator", **wish}
        key, text = make(
            NewKey(name=name, **wish), by="token:local", now_us=self.now_us(), choose=choose
        )
        entry = self.auditor.entry(Caller("local", frozenset(), "token"), "key.create", key.key_id)
        await self.store.add_key(key, entry)
        return key.key_id, text

    async def ask(
        self,
        method: str = "GET",
        path: str = "/v1/tasks",
        *headers: tuple[bytes, bytes],
        key: str | None = None,
        query: bytes = b"",
        kind: str = "http",
        chunks: tuple[bytes, ...] = (b"",),
        client: tuple[str, int] | None = ("127.0.0.1", 5),
        host: tuple[bytes, bytes] | None = HOST,
        extensions: tuple[str, ...] = (),
    ) -> Answer:
        fields = [*([host] if host else []), *headers]
        if key is not None:
            fields.append((b"authorization", b"Bearer " + key.encode()))
        scope: Scope = {
            "type": kind,
            "method": method,
            "path": path,
            "query_string": query,
            "headers": fields,
            "client": client,
            "scheme": "http",
            "extensions": {name: {} for name in extensions},
        }
        if kind == "websocket":
            del scope["method"]
        parts = list(chunks)
        answer = Answer()

        async def receive() -> Message:
            if not parts:
                return {"type": "http.disconnect"}
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Message) -> None:
            kind = message["type"].rpartition(".")[2]
            match kind:
                case "start":
                    assert not answer.status, "answered twice"
                    answer.status = message["status"]
                    answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
                case "body":
                    answer.body += message.get("body", b"")
                case "accept":
                    answer.status = 101
                case "close":
                    answer.status = message["code"]

        await self.guard(scope, receive, send)
        return answer
