"""Stories: two logs tell the same, or part at the event that differs."""

from typing import Any

import msgspec
import pytest

from agent_runtime.loop import events as e
from agent_runtime.loop.stories import TASK, partings, story, text_of
from agent_runtime.types import Status
from tests.loop import recorded
from tests.loop.samples import SAMPLES

replace = msgspec.structs.replace


def test_a_log_tells_the_same_as_itself() -> None:
    for events in recorded.histories():
        assert partings(events, events) == []


def test_who_drove_it_and_in_which_order_reads_came_back_is_no_part_of_the_story() -> None:
    events = list(recorded.scene("parallel reads").events)
    first, second = [n for n, x in enumerate(events) if isinstance(x, e.CallReturned)][:2]
    moved = [*events[:first], *events[second:], *events[first:second]]
    owner = e.LeaseTaken(epoch=9, owner="somebody else")
    assert partings(events, [*moved[:5], owner, *moved[5:]]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ran 3 tests in 0.012s", "Ran 3 tests in 1.5s"),
        ("took 30 ms", "took 4 ms"),
        ("task_0123456789abcdef is over", "task_fedcba9876543210 is over"),
        ("commit 79a3be88ab7d", "commit 0123456789ab"),
        ("<object at 0x7f12>", "<object at 0x8000>"),
        ("limits.seconds is 20, used 20.1", "limits.seconds is 20, used 23.7"),
    ],
)
def test_times_ids_and_hashes_in_what_is_printed_make_no_difference(one: str, other: str) -> None:
    assert text_of(one) == text_of(other)


@pytest.mark.parametrize(("one", "other"), [("3 passed", "4 passed"), ("exit 1", "exit 2")])
def test_other_numbers_do(one: str, other: str) -> None:
    assert text_of(one) != text_of(other)


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [
        ("writes", e.CallIntended, {"arguments": {"text": "another"}}),
        ("writes", e.CallReturned, {"ok": False}),
        ("writes", e.CallReturned, {"output": "another"}),
        ("fallback", e.StepEvaluated, {"verdict": "continue"}),
        ("writes", e.VerificationEnded, {"ok": False}),
        ("writes", e.TaskConcluded, {"status": Status.FAILED}),
    ],
)
def test_two_logs_part_at_the_first_event_of_a_thread_that_differs(
    name: str, kind: type[e.Event], changes: dict[str, Any]
) -> None:
    events = list(recorded.scene(name).events)
    at = next(n for n, event in enumerate(events) if isinstance(event, kind))
    changed = [*events[:at], replace(events[at], **changes), *events[at + 1 :]]
    [parting] = partings(events, changed)
    assert parting.one is not None and parting.other is not None
    assert (parting.one.seq, parting.other.seq, parting.at) == (at + 1, at + 1, at + 1)
    assert parting.one.type == parting.other.type == kind.__name__
    assert parting.one.fields != parting.other.fields


def test_arguments_are_compared_as_they_are() -> None:
    """`sleep 1s` and `sleep 9s` are two commands."""
    made = SAMPLES["CallIntended"]
    assert isinstance(made, e.CallIntended)
    one, other = (replace(made, arguments={"command": f"sleep {n}s"}) for n in (1, 9))
    assert partings([one], [other])


def test_a_log_that_is_longer_parts_where_the_other_ends() -> None:
    events = recorded.scene("writes").events
    ends = next(n for n, event in enumerate(events) if isinstance(event, e.TaskConcluded))
    [parting] = partings(events, events[:ends])
    assert parting.thread == TASK and parting.other is None
    assert parting.one is not None and parting.one.type == "TaskConcluded"


def test_every_kind_of_event_can_be_told() -> None:
    for event in SAMPLES.values():
        threads = story([event])
        assert len(threads) <= 1
        assert not threads or next(iter(threads.values()))[0].type == type(event).__name__
