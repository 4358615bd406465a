"""The sandboxes' own record of what left them: what is written can be read again, once."""

from pathlib import Path

import pytest

from agent_runtime.ports import EgressRecord
from agent_runtime.sandboxes import egress_records
from agent_runtime.sandboxes.egress_records import EgressFiles, RecordFile


def record(number: int, **more: object) -> EgressRecord:
    return EgressRecord(kind="opened", number=number, host="ä.org", **more)  # type: ignore[arg-type]


def test_what_follows_a_mark_is_read_as_it_was_written(tmp_path: Path) -> None:
    file, files = RecordFile(str(tmp_path), "task/1"), EgressFiles(str(tmp_path))
    assert files.after("task/1", 0) == []
    first = file.write(record(1, port=443, address="192.0.2.1", bytes_sent=5, seconds=0.5))
    other = RecordFile(str(tmp_path), "task/1")
    second = other.write(record(2, reason="no"))
    third = file.write(record(3))
    assert files.after("task/1", 0) == [first, second, third]
    assert files.after("task/1", first.mark) == [second, third]
    assert files.after("task/1", third.mark) == []
    assert 0 < first.mark < second.mark < third.mark


def test_lines_that_are_none_are_left_out(tmp_path: Path) -> None:
    """Torn by a full disk, or by somebody's editor."""
    file = RecordFile(str(tmp_path), "t")
    good = file.write(record(1))
    with open(file.path, "ab") as raw:
        raw.write(b'{"kind": "opened", "num\n{"kind":"opened","number":"x"}\n[]\n')
        raw.write(b'{"kind":"full","number":1}\n\xff\n')
    also_good = file.write(record(2))
    with open(file.path, "ab") as raw:
        raw.write(b'{"kind":"opened","number":3}')
    assert EgressFiles(str(tmp_path)).after("t", 0) == [good, also_good]


def test_a_record_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_records, "FILE_BYTES_MAX", 100)
    file = RecordFile(str(tmp_path), "t")
    marks = [file.write(record(number)).mark for number in range(5)]
    assert marks[0] > 0 and marks[-1] == 0
    assert Path(file.path).read_text(encoding="utf-8").count('"kind": "full"') == 1
