from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Fixed
from tests.cli.helpers import UNSAFE, Cli


@pytest.fixture
def cli(fixed: Fixed, tmp_path: Path) -> Cli:
    """The finished task, in a store that may be changed."""
    shutil.copytree(fixed.cli.home, tmp_path / "home", symlinks=True)
    return Cli(tmp_path / "home")


@pytest.fixture
def rows(fixed: Fixed) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fixed.out.splitlines()[:-1]]


def seq_of(rows: list[dict[str, Any]], kind: str, **fields: str) -> int:
    return next(
        int(row["seq"])
        for row in rows
        if row["type"] == kind and all(row["data"][k] == v for k, v in fields.items())
    )


@pytest.mark.long
def test_a_fork_without_a_change_goes_the_same_way_and_is_certified(
    cli: Cli, fixed: Fixed, rows: list[dict[str, Any]]
) -> None:
    """Our contract, on a real task: the same suffix, modulo ids, times and hashes."""
    at = seq_of(rows, "CallIntended", step_id="fix")
    done = cli("fork", fixed.task_id, "--at", str(at), "--json", UNSAFE)
    assert done.code == 0, done
    *events, result = done.lines()
    fork_id = result["task_id"]
    assert result["status"] == "succeeded" and fork_id != fixed.task_id
    assert events[0]["type"] == "LeaseTaken" and events[0]["seq"] == at + 2
    compared = cli("diff", fixed.task_id, fork_id, "--json").json()
    assert compared["same"], compared
    assert (compared["other"]["parent"], compared["other"]["at"]) == (fixed.task_id, at)
    assert compared["files"]["same"] == 1 and compared["other"]["grade"] == "proven"
    assert cli("verify", fork_id).code == 0
    parent = cli("logs", fixed.task_id, "--json").out.splitlines()
    assert parent == fixed.out.splitlines()[:-1], "the parent stays as it is"


@pytest.mark.long
def test_another_result_is_told_in_the_fork_and_where_the_two_part(
    cli: Cli, fixed: Fixed, rows: list[dict[str, Any]]
) -> None:
    at = seq_of(rows, "CallReturned", call_id="look.1")
    (cli.home / "result.yaml").write_text("{ok: true, output: found, exit: 0}\n", encoding="utf-8")
    made = cli("fork", fixed.task_id, "--at", str(at), "--result", "result.yaml", "--no-run",
               "--json")  # fmt: skip
    assert made.code == 0, made
    fork_id = made.json()["task_id"]
    done = cli("resume", fork_id, UNSAFE)
    assert done.code == 1 and "failed: step 'look' failed" in done.out, done
    shown = cli("show", fork_id, "--json").json()["forked"]
    assert shown == {"parent": fixed.task_id, "at": at, "replaced": ["result"]}
    told = cli("diff", fixed.task_id, fork_id).out.splitlines()
    assert told[1].endswith(f"a fork of {fixed.task_id[-8:]} at event {at}, another result")
    where = told.index("step look goes another way:")
    assert told[where + 1].startswith(f"  < {at} CallReturned") and '"exit":1' in told[where + 1]
    assert told[where + 2].startswith(f"  > {at} CallReturned") and '"exit":0' in told[where + 2]


def test_a_wrong_wish_says_what_is_wrong_and_stores_nothing(cli: Cli, fixed: Fixed) -> None:
    (cli.home / "answer.yaml").write_text("text: done\n", encoding="utf-8")
    for arguments, code, said in (
        ("--at 2", 6, "event 2 was decided together with events 2 to 3"),
        ("--at 1 --result answer.yaml", 2, "text: unknown key"),
        ("--at 1 --policy answer.yaml", 2, "text: unknown key"),
    ):
        done = cli("fork", fixed.task_id, *arguments.split(), UNSAFE)
        assert (done.code, said in done.err) == (code, True), done
    assert len(cli("ps", "--all", "--json").json()) == 1


@pytest.mark.long
def test_diff_of_one_task_is_a_patch_and_of_two_is_none(fixed: Fixed) -> None:
    assert fixed.cli("diff", fixed.task_id, "--json").code == 2
    assert fixed.cli("diff", fixed.task_id, fixed.task_id, "--stat").code == 2
    assert fixed.cli("diff", fixed.task_id, "ffffffff").code == 5
