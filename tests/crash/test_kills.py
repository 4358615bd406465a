"""A short version of `make kills`; each kill is a real SIGKILL of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.kills import kill_many


@pytest.mark.long
def test_killed_runs_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """Our contract: kill it anywhere and nothing is lost, and nothing happens silently twice."""
    tally = kill_many(tmp_path, kills=5, seed=20)
    assert tally.kills == 5
    assert tally.clean, tally
    assert tally.trees > 5
