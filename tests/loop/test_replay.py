"""Replay: the same inputs give the same decisions, and every other decision is noticed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest

from agent_runtime.errors import CorruptLog
from agent_runtime.loop import codec, recovery
from agent_runtime.loop import events as e
from agent_runtime.loop import replay as replaying
from agent_runtime.loop.phases import LOOP_VERSION
from agent_runtime.loop.replay import Replayed, replay
from agent_runtime.types import Row
from tests.loop.recorded import logs, scene
from tests.simulation.world import TASK

FROM_OUTSIDE = {
    ("CallIntended", "tool"),
    ("CallIntended", "arguments"),
    ("CallIntended", "effect"),
    ("CallIntended", "tree_before"),
    ("ApprovalRequested", "preview"),
}
"""What a call was made ready with comes from outside of the core: it is taken as recorded."""


def chained(rows: Sequence[Row]) -> list[Row]:
    """The same events with numbers and hashes that fit: nothing but replay can notice a change."""
    made: list[Row] = []
    for seq, row in enumerate(rows, 1):
        head = made[-1].hash if made else codec.GENESIS
        digest = codec.row_hash(head, TASK, seq, row.type, row.schema, row.at_us, row.data)
        made.append(msgspec.structs.replace(row, seq=seq, prev_hash=head, hash=digest))
    codec.check_chain(made, task_id=TASK)
    return made


def another(value: Any) -> Any:
    """A value of the same kind that is not the same."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case list():
            return value[1:] if value else None
        case dict():
            return {**value, "x": 1}
        case _:
            return 1


def words_of(name: str, field: str) -> set[str]:
    """Every text that the logs have there: an enumeration takes no other."""
    found = (msgspec.json.decode(r.data)[field] for rows in logs() for r in rows if r.type == name)
    return {value for value in found if isinstance(value, str)}


def changed(row: Row, field: str, value: Any) -> Row | None:
    fields = msgspec.json.decode(row.data)
    made = msgspec.structs.replace(row, data=msgspec.json.encode({**fields, field: value}))
    try:
        codec.decode(made)
    except CorruptLog:
        return None
    return made


def changed_logs() -> Iterator[tuple[str, int, list[Row]]]:
    """Every field of every kind of decision, changed once: (field, its number, the log)."""
    done: set[tuple[str, str]] = set(FROM_OUTSIDE)
    for rows in logs():
        for row in rows:
            if row.type in codec.INPUT_TYPES:
                continue
            for name, value in msgspec.json.decode(row.data).items():
                if (row.type, name) in done:
                    continue
                others = sorted(words_of(row.type, name) - {value}) if type(value) is str else []
                tries = (changed(row, name, other) for other in (another(value), *others))
                made = next((found for found in tries if found is not None), None)
                if made is not None:
                    done.add((row.type, name))
                    log = chained([*rows[: row.seq - 1], made, *rows[row.seq :]])
                    yield f"{row.type}.{name}", row.seq, log


def difference(rows: Sequence[Row]) -> replaying.Difference:
    found = replay(rows).difference
    assert found is not None, "nothing was noticed"
    return found


def test_every_log_is_decided_in_the_same_way_again() -> None:
    """Our contract: recorded inputs in recorded order give the recorded bytes."""
    for rows in logs():
        found = replay(rows)
        assert found.ok and found.inputs + found.decisions == found.events == len(rows)
        assert [n for a, b in found.appends for n in range(a, b + 1)] == list(
            range(1, len(rows) + 1)
        )


def test_the_logs_hold_every_kind_of_decision() -> None:
    """Or the tests here would say less than they seem to."""
    kinds = {row.type for rows in logs() for row in rows} - codec.INPUT_TYPES
    assert kinds == set(codec.EVENT_TYPES) - codec.INPUT_TYPES


def test_a_change_of_any_field_of_any_decision_is_noticed_where_it_is() -> None:
    """A replay that lets one pass would be no proof."""
    seen = 0
    for name, seq, rows in changed_logs():
        found = replay(rows).difference
        assert found is not None and found.seq == seq, f"{name}: {found}"
        seen += 1
    assert seen > 40


def test_a_decision_that_is_left_out_is_noticed() -> None:
    for rows in logs()[:8]:
        for row in rows:
            if row.type not in codec.INPUT_TYPES:
                left = chained([*rows[: row.seq - 1], *rows[row.seq :]])
                # A call that nothing had announced is noticed when it returns.
                late = row.type == "CallIntended"
                assert late or difference(left).seq <= row.seq, row.type
                assert difference(left)


