"""Whose turn it is: shares are equal, priorities count, and nobody waits for ever."""

from collections import Counter
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.loop.fairness import AGEING_SECONDS, Turns
from agent_runtime.types import Ready, TaskId

AGE_US = int(AGEING_SECONDS * 1e6)


def ready(submitter: str, number: int, *, priority: int = 5, since_us: int = 0) -> Ready:
    task_id = TaskId(f"task_{number:04}_{submitter}_{priority}")
    return Ready(task_id, submitter, priority, since_us, False)


def submitters(tasks: Iterable[Ready]) -> str:
    return "".join(task.submitted_by for task in tasks)


def begun(turns: Turns, tasks: Sequence[Ready], now_us: int = 0) -> None:
    for task in tasks:
        turns.begin(task, now_us)


def test_a_flood_of_one_submitter_leaves_the_others_their_part() -> None:
    """Ten were there an hour before two others: they gain nothing by it."""
    flood = [ready("a", n) for n in range(10)]
    others = [ready("b", 20, since_us=3600_000_000), ready("c", 21, since_us=3600_000_000)]
    turns = Turns()
    begun(turns, turns.choose(flood[:4], 4, 3599_000_000), 3599_000_000)
    assert submitters(turns.choose(flood[4:] + others, 4, 3600_000_000)) == "bcaa"


def test_who_has_the_fewest_running_is_next_and_then_whose_turn_is_longest_ago() -> None:
    turns = Turns()
    begun(turns, [ready("a", 1), ready("a", 2), ready("b", 3)])
    tasks = [ready(name, n) for n in range(10, 12) for name in "abc"]
    # Running before each turn: a2 b1 c0, a2 b1 c1 (b had a turn before, c has it just now), …
    assert submitters(turns.choose(tasks, 6, 0)) == "cbcaba"


def test_a_higher_priority_is_first_whoever_has_it() -> None:
    tasks = [ready("a", n, priority=9) for n in range(3)] + [ready("b", 5, priority=4)]
    assert submitters(Turns().choose(tasks, 4, 0)) == "aaab"


def test_the_lowest_priority_has_its_turn_beside_an_endless_stream_of_the_highest() -> None:
    """Bounded by ageing: ten levels, each worth `AGEING_SECONDS`."""
    turns, waiting, now_us, number = Turns(), ready("b", 0, priority=0), 0, 1
    while True:
        stream = [ready("a", number + n, priority=9, since_us=now_us) for n in range(3)]
        [chosen] = turns.choose([waiting, *stream], 1, now_us)
        if chosen is waiting:
            break
        turns.begin(chosen, now_us)
        turns.end(chosen.task_id)
        now_us, number = now_us + 10_000_000, number + 1
    assert 9 * AGE_US <= now_us <= 10 * AGE_US


def test_what_had_begun_goes_on_before_anything_new_begins() -> None:
    old = Ready(TaskId("task_9"), "a", 0, 0, True)
    assert Turns().choose([ready("b", 1, priority=9), old], 1, 0) == [old]


def test_a_submitter_has_at_most_so_many_at_once() -> None:
    turns = Turns(submitter_max=2)
    tasks = [ready("a", n) for n in range(5)] + [ready("b", 9)]
    first = turns.choose(tasks, 6, 0)
    assert sorted(submitters(first)) == ["a", "a", "b"]
    begun(turns, first)
    assert turns.choose(tasks[2:5], 6, 0) == []
    turns.end(first[0].task_id)
    assert len(turns.choose(tasks[2:5], 6, 0)) == (1 if first[0].submitted_by == "a" else 0)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=30),
    st.integers(0, 40),
    st.none() | st.integers(1, 4),
)
def test_as_many_as_fit_are_chosen_each_once_and_each_queue_in_its_order(
    wanted: list[tuple[str, int, bool]], room: int, most: int | None
) -> None:
    tasks = [
        Ready(TaskId(f"task_{n:04}"), name, priority, n, began)
        for n, (name, priority, began) in enumerate(wanted)
    ]
    chosen = Turns(submitter_max=most).choose(tasks, room, 10**9)
    by_submitter = Counter(task.submitted_by for task in tasks)
    fits = sum(min(count, most or count) for count in by_submitter.values())
    assert len(chosen) == len({task.task_id for task in chosen}) == min(room, fits)
    queues = [[t for t in chosen if (t.submitted_by, t.priority) == queue and not t.begun]
              for queue in {(t.submitted_by, t.priority) for t in chosen}]  # fmt: skip
    assert all(queue == sorted(queue, key=lambda t: t.task_id) for queue in queues)


def test_nothing_is_remembered_of_who_has_nothing_running() -> None:
    turns = Turns()
    begun(turns, [ready("a", 1)])
    turns.end(ready("a", 1).task_id)
    turns.end(ready("a", 1).task_id)
    assert not turns.running
