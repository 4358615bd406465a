"""Accepted means kept: whatever is killed, and how often."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.kills import kill_under_load


def test_what_was_accepted_ends_and_happens_once_however_often_the_daemon_is_killed(
    tmp_path: Path,
) -> None:
    account = kill_under_load(tmp_path, kills=2, submitters=2)
    assert account.clean, account
    assert len(account.accepted) > 5
    assert account.statuses["succeeded"] + account.statuses["unverified"] > 0


@pytest.mark.long
def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """One every two seconds; the short version kills twice."""
    account = kill_under_load(tmp_path, kills=50)
    assert account.clean, account
    assert len(account.accepted) > 100
