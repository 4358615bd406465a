"""Real processes live in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.unsafe import UnsafeSandbox
from tests.sandboxes.support import make_sandbox


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bubblewrap(tmp_path: Path) -> BubblewrapSandbox:
    sandbox = make_sandbox("bubblewrap", tmp_path / "state")
    assert isinstance(sandbox, BubblewrapSandbox)
    return sandbox


@pytest.fixture
def unsafe(tmp_path: Path) -> UnsafeSandbox:
    return UnsafeSandbox(str(tmp_path / "state"))
