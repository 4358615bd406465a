"""Async tests run on trio's virtual clock unless their own file says otherwise."""

import pytest
import trio.testing


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """Hours in milliseconds: time jumps whenever every task waits."""
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
