from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import make_repository
from tests.publishing.server import GitHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    """A git host with the repository `acme/app`: one file with a bug."""
    served = GitHost(tmp_path / "host")
    served.create(make_repository(tmp_path / "upstream"))
    yield served
    served.close()
