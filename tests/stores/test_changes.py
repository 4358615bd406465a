"""Who waits for a write hears of it."""

from __future__ import annotations

import anyio
import pytest

from agent_runtime.stores.changes import Changes

pytestmark = pytest.mark.anyio


async def test_the_first_wait_hears_what_nobody_has_noticed_yet() -> None:
    """It was written between the waiter's look and its wait, by another process."""
    written = iter([True])
    changes = Changes(lambda: next(written, False))
    with anyio.fail_after(5):
        await changes.wait(3600)
