from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_runtime.client import Client
from tests.api.daemons import DaemonProcess, serving
from tests.cli.conftest import make_repository
from tests.client.daemon import client_of, state_of


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One for all tests of a file, with a repository `repo` that it may use."""
    home = tmp_path_factory.mktemp("home")
    make_repository(home / "repo")
    roots = {"AGENT_RUNTIME_WORKSPACE_ROOTS": str(home)}
    with serving(state_of(home), settings=roots) as running:
        yield running


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    with client_of(daemon) as made:
        yield made
