"""`keys`: on the store alone, with no daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_runtime.cli import cli as verbs
from tests.cli.helpers import Done

Run = Callable[..., Done]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The verbs in this process, on a store of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        store = f"sqlite:///{tmp_path}/state/store.db"
        done = CliRunner().invoke(verbs, ["--store", store, *arguments])
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


def test_a_key_is_made_listed_and_revoked_and_shown_once(cli: Run, tmp_path: Path) -> None:
    made = cli("keys", "create", "ci", "--role", "operator", "--scope", "approvals:decide",
               "--expires", "90d", "--tasks-day", "5", "--json")  # fmt: skip
    assert made.code == 0
    secret, key = made.json()["secret"], made.json()["key"]
    assert secret.startswith(f"ark_{key['id']}_")
    assert key["scopes"] == ["tasks:read", "tasks:write", "approvals:decide"]
    assert key["created_by"].startswith("cli:") and key["tasks_day"] == 5

    taken = cli("keys", "create", "ci", "--role", "viewer")
    assert taken.code == 6 and "'ci'" in taken.err and not taken.out
    assert cli("keys", "list", "--json").json() == [key]

    assert cli("keys", "revoke", secret).code == 2
    assert cli("keys", "revoke", "ci").code == 0
    assert cli("keys", "revoke", "ci").code == 5
    assert cli("keys", "list", "--json").json() == []
    (revoked,) = cli("keys", "list", "--all", "--json").json()
    assert revoked["revoked_at"] and revoked["revoked_by"] == key["created_by"]

    random_part = secret.rpartition("_")[2].encode()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or random_part not in file.read_bytes(), file


def test_a_wish_that_cannot_be_is_told(cli: Run) -> None:
    for arguments in (["a b", "--role", "viewer"], ["ci"], ["ci", "--scope", "tasks:rule"],
                      ["ci", "--role", "viewer", "--expires", "soon"]):  # fmt: skip
        refused = cli("keys", "create", *arguments)
        assert refused.code == 2 and not refused.out, arguments
