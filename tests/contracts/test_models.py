"""What every model promises (`ports.Model.complete`). A new one adds a line to `WORLDS`.

A *world* is a model and whoever stands behind it, who says what the test tells it to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime import plugins
from agent_runtime.messages import Message, ModelChoice, ToolUse
from agent_runtime.models.cache import AnswerCache
from agent_runtime.models.http import Patience
from agent_runtime.models.providers import Providers
from agent_runtime.models.recorded import RecordedModel, Recorder
from agent_runtime.models.router import Router
from agent_runtime.ports import Model, ModelAnswer, ModelFault, ModelRequest
from agent_runtime.testing.models import SaidModel
from agent_runtime.types import TaskSpec
from tests.models import talk
from tests.models.server import Reply, answer, provider, stream
from tests.models.talk import KEY

pytestmark = pytest.mark.anyio

Say = Callable[..., None]


@dataclass
class World:
    """`say(text, calls)` and `fail(status, kind)` arrange what comes next."""

    model: Model
    choice: ModelChoice
    say: Callable[[str, list[tuple[str, str, str]]], None]
    fail: Callable[[int], None]
    sent: Callable[[], int]
    heard: list[str] = field(default_factory=list)

    def request(self, *messages: Message, **more: Any) -> ModelRequest:
        request = talk.request_of(*messages, **more)
        return ModelRequest(
            model=self.choice,
            system=request.system,
            messages=request.messages,
            tools=request.tools,
            heard=request.heard,
            answer_schema=request.answer_schema,
            output_tokens_max=request.output_tokens_max,
        )


@pytest.fixture
def anyio_backend() -> str:
    """Real sockets need real time."""
    return "asyncio"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def _wired(name: str, *, streamed: bool = False) -> Callable[[Path], Any]:
    wire: Any = name.partition("/")[0]
    wire = wire if wire in ("anthropic", "responses") else "openai"

    @asynccontextmanager
    async def world(directory: Path) -> AsyncIterator[World]:
        with provider() as served, pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
            providers = Providers(
                {f"{name}_API_KEY": KEY for name in ("OPENAI", "RESPONSES", "ANTHROPIC")},
                endpoints={
                    "openai": f"{served.url}/v1",
                    "responses": f"responses+{served.url}/v1",
                    "anthropic": served.url,
                },
                plug_in=lambda name: plugins.load_one(plugins.MODELS, name),
            )
            patience = Patience(connect=2, silence=2, whole=10)
            async with Router(providers, patience=patience, local_places=()) as router:

                def say(text: str, calls: list[tuple[str, str, str]]) -> None:
                    if streamed:
                        events = talk.events(wire, text, calls)
                        served.say(stream(events, done=wire == "openai"))
                    else:
                        served.say(answer(talk.said(wire, text, calls)))

                def fail(status: int) -> None:
                    if status:
                        error = {"message": f"no {KEY}", "type": "some_error"}
                        served.say(answer({"error": error}, status=status))
                    else:
                        served.say(Reply(b""))

                choice = providers.choice(providers.resolve(name))
                world = World(router, choice, say, fail, lambda: len(served.asked))
                yield world

    return world


@asynccontextmanager
async def _said(directory: Path) -> AsyncIterator[World]:
    model = SaidModel()

    def say(text: str, calls: list[tuple[str, str, str]]) -> None:
        uses = tuple(_use(call) for call in calls)
        model.say(Message(role="assistant", text=text, calls=uses, provider="said"))

    def fail(status: int) -> None:
        model.fail("auth" if status == 401 else "rate" if status == 429 else "transport")

    yield World(
        model, ModelChoice(name="said/x", provider="said"), say, fail, lambda: len(model.requests)
    )


@asynccontextmanager
async def _recorded(directory: Path) -> AsyncIterator[World]:
    """What was recorded a moment ago is played."""
    async with _said(directory) as world:
        path = str(directory / "answers.jsonl")

        class Played:
            async def find(self, task: TaskSpec) -> Any:
                return await world.model.find(task)

            async def complete(self, request: ModelRequest) -> ModelAnswer | ModelFault:
                await Recorder(world.model, path).complete(replace(request, heard=None))
                player = RecordedModel(path)
                player.skip(world.sent() - 1)
                return await player.complete(request)

        yield World(Played(), world.choice, world.say, world.fail, world.sent)


def _use(call: tuple[str, str, str]) -> ToolUse:
    from agent_runtime.models.forms import call_of

    return call_of(*call)


WORLDS: dict[str, Callable[[Path], AbstractAsyncContextManager[World]]] = {
    "openai": _wired("openai/gpt-4o"),
    "openai streamed": _wired("openai/gpt-4o", streamed=True),
    "responses": _wired("responses/gpt-6.1-sol"),
    "responses streamed": _wired("responses/gpt-6.1-sol", streamed=True),
    "anthropic": _wired("anthropic/claude-sonnet-4-5"),
    "anthropic streamed": _wired("anthropic/claude-sonnet-4-5", streamed=True),
    "pydantic-ai": _wired("pydantic-ai/openai-chat:gpt-4o"),
    "fake": _said,
    "recorded": _recorded,
}


# It takes seconds to import.
_SLOW = {"pydantic-ai": pytest.mark.long}
_PARAMS = [pytest.param(name, marks=_SLOW.get(name, ())) for name in WORLDS]


@pytest.fixture(params=_PARAMS)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if "pydantic" in request.param:
        pytest.importorskip("pydantic_ai")
    async with WORLDS[request.param](tmp_path) as made:
        made.heard = []
        yield made


def watched(world: World, request: pytest.FixtureRequest) -> Any:
    """Streaming worlds are those in which somebody watches."""
    return world.heard.append if "streamed" in request.node.name else None


async def answered(world: World, request: ModelRequest) -> ModelAnswer:
    with anyio.fail_after(20):
        result = await world.model.complete(request)
    assert isinstance(result, ModelAnswer), result
    return result


async def test_text_comes_back(world: World, request: pytest.FixtureRequest) -> None:
    world.say("Grün. 🎉", [])
    result = await answered(world, world.request(heard=watched(world, request)))
    assert (result.message.role, result.message.text) == ("assistant", "Grün. 🎉")
    assert (result.message.calls, result.stop) == ((), "end")


async def test_who_listens_hears_the_whole_text(world: World) -> None:
    world.say("One, two, three.", [])
    await answered(world, world.request(heard=world.heard.append))
    assert "".join(world.heard) == "One, two, three."


async def test_calls_come_in_their_order_with_ids_of_their_own(
    world: World, request: pytest.FixtureRequest
) -> None:
    world.say(
        "Looking.",
        [("a", "read_file", '{"path": "x"}'), ("b", "shell", '{"command": "ls"}')],
    )
    result = await answered(world, world.request(heard=watched(world, request)))
    assert [(c.name, c.arguments) for c in result.message.calls] == [
        ("read_file", {"path": "x"}),
        ("shell", {"command": "ls"}),
    ]
    assert len({call.id for call in result.message.calls}) == 2
    assert result.stop == "calls"


async def test_every_answer_has_a_cost_in_tokens(
    world: World, request: pytest.FixtureRequest
) -> None:
    world.say("Done.", [])
    result = await answered(world, world.request(heard=watched(world, request)))
    assert result.usage.input > 0 and result.usage.output > 0
    assert result.usd >= 0 and result.model


async def test_an_answer_can_be_said_again_with_its_observations(
    world: World, request: pytest.FixtureRequest
) -> None:
    """The next turn gets the message as it came."""
    world.say("Looking.", [("a", "shell", '{"command": "ls"}'), ("b", "shell", "not json")])
    first = await answered(world, world.request(heard=watched(world, request)))
    good, bad = first.message.calls
    assert good.arguments == {"command": "ls"}
    assert bad.arguments is None and "not json" in bad.raw
    world.say("Done.", [])
    history = (
        Message(role="user", text="Mend it."), first.message,
        talk.observed(good.id, "a.py"), talk.observed(bad.id, "no JSON", failed=True),
        Message(role="user", text="And now?"),
    )  # fmt: skip
    second = await answered(world, world.request(*history, heard=watched(world, request)))
    assert second.message.text == "Done."


@pytest.mark.parametrize(("status", "kind"), [(401, "auth"), (429, "rate"), (0, "transport")])
async def test_failure_is_a_fault_and_nothing_is_asked_twice(
    world: World, status: int, kind: str
) -> None:
    world.fail(status)
    with anyio.fail_after(20):
        fault = await world.model.complete(world.request())
    assert isinstance(fault, ModelFault)
    assert fault.kind == kind
    assert fault.message and KEY not in repr(fault)
    assert world.sent() == 1


async def test_several_are_asked_at_the_same_time(world: World) -> None:
    world.say("Done.", [])
    results: list[Any] = []

    async def ask() -> None:
        results.append(await world.model.complete(world.request()))

    if world.choice.provider == "said":
        await ask()
        return
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert [result.message.text for result in results] == ["Done."] * 5


async def test_cancelled_turn_ends_at_once(world: World) -> None:
    world.say("Done.", [])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await world.model.complete(world.request())
    assert scope.cancelled_caught


async def test_finding_never_raises(world: World) -> None:
    for model in (None, "nobody/x", "client", "claude-code", world.choice.name):
        brain = await world.model.find(TaskSpec(goal="x", model=model))
        assert brain.kind in ("model", "client", "harness", "none")
        assert brain.models or brain.kind != "model"


async def test_cache_answers_like_the_model_behind_it(tmp_path: Path) -> None:
    async with _wired("openai/gpt-4o")(tmp_path) as world:
        assert isinstance(world.model, Router)
        world.model._cache = AnswerCache(str(tmp_path / "answers"), 1 << 20)
        world.say("Looking.", [("a", "shell", '{"command": "ls"}')])
        first = await answered(world, world.request())
        world.fail(500)
        second = await answered(world, world.request())
        assert (second.message, second.stop, second.model) == (
            first.message, first.stop, first.model,
        )  # fmt: skip
