"""How a kept call goes on."""

from typing import Any

from agent_runtime.kept_calls.records import (
    GRACE_MS,
    RUNS_MAX,
    Asker,
    KeptCall,
    answered,
    asking,
    ended,
    found_dead,
    hash_of,
)

FORM = ("elicitation/create", {"message": "?"})
YES = {"action": "accept"}


def call(**more: Any) -> KeptCall:
    values: dict[str, Any] = {
        "call_id": "call_1", "server": "tools", "caller": "key:ci", "tool": "shell",
        "asker": Asker(subject="ci", how="key"), "arguments": {"command": "true"},
        "arguments_hash": "", "created_at_us": 5_000, "updated_at_us": 5_000, "ttl_ms": 60_000,
    }  # fmt: skip
    return KeptCall(**values | more)


def test_the_first_end_counts_and_takes_the_arguments_along() -> None:
    one = ended(call(), "cancelled", at_us=6_000, message="enough")
    assert (one.state, one.arguments, one.updated_at_us) == ("cancelled", {}, 6_000)
    assert ended(one, "completed", at_us=7_000, result={"content": []}) == one
    assert asking(one, {"a": FORM}, at_us=7_000) == one == answered(one, {"a": YES}, at_us=7_000)
    assert found_dead(one, at_us=7_000) == one


def test_a_result_is_kept_for_its_time_and_for_a_while_after_a_long_run() -> None:
    assert call().expires_at_us == 0
    assert ended(call(), "completed", at_us=6_000).ttl_ms == GRACE_MS + 1
    long = call(ttl_ms=10 * GRACE_MS)
    assert ended(long, "completed", at_us=6_000).expires_at_us == 5_000 + 10 * GRACE_MS * 1000


def test_it_asks_until_everything_is_answered_and_nothing_twice() -> None:
    asked = asking(call(), {"a": FORM, "b": FORM}, at_us=6_000)
    assert (asked.state, list(asked.questions)) == ("asking", ["a", "b"])
    assert answered(asked, {"c": YES}, at_us=7_000) == asked, "nobody asked that"
    half = answered(asked, {"a": YES}, at_us=7_000)
    assert (half.state, list(half.questions)) == ("asking", ["b"])
    assert answered(half, {"a": {"action": "decline"}}, at_us=8_000) == half, "it was answered"
    whole = answered(half, {"b": YES}, at_us=8_000)
    assert (whole.state, whole.answers) == ("working", {"a": YES, "b": YES})
    assert asking(whole, {"b": FORM}, at_us=9_000).state == "working"


def test_a_run_that_passes_known_questions_loses_no_answer_to_a_later_one() -> None:
    """A daemon was killed while the second question was open; its answer comes early."""
    first = answered(asking(call(), {"a": FORM}, at_us=6_000), {"a": YES}, at_us=6_000)
    killed = asking(first, {"b": FORM}, at_us=7_000)
    again = asking(killed, {"a": FORM}, at_us=8_000)
    assert (again.state, list(again.questions)) == ("working", ["b"])
    told = answered(again, {"b": YES}, at_us=9_000)
    assert asking(told, {"b": FORM}, at_us=9_000).answers == {"a": YES, "b": YES}


def test_what_died_goes_on_only_where_that_is_safe() -> None:
    lost = found_dead(call(), at_us=6_000)
    assert lost.state == "failed" and lost.error is not None
    assert "effect is unknown" in str(lost.error["message"])
    assert found_dead(call(repeatable=True), at_us=6_000) == call(repeatable=True, runs=2)
    asked = asking(call(), {"a": FORM}, at_us=6_000)
    assert found_dead(asked, at_us=7_000) == asked, "nothing before a question may harm twice"
    assert found_dead(answered(asked, {"a": YES}, at_us=7_000), at_us=8_000).state == "failed"
    worn = call(repeatable=True, runs=RUNS_MAX)
    assert f"ended {RUNS_MAX} times" in found_dead(worn, at_us=6_000).message


def test_the_same_call_has_the_same_hash_however_it_is_written() -> None:
    assert hash_of("a", {"x": 1, "y": {"p": 1, "q": 2}}) == hash_of(
        "a", {"y": {"q": 2, "p": 1}, "x": 1}
    )
    assert hash_of("a", {"x": 1}) != hash_of("b", {"x": 1}) != hash_of("b", {"x": 2})
