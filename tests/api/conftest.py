"""One daemon for all tests of a file that do not end it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.daemons import DaemonProcess, serving


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with serving(tmp_path_factory.mktemp("daemon") / "state") as running:
        yield running
