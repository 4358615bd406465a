from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, JSONRPCResponse

from agent_runtime_mcp.client.guard import Guard

pytestmark = pytest.mark.anyio


class Server:
    """What a server says is sent to `to_us`; what it is told, nobody reads."""

    def __init__(self, buffer: int) -> None:
        self.to_us, self._read = anyio.create_memory_object_stream[SessionMessage | Exception](
            buffer
        )
        self._write, self._to_them = anyio.create_memory_object_stream[SessionMessage](9)

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[TransportStreams]:
        with self.to_us, self._read, self._write, self._to_them:
            yield self._read, self._write


async def test_an_answer_to_a_request_that_was_given_up_is_no_second_answer() -> None:
    """It was on its way; the server has done nothing wrong. Answering it once more is a breach."""
    server = Server(buffer=9)

    def answer(id_: int) -> SessionMessage:
        return SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=id_, result={}))

    guard = Guard()
    async with guard.around(server.transport()) as (heard, said):
        for id_ in (1, 2):
            await said.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=id_, method="ping")))
        guard.took_back(1)
        for id_ in (1, 2):
            await server.to_us.send(answer(id_))
        first = await heard.receive()
        assert isinstance(first, SessionMessage)
        assert isinstance(first.message, JSONRPCResponse)
        assert first.message.id == 2, "nobody waits for the other"
        assert not guard.ended.is_set()
        await server.to_us.send(answer(1))
        await guard.ended.wait()
        assert guard.breach
        assert guard.reason == "it answered request 1 twice"


@pytest.mark.parametrize("breach", [False, True])
async def test_an_answer_that_was_taken_is_given_on_when_the_program_ends(breach: bool) -> None:
    """The SDK may be busy with what came before. Who breaks the rules is heard no more."""
    server = Server(buffer=0)
    guard, got = Guard(), list[object]()
    async with guard.around(server.transport()) as (heard, said):
        await said.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="ping")))
        await server.to_us.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result={})))
        await anyio.wait_all_tasks_blocked()
        guard.cut("it ended with exit code 0", breach=breach)
        await anyio.wait_all_tasks_blocked()
        async for item in heard:
            assert isinstance(item, SessionMessage)
            got.append(item.message)
    assert got == ([] if breach else [JSONRPCResponse(jsonrpc="2.0", id=1, result={})])


async def test_an_answer_that_nobody_takes_keeps_nothing_open() -> None:
    server = Server(buffer=0)
    guard = Guard()
    with anyio.fail_after(5):
        async with guard.around(server.transport()) as (_, said):
            await said.send(SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="ping")))
            await server.to_us.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result={})))
            guard.cut("it ended with exit code 0", breach=False)
    assert guard.ended.is_set()
