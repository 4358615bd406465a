"""Receivers are real, so time is, too."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
