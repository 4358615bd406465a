"""What every `NoticeStore` promises. A new one adds a line to `World.open`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent_runtime.errors import Conflict, NotFound
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.records import WEBHOOKS_MAX, Delivery, Hook, Try, Webhook
from agent_runtime.notices.retries import HORIZON_SECONDS
from agent_runtime.stores.memory_notices import MemoryNotices, SharedNotices
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.stores.sqlite_notices import SqliteNotices

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """Opens stores on one set of data: each is one process."""

    def __init__(self, kind: str, directory: Path, stack: AsyncExitStack) -> None:
        self._kind, self._directory, self._stack = kind, directory, stack
        self._shared = SharedNotices()

    async def open(self) -> NoticeStore:
        if self._kind == "memory":
            return MemoryNotices(self._shared)
        store = await SqliteStore.open(self._directory / "store.db")
        self._stack.push_async_callback(store.close)
        return SqliteNotices(store)


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(request.param, tmp_path, stack)


def webhook(webhook_id: str = "wh_1", **more: Any) -> Webhook:
    return Webhook(
        webhook_id=webhook_id, url="https://x.example/", secret="whsec_AAAA", made_at_us=5,
        made_by="key:boss", since=0, **more,
    )  # fmt: skip


def hook(hook_id: str, name: str) -> Hook:
    return Hook(
        hook_id=hook_id, name=name, scheme="github", secret="s", task={"goal": "x"}, made_at_us=5,
        made_by="key:boss",
    )  # fmt: skip


def delivery(message_id: str = "msg_1", *, target: str = "wh_1", due_us: int = 10) -> Delivery:
    return Delivery(
        target=target, message_id=message_id, type="TaskEnded", body=b"{}", made_at_us=5,
        next_at_us=due_us, task_id="task_1", seq=3,
    )  # fmt: skip


async def test_webhooks_are_found_as_they_were_kept_changed_and_forgotten(world: World) -> None:
    one, other = await world.open(), await world.open()
    await one.add_webhook(webhook("wh_2", types=("TaskEnded",), labels={"team": "x"}))
    await one.add_webhook(webhook("wh_1"))
    before, found = await other.webhooks()
    assert [each.webhook_id for each in found] == ["wh_1", "wh_2"]
    changed = await other.change_webhook("wh_1", lambda each: replace(each, enabled=False))
    assert not changed.enabled and await one.webhook("wh_1") == changed
    after, _ = await one.webhooks()
    assert after > before
    await one.change_webhook("wh_1", lambda each: each)
    assert (await one.webhooks())[0] == after, "what stays as it is, is no change"
    await one.delete_webhook("wh_1")
    for asked in (other.webhook("wh_1"), other.delete_webhook("wh_1")):
        with pytest.raises(NotFound, match="'wh_1'"):
            await asked


async def test_there_are_only_so_many_webhooks(world: World) -> None:
    store = await world.open()
    for number in range(WEBHOOKS_MAX):
        await store.add_webhook(webhook(f"wh_{number}"))
    with pytest.raises(Conflict, match=str(WEBHOOKS_MAX)):
        await store.add_webhook(webhook("wh_more"))


async def test_the_name_of_a_hook_stands_for_one(world: World) -> None:
    store = await world.open()
    await store.add_hook(hook("b", "two"))
    await store.add_hook(hook("a", "three"))
    with pytest.raises(Conflict, match="'two'"):
        await store.add_hook(hook("c", "two"))
    with pytest.raises(Conflict, match="'two'"):
        await store.change_hook("a", lambda each: replace(each, name="two"))
    await store.change_hook("a", lambda each: replace(each, name="one"))
    assert [each.hook_id for each in await store.hooks()] == ["a", "b"]
    await store.delete_hook("a")
    with pytest.raises(NotFound, match="'a'"):
        await store.hook("a")


async def test_events_become_deliveries_once_whoever_tells_them(world: World) -> None:
    """A second daemon, and one that did not hear of a new webhook, look again."""
    one, other = await world.open(), await world.open()
    await one.add_webhook(webhook())
    revision, _ = await one.webhooks()
    first = [delivery("msg_1"), delivery("msg_2")]
    await one.feed(expected=0, position=7, revision=revision, deliveries=first)
    with pytest.raises(Conflict):
        await other.feed(expected=0, position=7, revision=revision, deliveries=first)
    assert await other.cursor() == 7
    again = [delivery("msg_2", due_us=99), delivery("msg_3")]
    await other.feed(expected=7, position=9, revision=revision, deliveries=again)
    due = await one.due("wh_1", now_us=20, limit=9)
    assert [each.message_id for each in due] == ["msg_1", "msg_2", "msg_3"]
    await one.add_webhook(webhook("wh_2"))
    with pytest.raises(Conflict):
        await other.feed(expected=9, position=10, revision=revision, deliveries=[])
    assert await other.cursor() == 9


async def test_what_is_due_comes_in_its_order_and_what_ended_does_not_come(world: World) -> None:
    store = await world.open()
    for name, due_us in (("late", 30), ("early", 10), ("future", 50), ("other", 1)):
        target = "wh_2" if name == "other" else "wh_1"
        await store.add_delivery(delivery(name, target=target, due_us=due_us))
    due = await store.due("wh_1", now_us=40, limit=9)
    assert [each.message_id for each in due] == ["early", "late"]
    assert due[0] == delivery("early")
    assert await store.next_due_us("wh_1", now_us=40) == 50
    tries = (Try(at_us=40, seconds=0.5, status=500, error="answered 500"),)
    await store.settle(replace(due[0], attempts=1, next_at_us=60, tries=tries))
    await store.settle(replace(due[1], attempts=1, state="delivered", ended_at_us=41))
    assert await store.pending() == {"wh_1": 2, "wh_2": 1}
    assert (await store.delivery("wh_1", "early")).tries == tries
    found = await store.due("wh_1", now_us=60, limit=9)
    assert [each.message_id for each in found] == ["future", "early"]
    assert len(await store.due("wh_1", now_us=60, limit=1)) == 1


async def test_what_was_put_off_by_a_clock_that_ran_ahead_is_due(world: World) -> None:
    store = await world.open()
    await store.add_delivery(delivery(due_us=10 + 2 * HORIZON_SECONDS * 1_000_000))
    assert len(await store.due("wh_1", now_us=10, limit=9)) == 1


async def test_deliveries_are_listed_in_pages_and_go_with_their_target(world: World) -> None:
    store = await world.open()
    await store.add_webhook(webhook())
    for number in range(5):
        await store.add_delivery(delivery(f"msg_{number}"))
    await store.settle(replace(delivery("msg_3"), state="failed", ended_at_us=50))
    page = await store.deliveries("wh_1", limit=2)
    assert [each.message_id for _, each in page] == ["msg_4", "msg_3"]
    rest = await store.deliveries("wh_1", before=page[-1][0], limit=9)
    assert [each.message_id for _, each in rest] == ["msg_2", "msg_1", "msg_0"]
    failed = await store.deliveries("wh_1", state="failed")
    assert [each.message_id for _, each in failed] == ["msg_3"]
    assert (await store.prune(50), await store.prune(51)) == (0, 1)
    await store.delete_webhook("wh_1")
    assert await store.deliveries("wh_1") == [] and await store.pending() == {}
    await store.settle(delivery("msg_0"))
    with pytest.raises(NotFound, match="'msg_0'"):
        await store.delivery("wh_1", "msg_0")


async def test_a_target_of_the_settings_hears_from_where_it_first_joined(world: World) -> None:
    store = await world.open()
    assert await store.join(["notify:a"], 5) == {"notify:a": 5}
    await store.add_delivery(delivery(target="notify:a"))
    await store.add_delivery(delivery(target="wh_1"))
    assert await store.join(["notify:b", "notify:a"], 9) == {"notify:a": 5, "notify:b": 9}
    assert await store.join(["notify:b"], 12) == {"notify:b": 9}
    assert await store.pending() == {"wh_1": 1}
    assert await store.join(["notify:a", "notify:b"], 20) == {"notify:a": 20, "notify:b": 9}
