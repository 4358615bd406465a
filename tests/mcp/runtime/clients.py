"""The SDK's client at the runtime server of a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.api.daemons import DaemonProcess


@asynccontextmanager
async def connected(daemon: DaemonProcess, mode: str, **options: Any) -> AsyncIterator[Client]:
    """`mode`: legacy, or a version of the stateless wire."""
    headers = {"Authorization": f"Bearer {daemon.token}"}
    address = f"http://127.0.0.1:{daemon.port}/mcp/runtime"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(address, http_client=http), mode=mode, **options) as client,
    ):
        yield client


async def called(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """What a tool gives, structured; its text has the grade where that has."""
    result: Any = await client.call_tool(name, arguments)
    text = "\n".join(block.text for block in result.content)
    assert not result.is_error, text
    structured: dict[str, Any] = result.structured_content
    assert structured.get("grade", "") in text
    return structured
