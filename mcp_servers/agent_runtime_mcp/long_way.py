"""The SDK on an event loop of its own, behind a process that reads and writes by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

import anyio
import mcp_types as types
import msgspec
from anyio.from_thread import start_blocking_portal
from mcp.shared._context_streams import ContextSendStream, create_context_streams
from mcp.shared.message import SessionMessage

from agent_runtime.access.callers import Caller
from agent_runtime_mcp.definitions import McpServer
from agent_runtime_mcp.sdk import SdkServer, Who
from agent_runtime_mcp.tasks.book import Book

CLOSE_SECONDS: Final = 3.0
"""For calls that still run when the client has gone; then the process ends without them."""


class LongWay:
    """A conversation that goes on where the short way could not."""

    def __init__(
        self,
        server: McpServer,
        caller: Caller,
        query: Mapping[str, str],
        write: Callable[[bytes], None],
        opening: Sequence[bytes],
    ) -> None:
        """`opening`: messages that were answered already; the SDK hears them, and is not heard."""
        self._server = server
        self._write = write
        self._swallow = {_id(line) for line in opening} - {None}
        book = (
            Book(server, None) if server.has_tasks and server.backed_tasks() is not None else None
        )
        self._sdk = SdkServer(server, lambda _: Who(caller, query), os.urandom(32), book)
        self._asked: set[int | str] = set()
        """Requests without an answer yet."""
        self._change = threading.Condition()
        """Of `_asked`."""
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._done, self._sender = self._portal.start_task(self._serve)
        for line in opening:
            self.send(line)

    def send(self, line: bytes) -> None:
        """One message of the client; waits while too many are not taken yet."""
        message: SessionMessage | Exception
        try:
            parsed = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
            self._note(parsed)
            message = SessionMessage(parsed)
        except ValueError as error:
            message = error
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._portal.call(self._sender.send, message)

    def answered(self, seconds: float) -> bool:
        """Has every request its answer, now or within that time? A subscription has none."""
        with self._change:
            return self._change.wait_for(lambda: not self._asked, seconds)

    def _note(self, message: object) -> None:
        """A message of the client."""
        if isinstance(message, types.JSONRPCRequest):
            if message.id not in self._swallow and message.method != "subscriptions/listen":
                with self._change:
                    self._asked.add(message.id)
        elif isinstance(message, types.JSONRPCNotification):
            wanted = (message.params or {}).get("requestId")
            if message.method == "notifications/cancelled" and isinstance(wanted, (int, str)):
                self._forget(wanted)

    def _forget(self, request_id: object) -> None:
        with self._change:
            self._asked.discard(request_id)
            self._change.notify_all()

    def close(self) -> None:
        """The client has gone: calls that run are cancelled, and their cleanup is waited for."""
        self._portal.start_task_soon(self._sender.aclose)
        with suppress(TimeoutError, Exception):
            self._done.result(timeout=CLOSE_SECONDS)
        if not self._done.done():
            os._exit(0)  # a thread that hangs must not keep the process
        self._stack.close()

    async def _serve(
        self, *, task_status: anyio.abc.TaskStatus[ContextSendStream[SessionMessage | Exception]]
    ) -> None:
        to_sdk, from_us = create_context_streams[SessionMessage | Exception](64)
        to_us, from_sdk = create_context_streams[SessionMessage](64)

        async def write() -> None:
            async for each in from_sdk:
                message = each.message
                if getattr(message, "id", None) in self._swallow and not hasattr(message, "method"):
                    self._swallow.clear()
                    continue
                self._write(message.model_dump_json(by_alias=True, exclude_unset=True).encode())
                if not hasattr(message, "method"):
                    self._forget(message.id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            tasks.start_soon(self._server.run)
            task_status.started(to_sdk)
            with suppress(BrokenPipeError):
                await self._sdk.run(from_us, to_us, self._sdk.create_initialization_options())
            tasks.cancel_scope.cancel()


def _id(line: bytes) -> int | str | None:
    try:
        found = msgspec.json.decode(line).get("id")
    except (msgspec.MsgspecError, AttributeError):
        return None
    return found if isinstance(found, (int, str)) else None