def test_a_log_that_ends_within_a_decision_is_noticed() -> None:
    """An append is stored whole or not at all."""
    rows = logs()[0]
    ends = {last for _, last in replay(rows).appends}
    for last in range(1, len(rows)):
        found = replay(rows[:last])
        assert found.ok is (last in ends)
        if found.difference is not None:
            assert found.difference.stored is None
            assert "would follow, and the log ends" in found.difference.words


def test_another_rule_is_named_with_the_field_that_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first difference, and not what follows from it."""
    rows = scene("fallback").rows
    assert replay(rows).ok
    monkeypatch.setattr(recovery, "RETRY_DELAY_MS", 250)
    found = difference(rows)
    chosen = next(row for row in rows if row.type == "RecoveryChosen")
    assert found.seq == chosen.seq
    assert found.differing() == [("delay_ms", 100, 250)]
    assert found.words == "delay_ms is 100, would be 250"


def test_another_decision_is_named_with_both(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = scene("fallback").rows
    monkeypatch.setattr(recovery, "_same_way", lambda *args: None)
    found = difference(rows)
    assert found.stored is not None and found.decided is not None
    assert (found.stored.type, found.decided.type) == ("RecoveryChosen", "RecoveryChosen")
    assert ("strategy", "retry", "fallback") in found.differing()


def test_an_input_that_the_core_cannot_take_any_more_is_a_difference() -> None:
    """Not an exception: the log is what was written."""
    rows = logs()[0]
    intended = next(row for row in rows if row.type == "CallIntended")
    returned = next(row for row in rows if row.type == "CallReturned")
    without = chained([*rows[: intended.seq - 1], *rows[returned.seq - 1 :]])
    assert "it cannot happen here any more" in difference(without).words


def test_the_version_of_the_loop_that_a_task_was_made_with_is_told() -> None:
    rows = list(logs()[0])
    first = codec.decode(rows[0])
    assert isinstance(first, e.TaskSubmitted)
    older = msgspec.structs.replace(first, loop_version=99)
    rows[0] = msgspec.structs.replace(rows[0], data=msgspec.json.encode(older))
    found: Replayed = replay(chained(rows))
    assert (found.ok, found.loop_version) == (True, 99)


def test_an_older_stored_form_of_a_decision_is_compared_by_its_fields(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new field does not make every old log differ; its upcaster says what it was."""
    rows = logs()[0]
    seq = next(row.seq for row in rows if row.type == "StepSucceeded")
    data = rows[seq - 1].data.replace(b"step_id", b"step")
    older = [msgspec.structs.replace(row, schema=0, data=data) if row.seq == seq else row
             for row in rows]  # fmt: skip
    renamed: Callable[[dict[str, Any]], dict[str, Any]] = lambda old: {"step_id": old["step"]}  # noqa: E731
    monkeypatch.setattr(codec, "UPCASTERS", {("StepSucceeded", 0): renamed})
    assert replay(chained(older)).ok


@pytest.mark.parametrize("version", [LOOP_VERSION, LOOP_VERSION + 1])
def test_a_field_that_another_version_did_not_know_makes_no_difference(version: int) -> None:
    """What this version writes, it must write again byte for byte."""
    rows = list(scene("fallback").rows)
    first = msgspec.json.decode(rows[0].data)
    data = msgspec.json.encode({**first, "loop_version": version})
    rows[0] = msgspec.structs.replace(rows[0], data=data)
    seq = next(row.seq for row in rows if row.type == "StepEvaluated")
    assert b',"toolbelt":""' in rows[seq - 1].data
    without = rows[seq - 1].data.replace(b',"toolbelt":""', b"")
    rows[seq - 1] = msgspec.structs.replace(rows[seq - 1], data=without)
    found = replay(chained(rows)).difference
    assert (found.seq if found is not None else None) == (seq if version == LOOP_VERSION else None)


def test_facts_from_outside_are_what_people_and_submissions_append() -> None:
    """Whoever drives appends none of them."""
    assert {kind.__name__ for kind in replaying.OUTSIDE} == {
        "TaskSubmitted", "CancelRequested", "PauseRequested", "ResumeRequested", "Steered",
        "TaskChanged",
        "Continued", "Forked", "ApprovalDecided", "ModelReplied", "PublicationRequested",
        "CallRequested", "CallWithdrawn",
    }  # fmt: skip
