"""The life of modules, on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.errors import PluginError
from agent_runtime.modules import registry as lives
from agent_runtime.modules.registry import ModuleRegistry
from agent_runtime.ports import Module, ModuleContext, Tool

pytestmark = pytest.mark.anyio
Act = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def nothing() -> None:
    """It awaits something, as real ones do."""
    await anyio.lowlevel.checkpoint()


class FakeModule:
    """Remembers what was done with it."""

    description = "A test module."

    def __init__(
        self, name: str = "acme", *, start: Act = nothing, stop: Act = nothing, look: Act = nothing
    ) -> None:
        self.name, self.start, self.stop, self.look = name, start, stop, look
        self.done: list[str] = []
        self.context = ModuleContext("")

    def tools(self) -> Sequence[Tool]:
        return []

    async def initialize(self, context: ModuleContext) -> None:
        self.done.append("initialize")
        self.context = context
        await self.start()
        self.done.append("initialized")

    async def cleanup(self) -> None:
        self.done.append("cleanup")
        await self.stop()
        self.done.append("cleaned up")

    async def health(self) -> str | None:
        await self.look()
        return None


STARTED = ["initialize", "initialized"]
WHOLE_LIFE = [*STARTED, "cleanup", "cleaned up"]


@asynccontextmanager
async def running(*modules: Module, **limits: float) -> AsyncIterator[ModuleRegistry]:
    with anyio.fail_after(5):
        async with ModuleRegistry(modules, **limits) as registry:  # type: ignore[arg-type]
            yield registry


async def state_of(registry: ModuleRegistry) -> tuple[str, str]:
    [health] = await registry.health()
    return health.state, health.detail


async def forever() -> None:
    await anyio.sleep_forever()


async def fails() -> None:
    raise ValueError("no such host")


# ---- sharing -------------------------------------------------------------------------------------


async def test_a_module_is_started_by_the_first_and_stopped_by_the_last() -> None:
    module = FakeModule()
    async with running(module) as registry:
        assert await state_of(registry) == ("not started", "")
        await registry.acquire("acme")
        await registry.acquire("acme")
        assert await state_of(registry) == ("well", "")
        await registry.release("acme")
        assert module.done == STARTED
        await registry.release("acme")
        assert module.done == WHOLE_LIFE
        assert await state_of(registry) == ("not started", "")


async def test_a_module_that_was_stopped_is_started_again() -> None:
    module = FakeModule()
    async with running(module) as registry:
        for _ in range(2):
            await registry.acquire("acme")
            await registry.release("acme")
    assert module.done == WHOLE_LIFE * 2


async def test_two_that_need_it_at_once_start_it_once_and_both_wait() -> None:
    opened = anyio.Event()
    module = FakeModule(start=opened.wait)
    ready: list[int] = []

    async with running(module) as registry:

        async def need(number: int) -> None:
            await registry.acquire("acme")
            ready.append(number)

        async with anyio.create_task_group() as tg:
            tg.start_soon(need, 1)
            tg.start_soon(need, 2)
            await anyio.wait_all_tasks_blocked()
            assert (ready, module.done) == ([], ["initialize"])
            assert await state_of(registry) == ("starting", "")
            opened.set()
        assert (sorted(ready), module.done) == ([1, 2], STARTED)


async def test_who_needs_it_while_it_stops_gets_a_new_life() -> None:
    goes_on = anyio.Event()
    module = FakeModule(stop=goes_on.wait)
    async with running(module) as registry:
        await registry.acquire("acme")
        async with anyio.create_task_group() as tg:
            tg.start_soon(registry.release, "acme")
            await anyio.wait_all_tasks_blocked()
            assert await state_of(registry) == ("stopping", "")
            tg.start_soon(registry.acquire, "acme")
            await anyio.wait_all_tasks_blocked()
            assert module.done == [*STARTED, "cleanup"]
            goes_on.set()
        assert module.done == [*WHOLE_LIFE, *STARTED]


async def test_every_module_has_a_directory_and_settings_of_its_own(tmp_path: Path) -> None:
    module = FakeModule()
    settings = {"acme": {"limit": "3"}, "other": {"limit": "4"}}
    async with ModuleRegistry([module], state_dir=str(tmp_path), settings=settings) as registry:
        await registry.acquire("acme")
    assert module.context == ModuleContext(str(tmp_path / "acme"), {"limit": "3"})
    assert (tmp_path / "acme").is_dir()


# ---- quarantine ----------------------------------------------------------------------------------


async def test_a_module_that_does_not_start_is_quarantined_and_says_so_at_once() -> None:
    module = FakeModule(start=fails)
    async with running(module) as registry:
        for _ in range(2):
            with pytest.raises(PluginError, match=r"'acme' is in quarantine: its initialize\(\) r"):
                await registry.acquire("acme")
        assert module.done == ["initialize"], "it is tried once, and what did not start is no mess"
        state, detail = await state_of(registry)
        assert state == "quarantined"
        assert detail.startswith("its initialize() raised ValueError: no such host (at ")


async def test_a_module_that_exits_the_process_is_quarantined() -> None:
    async def leave() -> None:
        raise SystemExit(4)

    async with running(FakeModule(start=leave)) as registry:
        with pytest.raises(PluginError, match=r"called sys\.exit\(4\)"):
            await registry.acquire("acme")


async def test_a_module_that_takes_too_long_to_start_is_quarantined() -> None:
    async with running(FakeModule(start=forever), initialize_seconds_max=0) as registry:
        with pytest.raises(PluginError, match="took longer than 0 s"):
            await registry.acquire("acme")
        assert (await state_of(registry))[0] == "quarantined"


async def test_one_broken_module_leaves_the_others_alone() -> None:
    good = FakeModule("good")
    async with running(FakeModule("bad", start=fails), good) as registry:
        with pytest.raises(PluginError):
            await registry.acquire("bad")
        await registry.acquire("good")
        assert [each.state for each in await registry.health()] == ["quarantined", "well"]
    assert good.done == WHOLE_LIFE


class Background(FakeModule):
    """Keeps a task group open from initialize to cleanup."""

    def __init__(self, work: Act) -> None:
        super().__init__()
        self.work, self.stack = work, AsyncExitStack()

    async def initialize(self, context: ModuleContext) -> None:
        tasks = await self.stack.enter_async_context(anyio.create_task_group())
        self.stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(self.work)

    async def cleanup(self) -> None:
        await self.stack.aclose()
        self.done.append("cleaned up")


async def test_a_module_may_keep_a_task_group_open_across_tasks() -> None:
    module = Background(forever)
    async with running(module) as registry:
        async with anyio.create_task_group() as tg:
            tg.start_soon(registry.acquire, "acme")
        assert await state_of(registry) == ("well", "")
        async with anyio.create_task_group() as tg:
            tg.start_soon(registry.release, "acme")
        assert module.done == ["cleaned up"]
        assert await state_of(registry) == ("not started", "")


async def test_a_module_whose_own_task_fails_is_quarantined_and_nobody_else_is_hurt() -> None:
    crash = anyio.Event()

    async def work() -> None:
        await crash.wait()
        raise ConnectionError("gone")

    async with running(Background(work)) as registry:
        await registry.acquire("acme")
        crash.set()
        while (await state_of(registry))[0] != "quarantined":
            await anyio.lowlevel.checkpoint()
        state, detail = await state_of(registry)
        assert state == "quarantined"
        assert detail.startswith("it ended by itself: raised ConnectionError: gone")
        with pytest.raises(PluginError, match="ended by itself"):
            await registry.acquire("acme")
        await registry.release("acme")


# ---- stopping ------------------------------------------------------------------------------------


async def test_a_cleanup_that_fails_is_told_and_harms_nothing() -> None:
    module = FakeModule(stop=fails)
    async with running(module) as registry:
        await registry.acquire("acme")
        await registry.release("acme")
        state, detail = await state_of(registry)
        assert state == "not started"
        assert detail.startswith("its last cleanup() raised ValueError: no such host")
        await registry.acquire("acme")
        assert (await state_of(registry))[0] == "well"


async def test_a_cleanup_that_hangs_is_bounded() -> None:
    module = FakeModule(stop=forever)
    async with running(module, cleanup_seconds_max=0) as registry:
        await registry.acquire("acme")
        await registry.release("acme")
        assert await state_of(registry) == (
            "not started",
            "its last cleanup() took longer than 0 s",
        )


async def test_leaving_the_registry_stops_what_is_still_used() -> None:
    module = FakeModule()
    async with running(module) as registry:
        await registry.acquire("acme")
    assert module.done == WHOLE_LIFE


async def test_modules_are_cleaned_up_also_when_everything_is_cancelled() -> None:
    module = FakeModule()
    with anyio.CancelScope() as scope:
        async with ModuleRegistry([module]) as registry:
            await registry.acquire("acme")
            scope.cancel()
            await anyio.sleep_forever()
    assert module.done == WHOLE_LIFE


# ---- cancellation --------------------------------------------------------------------------------


async def test_a_cancelled_first_does_not_take_the_start_from_the_second() -> None:
    opened = anyio.Event()
    module = FakeModule(start=opened.wait)
    async with running(module) as registry, anyio.create_task_group() as tg:
        first = anyio.CancelScope()

        async def need() -> None:
            with first:
                await registry.acquire("acme")

        tg.start_soon(need)
        await anyio.wait_all_tasks_blocked()
        tg.start_soon(registry.acquire, "acme")
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        opened.set()
        await anyio.wait_all_tasks_blocked()
        [health] = await registry.health()
        assert (health.state, health.users, module.done) == ("well", 1, STARTED)


async def test_a_start_that_nobody_waits_for_any_more_is_undone_and_not_held_against_it() -> None:
    opened = anyio.Event()
    module = FakeModule(start=opened.wait)
    async with running(module) as registry:
        async with anyio.create_task_group() as tg:
            tg.start_soon(registry.acquire, "acme")
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
        opened.set()
        await anyio.wait_all_tasks_blocked()
        assert module.done == WHOLE_LIFE
        assert await state_of(registry) == ("not started", "")
        await registry.acquire("acme")
        assert await state_of(registry) == ("well", "")


async def test_an_abandoned_start_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "CLEANUP_SECONDS_MAX", 0)
    module = FakeModule(start=forever)
    async with running(module) as registry:
        async with anyio.create_task_group() as tg:
            tg.start_soon(registry.acquire, "acme")
            await anyio.wait_all_tasks_blocked()
            tg.cancel_scope.cancel()
    assert module.done == ["initialize"]
    assert await state_of(registry) == ("not started", "")


# ---- health --------------------------------------------------------------------------------------


async def test_health_says_what_is_wrong_and_a_slow_answer_is_one() -> None:
    class Complaining(FakeModule):
        async def health(self) -> str | None:
            return "the disk is full"

    modules = [Complaining("a"), FakeModule("b", look=fails), FakeModule("c", look=forever)]
    async with running(*modules, health_seconds_max=0) as registry:
        for module in modules:
            await registry.acquire(module.name)
        found = {each.name: (each.state, each.detail) for each in await registry.health()}
    assert found["a"] == ("unwell", "the disk is full")
    assert found["b"][0] == "unwell"
    assert found["b"][1].startswith("health() raised ValueError: no such host")
    assert found["c"] == ("unwell", "health() gave no answer within 0 s")
