from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from agent_runtime.models.http import Http, Patience
from tests.models.server import Provider, provider


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Real sockets need real time. One loop for a file: its tests share an HTTP client."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxy is none of the tests'."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[Http]:
    """Impatient, so that a server that hangs does not hold the tests up."""
    client = Http(Patience(connect=2, silence=0.4, silence_streamed=0.4, whole=20))
    yield client
    await client.close()
