"""Tasks that wait are rows: the bench that says what they cost, small, and as large as demanded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def measured(directory: Path, *wish: str) -> dict[str, float]:
    argv = [sys.executable, "-m", "bench.ours.hibernated", str(directory), *wish]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=900)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_beside_two_thousand_that_wait_every_live_task_is_driven(tmp_path: Path) -> None:
    """Room is for those that run: nobody who waits has a driver."""
    figures = measured(tmp_path, "--waiting", "2000", "--live", "50", "--rounds", "1")
    assert figures["driven_at_once"] == 50
    assert figures["rss_mib_of_waiting"] < 32


@pytest.mark.long
def test_a_hundred_thousand_that_wait_cost_no_memory_and_nobodys_time(tmp_path: Path) -> None:
    """What they cost the others is in `make bench`'s figures, and printed here."""
    figures = measured(tmp_path, "--rounds", "20")
    print(figures)
    assert figures["driven_at_once"] == 1000
    assert figures["rss_mib_of_waiting"] < 64
    assert figures["rss_mib"] < 256
