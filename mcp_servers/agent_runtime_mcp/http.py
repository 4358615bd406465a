"""A server over streamable HTTP: both revisions at one address, below `/mcp/`.

The daemon's guard stands before it: who asks, Host and Origin have been looked at, and
`scope["caller"]` says who it is. A session belongs to whoever opened it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from agent_runtime.access.callers import NOBODY, Caller
from agent_runtime.api.answers import Answer, Message, Receive, Scope, Send
from agent_runtime.api.problems import problem
from agent_runtime_mcp.conversing import Context
from agent_runtime_mcp.definitions import McpServer
from agent_runtime_mcp.direct import Direct, read
from agent_runtime_mcp.envelope import is_stateless
from agent_runtime_mcp.sdk import SdkServer, Who
from agent_runtime_mcp.tasks.book import Book
from agent_runtime_mcp.tasks.keeper import Keeper
from agent_runtime_mcp.wire import MODERN

BODY_BYTES_MAX: Final = 16 << 20
START_SECONDS: Final = 10.0
SESSIONS_MAX: Final = 2000
"""Some 50 KiB each."""
SESSION_SECONDS: Final = 1800.0
"""A session that nobody uses is forgotten after that time."""

# It writes the ids of sessions, which let in whoever also has a key.
logging.getLogger("mcp.server.streamable_http_manager").setLevel(logging.ERROR)
logging.getLogger("mcp").setLevel(logging.WARNING)

_VERSION: Final = b"mcp-protocol-version"
_NAMED: Final = frozenset({"tools/call"})
_PLAIN: Final = re.compile(rb"[!-~][ -~]*")
_JSON: Final = frozenset({b"application/json", b"application/*", b"*/*"})
_STREAM: Final = frozenset({b"text/event-stream", b"text/*", b"*/*"})


class HttpFace:
    """ASGI application of one server."""

    def __init__(
        self,
        server: McpServer,
        *,
        secret: bytes,
        short_way: bool = True,
        keeper: Keeper | None = None,
    ) -> None:
        """`keeper` lets any long call become a task; None: only work with a life of its own."""
        self._server = server
        self._keeper = keeper if server.has_tasks else None
        tasks = self._keeper is not None or (server.has_tasks and server.backed_tasks() is not None)
        self._direct = Direct(server, tasks=tasks) if short_way else None
        self._sdk = SdkServer(server, _who, secret, Book(server, self._keeper) if tasks else None)
        self._manager = StreamableHTTPSessionManager(
            self._sdk,
            session_idle_timeout=SESSION_SECONDS,
            max_request_body_size=BODY_BYTES_MAX,
            max_sessions=SESSIONS_MAX,
        )
        self._running = False
        self._started = anyio.Event()
        self._open: set[anyio.CancelScope] = set()
        """Requests that are being answered by the SDK: streams among them last."""

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Serves until cancelled; sessions live in here."""
        async with self._manager.run(), anyio.create_task_group() as tasks:
            if self._keeper is not None:
                await tasks.start(self._keeper.run)
            self._running = True
            self._started.set()
            try:
                task_status.started()
                tasks.start_soon(self._server.run)
                await anyio.sleep_forever()
            finally:
                self._running = False
                for scope in list(self._open):
                    scope.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        caller: Caller = scope.get("caller", NOBODY)
        if self._server.scope and not caller.may(self._server.scope):
            detail = f"/mcp/{self._server.name} needs the scope {self._server.scope!r}"
            await problem(403, "forbidden", "Your key does not allow this", detail)(
                scope, receive, send
            )
            return
        if not self._running and not await self._starts():
            await _not_ready(scope, receive, send)
            return
        if scope["method"] == "POST" and self._direct is not None:
            headers = _routing(scope)
            if headers is not None:
                body = await _whole(receive)
                if body is None:
                    return
                answer = self._short(headers, body, caller, scope)
                if answer is not None:
                    await Answer(200, answer)(scope, receive, send)
                    return
                receive = _again(body, receive)
        scope["headers"] = [
            (name, value.strip(b" \t") if name.startswith(b"mcp-") else value)
            for name, value in scope["headers"]
        ]
        scope["user"] = _user(caller)
        await self._long(scope, receive, send)

    async def _starts(self) -> bool:
        """Requests may come a moment before the task in which sessions live."""
        with anyio.move_on_after(START_SECONDS):
            await self._started.wait()
        return self._running

    async def _long(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Through the SDK; a stream that still lasts when the daemon ends is ended in order."""
        begun = ended = False

        async def told(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with anyio.CancelScope() as until:
            self._open.add(until)
            try:
                await self._manager.handle_request(scope, receive, told)
            finally:
                self._open.discard(until)
        if until.cancelled_caught:
            if not begun:
                await _not_ready(scope, receive, send)
            elif not ended:
                await send({"type": "http.response.body", "body": b""})

    def _short(
        self, headers: Mapping[bytes, bytes], body: bytes, caller: Caller, scope: Scope
    ) -> bytes | None:
        request = read(body)
        if (
            request is None
            or not isinstance(request.id, (int, str))
            or not is_stateless(request.params.meta)
            or headers.get(b"mcp-method") != request.method.encode()
        ):
            return None
        if request.method in _NAMED and headers.get(b"mcp-name") != request.params.name.encode():
            return None
        assert self._direct is not None
        query = scope["query_string"]
        return self._direct.answer(request, caller, _query(query) if query else {}, modern=True)


_not_ready: Final = problem(
    503, "not-ready", "The daemon is starting or ending", "try again",
    headers=((b"retry-after", b"1"),),
)  # fmt: skip


def _routing(scope: Scope) -> dict[bytes, bytes] | None:
    """Headers of a request of the stateless wire with nothing unusual in them; else None."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name.startswith(b"mcp-"):
            value = value.strip(b" \t")
            if name in found or name.startswith(b"mcp-param-") or not _PLAIN.fullmatch(value):
                return None
        found[name] = value
    if found.get(_VERSION) != MODERN.encode() or found.get(b"mcp-name", b"").startswith(b"=?"):
        return None
    accepted = {part.partition(b";")[0].strip() for part in found.get(b"accept", b"").split(b",")}
    if not (accepted & _JSON and accepted & _STREAM):
        return None
    kind = found.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return found if kind == b"application/json" else None


async def _whole(receive: Receive) -> bytes | None:
    """The body; None: the client has gone. What is too large for us is cut, so it is no JSON."""
    message = await receive()
    if message["type"] != "http.request":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] != "http.request":
            return None
        part: bytes = message.get("body", b"")
        size += len(part)
        if size <= BODY_BYTES_MAX:
            parts.append(part)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` as if the body had not been read."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _who(context: Context) -> Who:
    scope: Scope = context.request.scope if context.request is not None else {}
    return Who(scope.get("caller", NOBODY), _query(scope.get("query_string", b"")))


def _query(text: bytes) -> dict[str, str]:
    return dict(parse_qsl(text.decode("utf-8", "replace")))


def _user(caller: Caller) -> AuthenticatedUser:
    """As the SDK knows owners of sessions."""
    token = AccessToken(
        token="-", client_id=caller.by, subject=caller.key_id or caller.subject, scopes=[]
    )
    return AuthenticatedUser(token)
