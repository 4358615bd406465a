"""The client without a connection: what is sent, what is tried again, where a stream goes on."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import inbox
from agent_runtime.api import hooks, operations, problems
from agent_runtime.api import streams as served
from agent_runtime.api import tasks as api_tasks
from agent_runtime.api import views as api_views
from agent_runtime.api.routes import OPERATIONS
from agent_runtime.client import AsyncClient, Client, asks, views
from agent_runtime.client.following import Broken, Following, Output
from agent_runtime.client.patience import Failure, Patience, is_busy
from agent_runtime.client.problems import error_of, problem_in
from agent_runtime.client.sse import Frames
from agent_runtime.client.views import Event
from agent_runtime.errors import (
    AgentRuntimeError,
    Conflict,
    Fault,
    Forbidden,
    IdempotencyMismatch,
    MovedOn,
    NotFound,
    Overloaded,
    SandboxUnavailable,
    StoreUnavailable,
    TooManyRequests,
    Unauthenticated,
    Unreachable,
    UsageError,
)
from agent_runtime.taskfile import parse_task_json
from agent_runtime.types import StepSpec, TaskSpec

T = "task_" + "0" * 32
ALL: list[asks.Ask[Any]] = [
    asks.submit({"goal": "x"}, key="k"), asks.submit_all([{"goal": "x"}], key="k"), asks.page(),
    asks.get(T), asks.change(T, labels={}, priority=1), asks.forget(T), asks.events(T),
    asks.all_events(), asks.log(T),
    asks.steer(T, "x", key="k"), asks.cancel(T), asks.pause(T), asks.resume(T),
    asks.continue_task(T, {}, key="k"),
    asks.fork(T, at=1, key="k"), asks.replay(T), asks.approvals(), asks.decide("a", "approve"),
    asks.plan(T), asks.diff(T), asks.artifacts(T), asks.cost(T), asks.certificate(T),
    asks.report(T), asks.verify(T), asks.tools(), asks.modules(), asks.models(), asks.livez(),
    asks.readyz(), asks.metrics(), asks.openapi(), asks.create_key("x"), asks.keys(),
    asks.key("k"), asks.upload("x"), asks.branch(T), asks.publish(T), asks.revoke_key("k"),
    asks.audit(), asks.inbox(), asks.create_webhook("https://x.example"), asks.webhooks(),
    asks.webhook("w"), asks.change_webhook("w", types=[]), asks.delete_webhook("w"),
    asks.enable_webhook("w"), asks.disable_webhook("w"), asks.rotate_webhook("w"),
    asks.ping_webhook("w"), asks.deliveries("w"), asks.redeliver("w", "d"),
    asks.create_hook("x", "github", {"goal": "x"}), asks.hooks(), asks.hook("h"),
    asks.change_hook("h", enabled=False), asks.delete_hook("h"), asks.try_hook("h", {}),
    asks.rotate_hook("h"),
    asks.call_hook("h", b"{}", {}),
]  # fmt: skip


def test_every_operation_of_the_daemon_can_be_asked_for() -> None:
    """What has a route has a method; what has none would be a method that cannot work."""
    served = {(each.method, each.path) for each in OPERATIONS}
    asked = set()
    for ask in ALL:
        path = ask.path.partition("?")[0]
        fits = [
            (method, pattern)
            for method, pattern in served
            if method == ask.method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", pattern), path)
        ]
        # A word of its own is nearer than a parameter.
        asked.add(max(fits, key=lambda each: -each[1].count("{")))
    assert asked == served


def test_both_clients_have_the_same_methods() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name: [str(each) for each in inspect.signature(method).parameters.values()]
            for name, method in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)


@pytest.mark.parametrize(
    "view",
    [
        kind
        for kind in vars(views).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        and kind.__module__ == views.__name__ and kind not in (views.Event, views.EventPage)
    ],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_a_view_is_the_daemon_s_own(view: type[msgspec.Struct]) -> None:
    """What the client reads in its own way must not part from what is sent."""
    places = (problems, api_tasks)
    found = [getattr(place, view.__name__) for place in places if hasattr(place, view.__name__)]
    assert found
    assert view.__struct_fields__ == found[0].__struct_fields__


def test_words_that_an_older_client_reads_over_are_those_of_the_daemon() -> None:
    """The document names them, a Struct takes any."""
    for told, words in ((api_views.InboxKind, inbox.Kind), (api_views.HookScheme, hooks.Scheme)):
        assert msgspec.json.schema(told)["enum"] == list(get_args(words))
    taken = msgspec.json.decode(b'{"status": "something new"}', type=views.HookTaken)
    assert taken.status == "something new"


def test_an_event_is_the_daemon_s_own() -> None:
    assert Event.__struct_fields__ == served.PositionedEvent.__struct_fields__
    assert views.EventPage.__struct_fields__ == served.EventPage.__struct_fields__
    assert operations  # the registry that OPERATIONS comes from


def test_a_task_is_sent_without_what_is_as_usual_and_is_read_as_it_was() -> None:
    """A daemon of another version has its own defaults, and refuses keys that it does not know."""
    spec = TaskSpec(goal="x", labels={"a": "b"}, limits=msgspec.structs.replace(
        TaskSpec(goal="").limits, steps=7))  # fmt: skip
    body = asks.submit(spec, key="k").body
    assert body is not None
    assert json.loads(body) == {"goal": "x", "labels": {"a": "b"}, "limits": {"steps": 7}}
    assert parse_task_json(body, base_dir="/") == spec
    step = StepSpec(id="a", tool="shell", args={"command": "true", "cwd": None})
    assert json.loads(asks.submit({"goal": "x", "plan": {"steps": [step]}}, key="k").body or b"")[
        "plan"
    ]["steps"] == [{"id": "a", "tool": "shell", "args": {"command": "true", "cwd": None}}]


# ---- streams -----------------------------------------------------------------------------


def event(seq: int, kind: str = "PhaseEntered") -> bytes:
    data = {"task_id": T, "seq": seq, "type": kind, "schema": 1, "at_us": seq, "data": {"n": seq},
            "prev_hash": "", "hash": ""}  # fmt: skip
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


STREAM = b"".join(
    [
        *(b"\xef\xbb\xbfretry: 2000\nid: 0\n\n", event(1), b": beat\nid: 1\n\n", event(2)),
        b'event: output\ndata: {"text": "h\xc3\xa4"}\n\n',
        *(event(3).replace(b"\n", b"\r\n"), event(4)),
    ]
)


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_is_read_alike_wherever_it_is_cut(cuts: list[int]) -> None:
    following, places = Following(T), [0, *sorted(cuts), len(STREAM)]
    following.ask()
    found = [said for a, b in pairwise(places) for said in following.feed(STREAM[a:b])]
    assert [said.seq if isinstance(said, Event) else said for said in found] == [
        1, 2, Output("hä"), 3, 4,
    ]  # fmt: skip


def test_a_stream_that_was_cut_is_asked_for_behind_what_was_seen() -> None:
    following = Following(T)
    assert "Last-Event-ID" not in following.ask()[1]
    following.feed(event(1) + event(2) + event(3)[:20])
    path, headers = following.ask()
    assert headers["Last-Event-ID"] == "2" and "after=2" in path
    # The half of event 3 is forgotten, and what comes twice is dropped.
    assert [s.seq for s in following.feed(event(2) + event(3)) if isinstance(s, Event)] == [3]


def test_a_hole_is_never_handed_on() -> None:
    following = Following(T, after=4)
    following.ask()
    with pytest.raises(Broken, match="event 6 came after event 4"):
        following.feed(event(6))
    assert following.last == 4


def test_a_filtered_stream_knows_its_end_and_shows_only_what_is_wanted() -> None:
    following = Following(T, types={"CallReturned"})
    assert "types=CallReturned%2CTaskEnded" in following.ask()[0]
    found = following.feed(event(3, "CallReturned") + b"id: 7\n\n" + event(9, "TaskEnded"))
    assert [s.seq for s in found if isinstance(s, Event)] == [3]
    assert following.last == 9


def test_what_is_no_event_is_as_good_as_a_cut_line() -> None:
    following = Following(T)
    following.ask()
    with pytest.raises(Broken):
        following.feed(b"id: 1\ndata: <html>\n\n")


def test_an_id_without_data_moves_on_and_is_no_event() -> None:
    assert [f.data for f in Frames().feed(b"id: 5\n\ndata: x\n\n")] == [None, b"x"]


# ---- what is tried again -----------------------------------------------------------------


def waits(patience: Patience, failure: Failure, retry_after: str | None = None) -> Iterator[float]:
    now = 0.0
    while (seconds := patience.wait(failure, now, retry_after)) is not None:
        now += seconds
        yield now


def test_what_changes_nothing_twice_is_tried_again_until_patience_ends() -> None:
    times = list(waits(Patience(30.0, again=True), Failure.LOST))
    assert len(times) > 10 and times[-1] <= 30


def test_what_might_be_done_twice_is_sent_again_only_if_it_was_never_sent() -> None:
    assert not list(waits(Patience(30.0, again=False), Failure.LOST))
    assert not list(waits(Patience(30.0, again=False), Failure.BUSY, "1"))
    assert list(waits(Patience(30.0, again=False), Failure.REFUSED))


def test_retry_after_is_heeded() -> None:
    assert list(waits(Patience(30.0, again=True), Failure.BUSY, "7")) == [7, 14, 21, 28]
    assert not list(waits(Patience(30.0, again=True), Failure.BUSY, "3600"))
    assert is_busy(503, "store-unavailable", "1") and is_busy(429, "", None)
    assert is_busy(503, "overloaded", "2") and not is_busy(429, "allowance-spent", "3600")
    assert not is_busy(503, "sandbox-unavailable", "1") and not is_busy(500, "internal", None)


@pytest.mark.parametrize(
    ("status", "kind", "wanted"),
    [
        (401, "about:blank", Unauthenticated), (403, "/problems/forbidden", Forbidden),
        (404, "/problems/not-found", NotFound), (409, "/problems/conflict", Conflict),
        (412, "/problems/moved-on", MovedOn), (422, "/problems/invalid-input", UsageError),
        (422, "/problems/idempotency-mismatch", IdempotencyMismatch),
        (429, "about:blank", TooManyRequests), (413, "/problems/too-large", UsageError),
        (503, "/problems/store-unavailable", StoreUnavailable),
        (503, "/problems/sandbox-unavailable", SandboxUnavailable),
        (500, "/problems/internal", AgentRuntimeError), (418, "/problems/new", UsageError),
    ],
)  # fmt: skip
def test_a_problem_is_the_error_that_the_runtime_would_raise(
    status: int, kind: str, wanted: type[AgentRuntimeError]
) -> None:
    body = msgspec.json.encode({"type": kind, "title": "t", "status": status, "detail": "why"})
    error = error_of(problem_in(status, body))
    assert type(error) is wanted and "why" in str(error)


def test_every_error_of_the_api_comes_back_as_itself() -> None:
    """`api.problems` writes them, `client.problems` reads them."""
    for kind, *_ in problems._KINDS:
        if kind.__name__ in ("CorruptLog", "AllowanceSpent"):
            continue  # they are made of more than words
        error = kind("why") if kind is not Overloaded else Overloaded("w", retry_after_seconds=3)
        answer = problems.problem_of(error)
        assert type(error_of(problem_in(answer.status, answer.body))) is kind


def test_faults_come_with_their_places() -> None:
    given = UsageError("wrong", faults=[Fault(("plan", "steps", 0, "a/b"), "is no tool")])
    answer = problems.problem_of(given)
    error = error_of(problem_in(answer.status, answer.body))
    assert isinstance(error, UsageError) and error.faults == given.faults


def test_what_a_proxy_says_is_told_as_it_is() -> None:
    assert "Bad Gateway" in str(error_of(problem_in(502, b"<h1>Bad Gateway</h1>")))


def test_another_program_at_the_daemon_s_address_is_not_taken_for_one_without_that_task() -> None:
    """Found as a user: `ps` at a wrong port printed a page of HTML and ended with 5."""
    error = error_of(problem_in(404, b"<!DOCTYPE HTML>\n<html>\n  <h1>Error response</h1>"))
    assert type(error) is Unreachable and error.exit_code == 7
    assert "is no agent-runtime" in str(error) and "\n" not in str(error)
