from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from msgspec import inspect as kinds

from agent_runtime.cli.console import clean, counted, lasted, one_line, short_ids
from agent_runtime.cli.summary import waiting_lines
from agent_runtime.cli.words import (
    asked_words,
    call_words,
    told_words,
    warns,
    words,
    worth_telling,
)
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.state import Publication, State
from agent_runtime.types import PublishSpec, Strategy

HOSTILE = "a\x1b[31mred\x07\nb\u202ec"


def sample(kind: kinds.Type) -> Any:
    """Some value of a type; every text of it is hostile."""
    match kind:
        case kinds.StructType(cls=cls, fields=fields):
            return cls(**{field.name: sample(field.type) for field in fields})
        case kinds.StrType():
            return HOSTILE
        case kinds.LiteralType(values=values):
            return values[-1]
        case kinds.EnumType(cls=cls):
            return next(iter(cls))
        case kinds.UnionType(types=types):
            return sample(types[0])
        case kinds.ListType(item_type=item):
            return [sample(item)]
        case kinds.TupleType(item_types=items):
            return tuple(sample(item) for item in items)
        case kinds.DictType(value_type=value):
            return {HOSTILE: sample(value)}
        case kinds.BoolType():
            return True
        case kinds.IntType() | kinds.FloatType():
            return 1
        case kinds.AnyType():
            return HOSTILE
        case _:
            raise NotImplementedError(kind)


@pytest.mark.parametrize("name", sorted(codec.EVENT_TYPES))
def test_every_event_has_words_on_one_harmless_line(name: str) -> None:
    """Goals and outputs come from repositories: a terminal must not obey them."""
    kind = codec.EVENT_TYPES[name]
    event = cast(e.AnyEvent, sample(kinds.type_info(kind)))
    said = clean(words(event))
    assert said and "\x1b" not in said and "\x07" not in said and "\u202e" not in said
    assert isinstance(warns(event), bool) and isinstance(worth_telling(event), bool)


def test_a_call_is_told_by_the_argument_that_says_most() -> None:
    assert call_words("shell", {"command": ["git", "log", "a b"]}) == "shell git log 'a b'"
    assert call_words("edit_file", {"edits": [], "path": "a.py"}) == "edit_file a.py"
    assert call_words("git_status", {}) == "git_status"


def test_a_question_shows_every_argument_whole() -> None:
    """Nobody can approve what is cut off."""
    command = "true; " * 500 + "rm -rf build"
    asked = e.ApprovalRequested(
        approval_id="a1", step_id="s", subject="call", tool="shell",
        arguments={"command": command}, digest="", expires_at_us=0, question="May it?",
    )  # fmt: skip
    assert command in asked_words(asked)


def test_durations_are_short() -> None:
    seconds = (0.04, 9.94, 59, 185, 7800, 4 * 86_400)
    assert [lasted(s) for s in seconds] == ["0.0s", "9.9s", "59s", "3m05", "2h10", "4d"]


def test_short_ids_grow_until_they_differ() -> None:
    ids = ["task_1aaaabbbbcccc", "task_2aaaabbbbcccc", "task_9"]
    assert len(set(short_ids(ids).values())) == 3
    assert short_ids(["task_0123456789ab"]) == {"task_0123456789ab": "456789ab"}


def test_one_line_is_one_line() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"


def test_one_of_something_is_no_plural() -> None:
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_who_watches_reads_a_failure_once() -> None:
    """Found as a user: the abort, the step and the task each told it."""
    failed = e.StepFailed(step_id="a", kind="failed", reason="expected exit 0, got exit 3")
    chosen = e.RecoveryChosen(
        step_id="a", strategy=Strategy.ABORT, kind="failed", reason=failed.reason, delay_ms=0
    )
    before = State(task_id="task_1")
    after = msgspec.structs.replace(before, abort=failed)
    assert not worth_telling(chosen) and worth_telling(failed)
    assert told_words(failed, after) == "a: failed"
    # Where a fallback stands in, the task does not end with it.
    assert told_words(failed, before) == words(failed) == "a: failed: expected exit 0, got exit 3"


def test_what_ends_a_publication_is_said_by_the_last_lines_alone() -> None:
    """Found as a user: three lines said that the password was wrong."""
    failed = e.PublicationFailed(what="prepare", kind="denied", message="a wrong password")
    ended = e.PublicationEnded(ok=False, reason="the commit could not be made: a wrong password")
    publication = Publication(spec=PublishSpec(), failure=failed)
    state = State(task_id="task_1", publication=publication)
    assert told_words(failed, state) == "not published (prepare)"
    assert told_words(ended, state) == "NOT published"
    again = State(task_id="task_1", publication=Publication(spec=PublishSpec()))
    assert "a wrong password" in told_words(failed, again)  # one that is tried again


def test_a_waiting_task_that_somebody_drives_needs_no_resume() -> None:
    """Found as a user: approving is enough, and the hint told to resume."""
    asked = e.ApprovalRequested(
        approval_id="a1", step_id="a", tool="shell", arguments={}, subject="call",
        question="May it?", digest="", expires_at_us=0,
    )  # fmt: skip
    state = State(task_id="task_0123456789", approvals={"a1": asked})
    assert "resume" in waiting_lines(state)[-1]
    told = "\n".join(waiting_lines(state, driven=True))
    assert "resume" not in told and "approve" in told and "by itself" in told
