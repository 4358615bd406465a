"""Events to rows and back: golden files, upcasters, and every kind of damage."""

from typing import Any

import msgspec
import pytest

from agent_runtime.errors import CorruptLog
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.types import Row
from tests.loop.samples import GOLDEN, SAMPLES, TASK, golden_path, row


@pytest.fixture
def log() -> list[Row]:
    """Four rows of a log."""
    events = [SAMPLES[name] for name in ("TaskSubmitted", "LeaseTaken", "Steered", "CallReturned")]
    return codec.encode(TASK, events, after=0, head=codec.GENESIS, at_us=7)


# ---- golden files ------------------------------------------------------------------------


@pytest.mark.parametrize("name", codec.EVENT_TYPES)
def test_every_stored_form_has_a_golden_file_that_is_still_read(name: str) -> None:
    """What was written once is read for ever. `python -m tests.loop.samples` adds new ones."""
    kind, sample = codec.EVENT_TYPES[name], SAMPLES[name]
    assert codec.decode(row(sample)) == sample
    for schema in range(1, kind.schema + 1):
        data = golden_path(name, schema).read_bytes().rstrip(b"\n")
        old = msgspec.structs.replace(row(sample), schema=schema, data=data)
        assert codec.decode(old) == sample
    assert row(sample).data == data, "the newest form is written as its golden file says"


@pytest.mark.parametrize("name", codec.EVENT_TYPES)
def test_a_sample_sets_every_field(name: str) -> None:
    """A default would hide a field that is not stored."""
    sample = SAMPLES[name]
    for field in msgspec.structs.fields(type(sample)):
        if field.default is not msgspec.NODEFAULT and (name, field.name) != ("TaskEnded", "phase"):
            assert getattr(sample, field.name) != field.default, field.name


def test_no_golden_file_is_without_its_type() -> None:
    assert {path.name.split(".")[0] for path in GOLDEN.glob("*.json")} == set(codec.EVENT_TYPES)


# ---- older and newer forms ---------------------------------------------------------------


class Greeted(e.Event, frozen=True, kw_only=True):
    """A test-only event in its third form."""

    schema = 3
    name: str
    words: int


def test_an_old_form_is_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema 1 had `who`, schema 2 renamed it to `name`, schema 3 counts words."""

    def renamed(fields: dict[str, Any]) -> dict[str, Any]:
        return {"name": fields["who"]}

    def counted(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "words": len(fields["name"].split())}

    monkeypatch.setattr(codec, "EVENT_TYPES", {**codec.EVENT_TYPES, "Greeted": Greeted})
    monkeypatch.setattr(codec, "UPCASTERS", {("Greeted", 1): renamed, ("Greeted", 2): counted})
    stored = Row(TASK, 1, "Greeted", 1, 7, b'{"who":"you there"}', codec.GENESIS, "")
    greeted: e.Event = codec.decode(stored)
    assert greeted == Greeted(name="you there", words=2)
    with pytest.raises(CorruptLog, match="schema 4"):
        codec.decode(msgspec.structs.replace(stored, schema=4))


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "NeverHeardOf"},
        {"schema": 2},
        {"data": b"{}"},
        {"data": b'{"by":1}'},
        {"data": b'{"by":"me","more":1}'},
        {"data": b"\xff"},
        {"data": b""},
    ],
)
def test_what_cannot_be_read_names_its_event(changes: dict[str, Any]) -> None:
    damaged = msgspec.structs.replace(row(SAMPLES["PauseRequested"]), **changes)
    with pytest.raises(CorruptLog) as caught:
        codec.decode(damaged)
    assert (caught.value.task_id, caught.value.seq) == (TASK, 1)


# ---- the chain ---------------------------------------------------------------------------


def test_a_whole_log_has_the_hash_of_its_last_row(log: list[Row]) -> None:
    assert codec.check_chain(log, task_id=TASK) == log[-1].hash
    assert codec.check_chain(log[2:], task_id=TASK, after=2, head=log[1].hash) == log[-1].hash
    assert codec.check_chain([], task_id=TASK) == codec.GENESIS


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {"task_id": "task_other"},
        {"seq": 9},
        {"type": "Steered2"},
        {"schema": 2},
        {"at_us": 8},
        {"data": b"{}"},
        {"prev_hash": "1" * 64},
        {"hash": "1" * 64},
    ],
)
def test_a_changed_column_is_found_at_its_row(
    log: list[Row], at: int, changes: dict[str, Any]
) -> None:
    log[at] = msgspec.structs.replace(log[at], **changes)
    with pytest.raises(CorruptLog) as caught:
        codec.check_chain(log, task_id=TASK)
    assert caught.value.seq == at + 1


def test_every_changed_bit_of_the_data_is_found(log: list[Row]) -> None:
    for byte in range(len(log[2].data)):
        data = bytearray(log[2].data)
        data[byte] ^= 1
        damaged = [*log[:2], msgspec.structs.replace(log[2], data=bytes(data)), log[3]]
        with pytest.raises(CorruptLog):
            codec.check_chain(damaged, task_id=TASK)


@pytest.mark.parametrize("at", range(3))
def test_a_missing_row_is_found(log: list[Row], at: int) -> None:
    del log[at]
    with pytest.raises(CorruptLog, match="is missing"):
        codec.check_chain(log, task_id=TASK)


def test_a_chain_alone_does_not_see_a_cut_tail(log: list[Row]) -> None:
    """So the head also stands in the task's row: see `test_driver`."""
    assert codec.check_chain(log[:-1], task_id=TASK) == log[2].hash != log[3].hash


def test_exchanged_rows_are_found(log: list[Row]) -> None:
    log[1], log[2] = log[2], log[1]
    with pytest.raises(CorruptLog):
        codec.check_chain(log, task_id=TASK)


def test_columns_cannot_be_moved_into_each_other() -> None:
    """Each column is hashed with its end."""
    a = codec.row_hash("p", "task", 1, "T", 1, 23, b"4")
    assert a != codec.row_hash("p", "task", 1, "T", 12, 3, b"4")
    assert a != codec.row_hash("p", "task", 1, "T", 1, 2, b"34")
