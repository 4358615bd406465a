"""A server on stdin and stdout, one JSON-RPC message a line.

The thread that reads answers hot methods itself, without an event loop: a process that a client
starts for every window must be there at once, and most never need more. The first message that
cannot be answered so starts the long way, the SDK on an event loop in a second thread, which is
told how the conversation began.

Ends when stdin ends: that is how a client goes, also one that is killed.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NoReturn

import msgspec

from agent_runtime.access.callers import SCOPES, Caller
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import McpServer
from agent_runtime_mcp.direct import Direct, Params, Request, read
from agent_runtime_mcp.envelope import (
    ClientCapabilities,
    ClientInfo,
    is_of_session,
    is_stateless,
)
from agent_runtime_mcp.wire import (
    INVALID_REQUEST,
    META_CAPABILITIES,
    META_VERSION,
    MODERN,
    PARSE_ERROR,
    SESSION_VERSIONS,
    capabilities,
    server_info,
)

if TYPE_CHECKING:
    from agent_runtime_mcp.long_way import LongWay

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 16
LINE_BYTES_MAX: Final = 32 << 20
"""Of one message; a client that sends more is not speaking this protocol."""
GOODBYE_SECONDS: Final = 1.5
"""For calls of a client that has only closed its side; clients kill what does not end soon."""
OLDEST_KNOWN: Final = "2025-06-18"
"""Older revisions know less of an answer: the SDK takes out what they do not know."""

OWNER: Final = Caller("local", frozenset(SCOPES), "cli")
"""Whoever can start the process may do what its owner may."""


class Stdio:
    """One conversation over two file descriptors."""

    def __init__(
        self,
        server: McpServer,
        query: Mapping[str, str],
        *,
        short_way: bool = True,
        source: int = 0,
        sink: int = 1,
    ) -> None:
        self._server = server
        self._query = query
        # There is no store here: only work that is kept elsewhere can be a task.
        self._tasks = server.has_tasks and server.backed_tasks() is not None
        self._direct = Direct(server, tasks=self._tasks) if short_way else None
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._long_way: LongWay | None = None
        self._modern: bool | None = None
        """Which wire it is; None: nothing was asked yet."""
        self._opening: list[bytes] = []
        """How the conversation began, as far as it was answered here."""

    def run(self) -> None:
        """Answer until the client has gone."""
        rest = b""
        try:
            while data := os.read(self._source, READ_BYTES):
                *lines, rest = (rest + data).split(b"\n") if rest else data.split(b"\n")
                for line in lines:
                    if line.strip():
                        self._take(line)
                if len(rest) > LINE_BYTES_MAX:
                    log.error("a message has more than %d bytes: ending", LINE_BYTES_MAX)
                    break
                if len(rest) > READ_BYTES:
                    rest = self._rest_of(rest)
            if rest.strip():
                self._take(rest)
            self._say_the_rest()
        except BrokenPipeError:
            return
        finally:
            if self._long_way is not None:
                self._long_way.close()

    def _say_the_rest(self) -> None:
        """The client will say no more, but may still listen: `echo … | agent-runtime mcp NAME`."""
        if self._long_way is None:
            return
        hearing = select.poll()
        hearing.register(self._sink, 0)
        deadline = time.monotonic() + GOODBYE_SECONDS
        while not hearing.poll(0) and (left := deadline - time.monotonic()) > 0:
            if self._long_way.answered(min(left, 0.05)):
                return

    def _rest_of(self, rest: bytes) -> bytes:
        """Read on a long line by its parts: joining them again with each read would be square."""
        parts, size = [rest], len(rest)
        while b"\n" not in parts[-1] and size <= LINE_BYTES_MAX:
            data = os.read(self._source, READ_BYTES)
            if not data:
                break
            parts.append(data)
            size += len(data)
        *lines, rest = b"".join(parts).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(line)
        return rest

    def write(self, message: bytes) -> None:
        """One message; whole, whoever else writes."""
        data = message + b"\n"
        with self._writing:
            sent = os.write(self._sink, data)
            while sent < len(data):
                sent += os.write(self._sink, data[sent:])

    def _take(self, line: bytes) -> None:
        request = read(line) if self._direct is not None else None
        if request is None and (said := why_refused(line)):
            self.write(said)
            return
        if request is not None and self._here(request, line):
            return
        if self._long_way is None:
            self._long_way = self._start()
        self._long_way.send(line)

    def _here(self, request: Request, line: bytes) -> bool:
        """Is it answered, with nothing left to do?"""
        assert self._direct is not None
        has_id = isinstance(request.id, (int, str))
        if self._modern is None and has_id:
            self._modern = request.method != "initialize" and _has_envelope(request.params)
            if not self._modern:
                return request.method == "initialize" and self._initialize(request, line)
        if not has_id:
            if request.method == "notifications/roots/list_changed":
                self._server.roots_changed()  # at once: the next call may be answered here
            if request.method == "notifications/initialized" and self._opened_here:
                self._opening.append(line)
                return True
            return self._long_way is None and request.method == "notifications/cancelled"
        if self._modern is None or not (self._modern or self._opened_here):
            return False
        meta = request.params.meta
        if not (is_stateless(meta) if self._modern else is_of_session(meta)):
            return False
        answer = self._direct.answer(request, OWNER, self._query, modern=self._modern)
        if answer is None:
            return False
        self.write(answer)
        return True

    @property
    def _opened_here(self) -> bool:
        return bool(self._opening)

    def _initialize(self, request: Request, line: bytes) -> bool:
        try:
            asked = msgspec.json.decode(line, type=_Initialize).params
        except msgspec.MsgspecError:
            return False
        wanted = asked.protocol_version
        if wanted in SESSION_VERSIONS and wanted < OLDEST_KNOWN:
            return False
        self._opening.append(line)
        result: dict[str, Json] = {
            "protocolVersion": wanted if wanted in SESSION_VERSIONS else SESSION_VERSIONS[-1],
            "capabilities": capabilities(self._server, tasks=self._tasks),
            "serverInfo": server_info(self._server),
        }
        if self._server.instructions:
            result["instructions"] = self._server.instructions
        self.write(msgspec.json.encode({"jsonrpc": "2.0", "id": request.id, "result": result}))
        return True

    def _start(self) -> LongWay:
        # Half a second of imports, for what most conversations never ask.
        from agent_runtime_mcp.long_way import LongWay

        opening = self._opening
        if self._modern and self._direct is not None:
            # The SDK must know which wire it is, even if its first message does not say so.
            opening = [_DISCOVER]
        return LongWay(self._server, OWNER, self._query, self.write, opening)


_DISCOVER: Final = msgspec.json.encode(
    {
        "jsonrpc": "2.0",
        "id": "agent-runtime-opening",
        "method": "server/discover",
        "params": {"_meta": {META_VERSION: MODERN, META_CAPABILITIES: {}}},
    }
)


class _InitializeParams(msgspec.Struct):
    protocol_version: str = msgspec.field(name="protocolVersion")
    capabilities: ClientCapabilities
    client: ClientInfo = msgspec.field(name="clientInfo")


class _Initialize(msgspec.Struct):
    params: _InitializeParams


def _has_envelope(params: Params) -> bool:
    return isinstance(params.meta, dict) and META_VERSION in params.meta


class _Message(msgspec.Struct):
    """What every message has, at least."""

    jsonrpc: Literal["2.0"]
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Json] | msgspec.UnsetType | None = msgspec.UNSET


_message: Final = msgspec.json.Decoder(_Message).decode


def why_refused(line: bytes) -> bytes | None:
    """The answer to what is no message; None: it may be one. The SDK would say nothing to it."""
    try:
        _message(line)
        return None
    except msgspec.ValidationError as error:
        fault = str(error)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # The one thing that the parser below lets pass.
        fault = "a text in it holds half a character (a lone surrogate)"
    try:
        message = json.loads(line.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return _error(None, PARSE_ERROR, "this line is no JSON")
    if isinstance(message, list):
        fault = "a line is one message, not several"
    elif not isinstance(message, dict):
        fault = "a message is an object"
    elif "id" not in message and "method" in message:
        return None  # nobody waits for an answer to a notification
    elif not message.keys().isdisjoint(("result", "error")):
        return None  # nor to an answer
    found = message.get("id") if isinstance(message, dict) else None
    if not isinstance(found, (int, str)) or isinstance(found, bool):
        found = None
    try:
        return _error(found, INVALID_REQUEST, f"this is no message: {fault}")
    except UnicodeEncodeError:
        return _error(None, INVALID_REQUEST, f"this is no message: {fault}")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _error(request_id: int | str | None, code: int, message: str) -> bytes:
    error = {"code": code, "message": message}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "error": error})
