"""The short way: hot methods answered from bytes to bytes, with nothing in between.

A message that it does not know by heart gets None and goes the long way, through the SDK: tasks,
progress, questions, older revisions, mistakes. What it answers, the SDK would have answered the
same; the tests hold them side by side.

Shape of a message: a JSON-RPC request as one line or one HTTP body.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from agent_runtime.access.callers import Caller
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import McpServer, ToolAnswer, ToolDefinition, Unsupported
from agent_runtime_mcp.wire import (
    LIST_SECONDS,
    META_SERVER,
    MODERN,
    call_result,
    capabilities,
    refusal,
    server_info,
    told,
    tool_entry,
)

Given = msgspec.Raw | msgspec.UnsetType


class Params(msgspec.Struct, gc=False):
    """Of the methods answered here; the rest makes a message go the long way."""

    name: str = ""
    arguments: dict[str, Json] | None = None
    meta: dict[str, Json] | msgspec.UnsetType = msgspec.field(name="_meta", default=msgspec.UNSET)
    cursor: Given = msgspec.UNSET
    task: Given = msgspec.UNSET
    input_responses: Given = msgspec.field(name="inputResponses", default=msgspec.UNSET)
    request_state: Given = msgspec.field(name="requestState", default=msgspec.UNSET)


class Request(msgspec.Struct, gc=False):
    """A JSON-RPC request, or a notification (no id)."""

    method: str
    jsonrpc: str = ""
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    params: Params = msgspec.field(default_factory=Params)


_decode: Final = msgspec.json.Decoder(Request).decode
_encode: Final = msgspec.json.Encoder().encode


def read(message: bytes) -> Request | None:
    """The request in it; None: it is another kind of message, or none."""
    try:
        request = _decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return request if request.jsonrpc == "2.0" else None


class Silent:
    """`Asked` of a call that tells and asks nothing."""

    state = ""

    def __init__(self, caller: Caller, meta: Mapping[str, Json], query: Mapping[str, str]) -> None:
        self.caller = caller
        self.meta = meta
        self.query = query
        self.client = ""

    def can(self, capability: str) -> bool:
        """Nothing can be asked on the short way."""
        return False

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Nobody is told."""

    async def log(self, level: str, data: Json, logger: str | None = None) -> None:
        """Nobody is told."""

    async def ask(self, questions: Mapping[str, Any], *, state: str = "") -> NoReturn:
        """Refused."""
        raise Unsupported("a call that is answered at once cannot ask its client anything")


class Direct:
    """Answers requests to one server, on both wires."""

    def __init__(self, server: McpServer, *, tasks: bool = False) -> None:
        """`tasks`: calls of it can become tasks here, which is the long way's to do."""
        self._server = server
        self._knows_tasks = tasks
        tools = server.fixed_tools()
        self._tools: dict[str, ToolDefinition] = {
            each.name: each
            for each in tools
            if each.now is not None and not (tasks and each.task_support != "forbidden")
        }
        self._stamp: Json = {META_SERVER: server_info(server)}
        stamped = b'"_meta":' + _encode(self._stamp) + b"}"
        self._modern_end = b',"resultType":"complete",' + stamped
        private = b',"ttlMs":%d,"cacheScope":"private"' % (LIST_SECONDS * 1000)
        # A list that differs by caller is the long way's to make.
        self._listed: tuple[bytes, bytes] | None = None
        if tools and not any(each.scope for each in tools):
            older = _encode([tool_entry(each, tasks=tasks) for each in tools])
            newer = _encode([tool_entry(each) for each in tools])
            self._listed = b'{"tools":' + older, b'{"tools":' + newer
        self._listing_end = private + self._modern_end

    def answer(
        self,
        request: Request,
        caller: Caller,
        query: Mapping[str, str],
        *,
        modern: bool,
    ) -> bytes | None:
        """The whole response; None: it must go the long way. May run in any thread.

        `modern`: the request comes over the stateless wire, and its envelope has been looked at.
        """
        params, method = request.params, request.method
        if method == "tools/call":
            result = self._call(params, caller, query)
            if result is None:
                return None
            end = self._modern_end if modern else b"}"
            # The result is an object that is not empty: what ends it takes its last bracket.
            return b'{"jsonrpc":"2.0","id":%b,"result":%b%b}' % (_encode(request.id), result, end)
        if method == "tools/list" and self._listed is not None and params.cursor is msgspec.UNSET:
            end = self._listing_end if modern else b"}"
            listed = self._listed[modern]
            return b'{"jsonrpc":"2.0","id":%b,"result":%b%b}' % (_encode(request.id), listed, end)
        if method == "ping" and not modern:
            return b'{"jsonrpc":"2.0","id":%b,"result":{}}' % _encode(request.id)
        if method == "server/discover" and modern:
            return self._discovered(request)
        return None

    def _call(self, params: Params, caller: Caller, query: Mapping[str, str]) -> bytes | None:
        tool = self._tools.get(params.name)
        if (
            tool is None
            or params.task is not msgspec.UNSET
            or params.input_responses is not msgspec.UNSET
            or params.request_state is not msgspec.UNSET
        ):
            return None
        assert tool.now is not None
        arguments = params.arguments or {}
        asked = Silent(caller, params.meta if isinstance(params.meta, dict) else {}, query)
        answer: ToolAnswer | None = refusal(tool, arguments, asked)
        if answer is None:
            try:
                answer = tool.now(arguments, asked)
            except Exception as error:  # noqa: BLE001 - a call ends with an answer, never a crash
                answer = told(tool.name, error)
            if answer is None:
                return None
        if answer.meta:
            return None  # whose `_meta` would have to be merged
        return _encode(call_result(answer))[:-1]

    def _discovered(self, request: Request) -> bytes:
        result: dict[str, Json] = {
            "supportedVersions": [MODERN],
            "capabilities": capabilities(self._server, modern=True, tasks=self._knows_tasks),
            "resultType": "complete",
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": self._stamp,
        }
        if self._server.instructions:
            result["instructions"] = self._server.instructions
        return _encode({"jsonrpc": "2.0", "id": request.id, "result": result})
