from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from agent_runtime.loop import codec
from tests.cli.conftest import Fixed
from tests.cli.helpers import Cli


@pytest.fixture
def forged(fixed: Fixed, tmp_path: Path) -> Cli:
    """The finished task, with one decision changed and every hash made to fit again."""
    shutil.copytree(fixed.cli.home, tmp_path / "home")
    cli = Cli(tmp_path / "home")
    with sqlite3.connect(cli.state / "store.db") as store:
        rows = store.execute("SELECT seq, type, schema, at_us, data FROM events ORDER BY seq")
        head = codec.GENESIS
        for seq, kind, schema, at_us, data in rows.fetchall():
            if kind == "VerificationStarted":
                data = data.replace(b'"attempt":1', b'"attempt":2')
            digest = codec.row_hash(head, fixed.task_id, seq, kind, schema, at_us, data)
            store.execute(
                "UPDATE events SET data = ?, prev_hash = ?, hash = ? WHERE seq = ?",
                (data, head, digest, seq),
            )
            head = digest
        store.execute("UPDATE tasks SET head_hash = ?", (head,))
    store.close()
    return cli


def test_a_task_is_decided_again_in_the_same_way(fixed: Fixed) -> None:
    found = fixed.cli("replay", fixed.task_id, "--json")
    events = len(fixed.out.splitlines()) - 1
    assert found.code == 0
    said = found.json()
    assert said["ok"] and said["difference"] is None and said["task_id"] == fixed.task_id
    assert said["inputs"] + said["decisions"] == said["events"] == events


def test_another_decision_than_the_stored_one_ends_with_1_and_is_named(
    forged: Cli, fixed: Fixed
) -> None:
    """Nothing else can notice: the chain of hashes fits."""
    found = forged("replay", fixed.task_id)
    rows = map(json.loads, fixed.out.splitlines())
    first = next(r for r in rows if r["type"] == "VerificationStarted")
    assert found.code == 1
    assert f"decided differently at {first['seq']}: attempt is 2, would be 1" in found.out
    said = forged("replay", fixed.task_id, "--json").json()["difference"]
    assert said["seq"] == first["seq"]
    assert said["fields"] == [{"name": "attempt", "stored": 2, "decided": 1}]


def test_why_a_task_ended_is_told_from_its_evidence_down(fixed: Fixed) -> None:
    told = fixed.cli("why", fixed.task_id).out.splitlines()
    assert "TaskConcluded" in told[0] and "every check passed on a clean checkout" in told[0]
    assert told[1].startswith("   ") and "VerificationEnded" in told[1]
    assert any("StepSucceeded  fix: done" in line for line in told)


def test_why_one_event_is_there_is_told_as_json(fixed: Fixed) -> None:
    rows = [json.loads(line) for line in fixed.out.splitlines()[:-1]]
    fix = next(r for r in rows if r["type"] == "CallIntended" and r["data"]["step_id"] == "fix")
    said = fixed.cli("why", fixed.task_id, str(fix["seq"]), "--depth", "1", "--json").json()
    asked, *below = said["chain"]
    assert (said["seq"], asked["seq"], asked["type"]) == (fix["seq"], fix["seq"], "CallIntended")
    assert {link["type"] for link in below} == {"PlanAdopted", "StepSucceeded"}
    assert asked["because"] == [link["seq"] for link in below]


def test_an_event_that_is_not_there_is_5(fixed: Fixed) -> None:
    missing = fixed.cli("why", fixed.task_id, "999")
    assert missing.code == 5 and "has no event 999: its log ends at" in missing.err
