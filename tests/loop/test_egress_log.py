"""What left a sandbox, on its way into the log: before the result, once, bounded."""

from collections.abc import Callable

import pytest

from agent_runtime.loop import events as e
from agent_runtime.loop.egress import LISTED_MAX, EgressLog
from agent_runtime.loop.journal import Journal
from agent_runtime.loop.reached import (
    HOSTS_MAX,
    Reached,
    away_words,
    connection_words,
    observe,
    told,
)
from agent_runtime.ports import EgressRecord
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.types import ToolCall
from tests.loop.harness import TASK, Bench, Script, step, task

pytestmark = pytest.mark.anyio


def record(kind: str, number: int, host: str = "a.org", **more: object) -> EgressRecord:
    values: dict[str, object] = {"port": 443, "method": "CONNECT", "address": "192.0.2.1", **more}
    return EgressRecord(kind=kind, number=number, host=host, **values)  # type: ignore[arg-type]


def going_out(bench: Bench, *records: EgressRecord) -> Callable[[ToolCall], None]:
    """What a tool does in the sandbox."""

    def work(call: ToolCall) -> None:
        (session,) = bench.sandbox.live
        assert session.spec.egress_heard is not None
        for one in records:
            session.spec.egress_heard(one)

    return work


async def test_connections_that_look_the_same_are_one_entry_before_the_result() -> None:
    """An installation of packages makes a hundred connections and one append."""
    look = Script("look", where="worker")
    bench = Bench(look)
    many = [record("opened", n) for n in range(100)]
    many += [record("closed", n, bytes_sent=2, bytes_received=30) for n in range(99)]
    look.work = going_out(bench, *many, record("refused", 100, "b.org", address="", reason="no"))
    state = await bench.run(task(step("a", "look")))
    (seen,) = bench.of(e.EgressObserved)
    same = {"host": "a.org", "port": 443, "source": "a.1", "method": "CONNECT"}
    there = {**same, "address": "192.0.2.1"}
    assert seen == e.EgressObserved(
        entries=[
            e.EgressEntry(kind="opened", count=100, **there),  # type: ignore[arg-type]
            e.EgressEntry(
                kind="closed", count=99, bytes_sent=198, bytes_received=2970, **there  # type: ignore[arg-type]
            ),
            e.EgressEntry(kind="refused", reason="no", **{**same, "host": "b.org"}),  # type: ignore[arg-type]
        ],
    )  # fmt: skip
    kinds = [type(event) for event in bench.events()]
    assert kinds.index(e.EgressObserved) < kinds.index(e.CallReturned)
    assert told(state.reached) == {
        "hosts": [
            {"host": "a.org", "port": 443, "connections": 100, "by_setup": 0, "not_ended": 1,
             "bytes_sent": 198, "bytes_received": 2970},
        ],
        "turned_away": [
            {"host": "b.org", "port": 443, "refused": 1, "failed": 0, "reason": "no"},
        ],
        "left_out": 0,
    }  # fmt: skip


async def test_a_task_that_does_not_go_out_says_nothing_about_it() -> None:
    bench = Bench(Script("look", where="worker"))
    state = await bench.run(task(step("a", "look")))
    assert bench.of(e.EgressObserved) == []
    assert state.reached == Reached()


async def test_what_ends_later_belongs_to_the_call_that_opened_it() -> None:
    """A process that a call left behind talks on."""
    first, second = Script("first", where="worker"), Script("second", where="worker")
    bench = Bench(first, second)
    first.work = going_out(bench, record("opened", 1))
    second.work = going_out(bench, record("closed", 1))
    await bench.run(task(step("a", "first"), step("b", "second", needs=["a"])))
    one, two = bench.of(e.EgressObserved)
    assert [entry.source for entry in (*one.entries, *two.entries)] == ["a.1", "a.1"]


async def journal_of(bench: Bench) -> Journal:
    await bench.submit(task(step("a", "look")))
    store = MemoryStore(bench.shared)
    journal = Journal(await store.claim(TASK), store, bench.clock, bench.bus)
    await journal.open()
    return journal


async def test_another_sandbox_names_its_source_and_what_is_too_much_is_counted() -> None:
    """A setup's sandbox, say. Who asks for a thousand names does not hide whom it talked to."""
    bench = Bench(Script("look"))
    egress = EgressLog(await journal_of(bench))
    heard = egress.hear("setup")
    for number in range(1000):
        heard(record("refused", number, f"{number}.org", address="", bytes_sent=1))
    heard(record("opened", 1000))
    await egress.store()
    await egress.store()
    (seen,) = bench.of(e.EgressObserved)
    assert {entry.source for entry in seen.entries} == {"setup"}
    assert (len(seen.entries), seen.left_out) == (LISTED_MAX + 1, 1000 - LISTED_MAX)
    assert seen.bytes_sent_left_out == 1000 - LISTED_MAX
    (host,) = bench.state().reached.hosts.values()
    assert connection_words(host).startswith("1 connection (1 by setup), 0 bytes out")


async def test_a_record_that_begins_anew_is_stored_all_the_same() -> None:
    """Somebody removed the file while the task went on."""
    bench = Bench(Script("look"))
    egress = EgressLog(await journal_of(bench))
    for number, mark in ((1, 900), (2, 100), (3, 200)):
        egress.hear()(record("opened", number, mark=mark))
        await egress.store()
    assert bench.state().reached.hosts["a.org:443"].opened == 3
    assert bench.state().reached.mark == 900


async def test_one_source_has_one_callback() -> None:
    """A worker that was started before it was needed is handed out to an equal spec only."""
    egress = EgressLog(await journal_of(Bench(Script("look"))))
    assert egress.hear() is egress.hear()
    assert egress.hear("setup") is not egress.hear()


def test_a_state_knows_a_bounded_number_of_hosts() -> None:
    reached = Reached()
    for number in range(HOSTS_MAX + 7):
        entry = e.EgressEntry(kind="refused", host=f"{number}.org", port=1, reason="no", count=2)
        reached = observe(reached, e.EgressObserved(entries=[entry]))
    assert (len(reached.turned_away), reached.left_out) == (HOSTS_MAX, 14)
    assert away_words(reached.turned_away["0.org:1"]) == "refused 2 times"


class Files:
    """A sandboxes' own record, with one line."""

    def after(self, owner_id: str, mark: int) -> list[EgressRecord]:
        line = record("opened", 1, mark=9)
        return [line] if mark < 9 else []


async def test_what_a_killed_owner_heard_is_picked_up_once() -> None:
    look = Script("look", where="worker", answers=[60.0])
    bench = Bench(look)
    look.work = going_out(bench, record("opened", 1, mark=9))
    await bench.submit(task(step("a", "look")))
    await bench.drive_and_die(30, egress_files=Files())
    assert bench.of(e.EgressObserved) == []
    look.work = lambda call: None
    await bench.drive(egress_files=Files())
    (seen,) = bench.of(e.EgressObserved)
    assert [(entry.source, entry.count) for entry in seen.entries] == [("a.1", 1)]
    assert seen.mark == 9
