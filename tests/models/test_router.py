"""Who thinks for a task, and one turn of asking, through the real HTTP client."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.errors import PluginError
from agent_runtime.messages import Message, ModelChoice, ModelUsage
from agent_runtime.models import checking, health, local
from agent_runtime.models.cache import AnswerCache
from agent_runtime.models.http import Patience
from agent_runtime.models.providers import KNOWN, Providers, Unusable, is_local
from agent_runtime.models.router import Router
from agent_runtime.ports import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import TaskSpec
from tests.models import talk
from tests.models.server import Provider, Reply, answer, provider, stream
from tests.models.talk import KEY, request_of

pytestmark = pytest.mark.anyio

Make = Callable[..., Router]


@pytest.fixture
async def make(served: Provider) -> AsyncIterator[Make]:
    """A router whose providers are all `served`; keyword arguments are the settings."""
    made: list[Router] = []

    def of(
        environ: dict[str, str] | None = None,
        *,
        keys: dict[str, str] | None = None,
        endpoints: dict[str, str] | None = None,
        plug_in: Callable[[str], object] | None = None,
        **more: Any,
    ) -> Router:
        here = {"openai": f"{served.url}/v1", "anthropic": served.url, "own": f"{served.url}/v1"}
        router = Router(
            Providers(
                environ or {},
                keys=keys,
                endpoints=here if endpoints is None else endpoints,
                plug_in=plug_in,
            ),
            **{"local_places": (), "patience": Patience(connect=1, silence=1, whole=5), **more},
        )
        made.append(router)
        return router

    yield of
    for router in made:
        await router.close()


def asking(name: str, **more: Any) -> ModelRequest:
    return request_of(name=name, **more)


def task(model: str | None = None) -> TaskSpec:
    return TaskSpec(goal="mend it", model=model)


# ---- who thinks ----------------------------------------------------------------------------


async def test_named_model_thinks_with_what_the_loop_must_know(make: Make) -> None:
    router = make({"ANTHROPIC_API_KEY": KEY}, endpoints={})
    brain = await router.find(task("anthropic/claude-sonnet-4-5"))
    assert (brain.kind, brain.why) == ("model", "the task names it")
    (choice,) = brain.models
    assert choice.provider == "anthropic:https://api.anthropic.com"
    assert choice.name == "anthropic/claude-sonnet-4-5"
    assert choice.context_tokens == 200_000 and choice.output_tokens_max == 16_384
    # The dearest: long prompts cost more than $3 and $15, and writing the cache more than reading.
    assert choice.priced and choice.input_usd_per_mtok > 3.7
    assert choice.output_usd_per_mtok > 15


async def test_fallbacks_follow_in_their_order_and_unusable_ones_are_told(make: Make) -> None:
    router = make(
        {"OPENAI_API_KEY": KEY}, endpoints={},
        fallbacks=("mistral/x", "ollama/qwen3", "openai/gpt-4o", "openai/gpt-4o-mini"),
    )  # fmt: skip
    brain = await router.find(task("openai/gpt-4o"))
    assert [choice.name for choice in brain.models] == [
        "openai/gpt-4o", "ollama/qwen3", "openai/gpt-4o-mini",
    ]  # fmt: skip
    assert "MISTRAL_API_KEY" in brain.why


async def test_setting_thinks_for_tasks_that_name_nothing(make: Make) -> None:
    brain = await make(model="own/qwen").find(task())
    assert (brain.kind, brain.why, brain.models[0].name) == (
        "model", "the setting `model`", "own/qwen",
    )  # fmt: skip


async def test_key_in_the_environment_is_enough(make: Make) -> None:
    brain = await make({"OPENAI_API_KEY": KEY}, endpoints={}).find(task())
    assert brain.kind == "model" and "OPENAI_API_KEY" in brain.why
    assert brain.models[0].priced and brain.models[0].input_usd_per_mtok > 0


async def test_default_models_are_known_and_have_a_price() -> None:
    """A name that nobody knows would be found out by the user."""
    for known in KNOWN:
        if known.default:
            everything = Providers({known.key_variables[0]: KEY})
            choice = everything.choice(everything.resolve(f"{known.name}/{known.default}"))
            assert choice.priced and choice.context_tokens > 100_000, known


async def test_without_anything_the_brain_says_what_would_serve(make: Make) -> None:
    brain = await make(endpoints={}).find(task())
    assert (brain.kind, brain.models) == ("none", ())
    told = "\n".join(brain.offers)
    assert all(word in told for word in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "client", "plan"))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("openai/gpt-4o", "OPENAI_API_KEY"),
        ("nobody/x", "no provider is called 'nobody' (known: anthropic,"),
        ("open-ai/x", "no provider is called 'open-ai'; did you mean 'openai/x'? (known: "),
        ("pydantic-ai/gpt-4o", "provider:model"),
    ],
)
async def test_explicit_model_that_cannot_be_asked_is_replaced_by_no_other(
    make: Make, name: str, word: str
) -> None:
    router = make({"GEMINI_API_KEY": KEY}, endpoints={}, model="gemini/gemini-3.8-flash")
    brain = await router.find(task(name))
    assert brain.kind == "none" and word in brain.why and word in brain.offers[0]


async def test_local_server_is_offered_and_never_used(
    make: Make, served: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SECONDS_MAX", 20.0)  # a busy machine is no slow server
    served.say(answer({"object": "list", "data": [{"id": "qwen3:8b"}, {"id": "llama4"}]}))
    with provider() as gone:
        pass
    places = (f"{gone.url}/v1", f"{served.url}/v1")
    brain = await make(endpoints={}, local_places=places).find(task())
    assert brain.kind == "none"
    assert any(f"{served.url}/v1#qwen3:8b" in offer for offer in brain.offers)
    assert [asked.path for asked in served.asked] == ["/v1/models"]


async def test_slow_local_server_is_not_waited_for(make: Make, served: Provider) -> None:
    served.say(Reply(b"", hold=True))
    with anyio.fail_after(5):
        brain = await make(endpoints={}, local_places=(f"{served.url}/v1",)).find(task())
    assert not any(served.url in offer for offer in brain.offers)


async def test_client_is_a_brain(make: Make) -> None:
    assert (await make().find(task("client"))).kind == "client"
    assert (await make(model="client").find(task())).kind == "client"


@pytest.mark.parametrize("name", ["claude-code", "harness/claude-code", "codex"])
async def test_harness_is_not_there_yet(make: Make, name: str) -> None:
    brain = await make({"OPENAI_API_KEY": KEY}).find(task(name))
    assert brain.kind == "none" and "not there yet" in brain.why


# ---- names, addresses and keys -------------------------------------------------------------


def test_address_of_a_known_provider_gets_its_key_and_no_other_does() -> None:
    """A task may name any address, and must not get a key for it."""
    everything = Providers({"OPENAI_API_KEY": KEY, "GW_API_KEY": "gateway-key"},
                           endpoints={"gw": "https://gw.example/v1"})  # fmt: skip

    def key(name: str) -> str:
        return everything.endpoint(everything.resolve(name)).key

    assert key("https://api.openai.com/v1#gpt-4o") == KEY
    assert key("https://gw.example/v1/#x") == "gateway-key"
    for name in (
        "http://api.openai.com/v1#gpt-4o",
        "https://api.openai.com.evil.example/v1#gpt-4o",
        "https://api.openai.com:444/v1#gpt-4o",
        "https://api.openai.com/v1/x#gpt-4o",
        "https://gw.example/#x",
        "http://127.0.0.1:8080/v1#x",
    ):
        assert key(name) == "", name


def test_addresses_come_from_settings_then_from_the_environment() -> None:
    environ = {
        "OPENAI_BASE_URL": "https://a.example/v1", "OLLAMA_HOST": "0.0.0.0:9999",
        "ANTHROPIC_BASE_URL": "https://gw.example/v1/",
    }  # fmt: skip
    assert Providers(environ).resolve("openai/x").identity == "openai:https://a.example/v1"
    assert Providers(environ).resolve("anthropic/x").identity == "anthropic:https://gw.example"
    assert Providers(environ).resolve("ollama/x").identity == "openai:http://127.0.0.1:9999/v1"
    assert Providers({"OPENAI_API_KEY": KEY}).resolve("openai/x").identity == (
        "responses:https://api.openai.com/v1"
    ), "its own models want the newer wire; what stands in for it may not know it"
    said = Providers(
        environ, endpoints={"openai": "https://b.example", "mine": "anthropic+https://c.example/",
                            "new": "responses+https://d.example/v1"}
    )  # fmt: skip
    assert said.resolve("new/x").identity == "responses:https://d.example/v1"
    assert said.resolve("openai/x").identity == "openai:https://b.example"
    assert said.resolve("mine/x").identity == "anthropic:https://c.example"


def test_key_comes_from_where_the_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n", encoding="utf-8")
    everything = Providers(
        {"OPENAI_API_KEY": "another-key"},
        keys={"OPENAI_API_KEY": f"file:{file}", "MISTRAL_API_KEY": "command:printf mistral-key"},
    )
    assert everything.endpoint(everything.resolve("openai/x")).key == KEY
    assert everything.endpoint(everything.resolve("mistral/x")).key == "mistral-key"
    file.unlink()
    with pytest.raises(Unusable, match="OPENAI_API_KEY"):
        everything.resolve("openai/x")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:1/v1", True), ("http://localhost/v1", True), ("http://10.1.2.3", True),
        ("http://vllm:8000/v1", True), ("http://[::1]/v1", True),
        ("https://api.openai.com/v1", False), ("http://8.8.8.8/v1", False),
    ],
)  # fmt: skip
def test_servers_of_ones_own_cost_nothing(url: str, local: bool) -> None:
    assert is_local(url) == local
    everything = Providers({})
    choice = everything.choice(everything.resolve(f"{url}#some-model"))
    assert choice.priced == local and choice.input_usd_per_mtok == 0


def test_price_is_found_by_address_too() -> None:
    everything = Providers({})
    choice = everything.choice(
        everything.resolve("https://api.groq.com/openai/v1#llama-3.3-70b-versatile")
    )
    assert choice.priced and choice.input_usd_per_mtok > 0


# ---- plug-ins ------------------------------------------------------------------------------


async def test_plug_in_asks_under_its_own_name(make: Make) -> None:
    seen: list[str] = []

    async def ask(request: ModelRequest, model: str) -> ModelAnswer:
        seen.append(f"{request.model.provider} {model}")
        message = Message(role="assistant", text="Done.")
        return ModelAnswer(message=message, usage=ModelUsage(input=1_000_000, output=10))

    def find(name: str) -> object:
        if name == "acme":
            return ask
        if name == "pydantic-ai":
            return ask
        raise PluginError("plug-in broken: quarantined" if name == "broken" else "no plug-in of it")

    router = make(plug_in=find)
    brain = await router.find(task("acme/brain/7"))
    assert (brain.models[0].provider, brain.models[0].priced) == ("acme:acme", False)
    own = await router.complete(asking("acme/brain/7"))
    assert isinstance(own, ModelAnswer) and own.usd == 0
    priced = await router.complete(asking("pydantic-ai/openai:gpt-4o"))
    assert isinstance(priced, ModelAnswer) and priced.usd > 2, "it is nobody's own server"
    assert seen == ["acme:acme brain/7", "pydantic-ai:openai openai:gpt-4o"]
    assert "quarantined" in (await router.find(task("broken/x"))).why
    assert "no provider is called" in (await router.find(task("other/x"))).why


async def test_plug_in_that_is_no_function_is_a_fault(make: Make) -> None:
    fault = await make(plug_in=lambda name: "text").complete(asking("acme/x"))
    assert isinstance(fault, ModelFault) and fault.kind == "not_found"
    fault = await make(plug_in=lambda name: len).complete(asking("acme/x"))
    assert isinstance(fault, ModelFault) and fault.kind == "internal"


# ---- one turn ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"])
async def test_turn_costs_what_the_table_says(
    make: Make, served: Provider, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire: Any = name.partition("/")[0]
    served.say(answer(talk.plain(wire)))
    # A server of one's own would cost nothing.
    monkeypatch.setattr("agent_runtime.models.router.is_local", lambda url: False)
    router = make({"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    result = await router.complete(asking(name))
    assert isinstance(result, ModelAnswer)
    expected = (
        (20 * 2.5 + 100 * 1.25 + 30 * 10) / 1e6
        if wire == "openai"
        else (20 * 3 + 90 * 0.3 + 10 * 3.75 + 30 * 15) / 1e6
    )
    assert result.usd == pytest.approx(expected)
    assert result.message.provider.startswith(f"{wire}:{served.url}")


async def test_installation_that_moved_a_provider_is_asked_where_it_is_now(
    make: Make, served: Provider
) -> None:
    """A task resumed after its gateway changed: what was thought elsewhere is not sent there."""
    served.say(answer(talk.plain("openai")))
    old = ModelChoice(name="own/x", provider="openai:https://old.example/v1")
    thought = Message(
        role="assistant",
        text="a",
        provider=old.provider,
        blocks={"content": "a", "deep": "PRIVATE"},
    )
    messages = (Message(role="user", text="x"), thought, Message(role="user", text="y"))
    request = ModelRequest(model=old, system="", messages=messages)
    result = await make().complete(request)
    assert isinstance(result, ModelAnswer)
    assert b"PRIVATE" not in served.asked[0].raw


async def test_key_that_goes_away_or_is_none_is_an_auth_fault(make: Make, served: Provider) -> None:
    served.say(answer(talk.plain("openai")))
    environ = {"OPENAI_API_KEY": KEY}
    router = make(environ, endpoints={})
    environ["OPENAI_API_KEY"] = f"two\n{KEY}"
    for _ in range(2):
        fault = await router.complete(asking("openai/gpt-4o"))
        assert isinstance(fault, ModelFault) and fault.kind == "auth"
        assert "OPENAI_API_KEY" in fault.message and KEY not in fault.message
        environ.clear()
    assert served.asked == []


async def test_unknown_provider_is_a_fault(make: Make) -> None:
    fault = await make().complete(asking("nobody/x"))
    assert isinstance(fault, ModelFault) and fault.kind == "not_found"


async def test_defect_of_an_adapter_is_a_fault_without_the_key(
    make: Make, served: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what watches may fail: the turn is over then, the task is not."""
    served.say(stream(talk.events("openai", "Now.", [])))

    def watch(text: str) -> None:
        raise RuntimeError(f"cannot show {text} {KEY}")

    router = make({"OPENAI_API_KEY": KEY})
    with caplog.at_level(logging.DEBUG):
        fault = await router.complete(asking("openai/gpt-4o", heard=watch))
    assert isinstance(fault, ModelFault) and fault.kind == "internal"
    assert "RuntimeError" in fault.message and "cannot show" in caplog.text
    assert KEY not in fault.message + caplog.text


@pytest.mark.parametrize("name", ["openai/gpt-4o", "anthropic/claude-sonnet-4-5"])
async def test_key_is_in_no_fault_log_or_repr(
    make: Make, served: Provider, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A provider repeats the key in every way; nobody else does."""
    everywhere = answer(
        {"error": {"message": f"bad key {KEY} / {KEY[:14]}*** / {KEY.upper().lower()}"}},
        status=401, headers={"x-echo": KEY, "location": f"https://x/?key={KEY}"},
    )  # fmt: skip
    cut = Reply(everywhere.data[:-3])
    redirect = Reply(everywhere.data.replace(b" 401 ", b" 302 "))
    junk = answer(f"<html>{KEY}</html>".encode())
    inside = stream([{"error": {"message": KEY, "code": 500}}])
    nonsense = Reply(b"\x00\x01 no http\r\n\r\n")
    served.say(everywhere, cut, redirect, junk, inside, nonsense)
    router = make({"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    heard: list[str] = []
    with caplog.at_level(logging.DEBUG):
        told = [
            repr(await router.complete(asking(name, heard=heard.append)))
            for _ in served.replies.copy()
        ]
    told += [repr(router), repr(router.providers), repr(vars(router)), caplog.text]
    assert KEY in str(served.asked[0].headers)
    assert len(told) == 10
    for text in told:
        assert KEY[:14] not in text, text


# ---- health --------------------------------------------------------------------------------


async def test_provider_that_fails_again_and_again_is_left_alone(
    make: Make, served: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.say(answer({}, status=503))
    router = make()
    for _ in range(health.FAULTS_MAX):
        assert kind_of(await router.complete(asking("own/x"))) == "overload"
    before = len(served.asked)
    fault = await router.complete(asking("own/x"))
    assert isinstance(fault, ModelFault) and fault.kind == "overload"
    assert fault.retry_after_seconds is not None and fault.retry_after_seconds > 1
    assert len(served.asked) == before
    assert list(router.health().values()) == ["left alone"]
    # After the time one request tries, and a good one ends it.
    moved = anyio.current_time() + health.OPEN_SECONDS
    monkeypatch.setattr("agent_runtime.models.health.anyio.current_time", lambda: moved)
    served.say(answer(talk.plain("openai")))
    assert isinstance(await router.complete(asking("own/x")), ModelAnswer)
    assert list(router.health().values()) == ["well"]


async def test_one_request_at_a_time_tries_a_provider_that_was_left_alone(
    make: Make, served: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.say(answer({}, status=529))
    router = make()
    for _ in range(health.FAULTS_MAX):
        await router.complete(asking("own/x"))
    moved = anyio.current_time() + health.OPEN_SECONDS
    monkeypatch.setattr("agent_runtime.models.health.anyio.current_time", lambda: moved)
    before = len(served.asked)
    results: list[Any] = []

    async def ask() -> None:
        results.append(await router.complete(asking("own/x")))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(ask)
    assert len(served.asked) == before + 1
    assert {kind_of(result) for result in results} == {"overload"}


async def test_refusals_and_limits_do_not_count_as_illness(make: Make, served: Provider) -> None:
    router = make()
    for status in (401, 429, 400, 404) * 3:
        served.say(answer({}, status=status))
        await router.complete(asking("own/x"))
    assert list(router.health().values()) == ["well"]


async def test_cancelled_request_leaves_no_trace(make: Make, served: Provider) -> None:
    served.say(Reply(b"", hold=True))
    router = make(patience=Patience())
    with anyio.move_on_after(0.2):
        await router.complete(asking("own/x"))
    served.say(answer(talk.plain("openai")))
    assert isinstance(await router.complete(asking("own/x")), ModelAnswer)


def kind_of(result: ModelAnswer | ModelFault) -> str:
    return result.kind if isinstance(result, ModelFault) else "answer"


# ---- looking without asking ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("reply", "kind", "models"),
    [
        (answer({"data": [{"id": "a"}, {"id": "models/b"}, {}]}), "", ("a", "b")),
        (answer({}, status=503), "overload", ()),
        (answer(b"<html>"), "truncated", ()),
        (answer({"data": None}), "", ()),
        (Reply(b"", hold=True), "transport", ()),
    ],
)
async def test_check_of_a_provider_tells_how_it_is(
    make: Make, served: Provider, name: str, reply: Reply, kind: str, models: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(checking, "CHECK_SECONDS_MAX", 0.3)
    served.say(reply)
    router = make({"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY})
    found = await checking.check(router.providers, router.providers.all[name], router.http)
    assert (found.kind, found.models) == (kind, models)
    assert KEY not in repr(found)


# ---- the cache of answers ------------------------------------------------------------------


async def test_same_request_is_answered_from_the_cache(
    make: Make, served: Provider, tmp_path: Path
) -> None:
    served.say(answer(talk.said("openai", "Look.", [("a", "shell", '{"command": "ls"}')])))
    cache = AnswerCache(str(tmp_path / "answers"), 1 << 20)
    router = make(cache=cache)
    first = await router.complete(asking("own/x", conversation="one"))
    heard: list[str] = []
    second = await router.complete(asking("own/x", conversation="two", heard=heard.append))
    assert isinstance(first, ModelAnswer) and isinstance(second, ModelAnswer)
    assert (first.cached, second.cached) == (False, True)
    assert second.message == first.message and second.usd == 0 and second.usage.total == 0
    assert heard == ["Look."] and len(served.asked) == 1
    (file,) = (tmp_path / "answers").rglob("*.json")
    assert file.stat().st_mode & 0o077 == 0 and b"Mend it" not in file.read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        {"name": "own/y"},
        {"output_tokens_max": 999},
        {"answer_schema": talk.SCHEMA},
        {"tools": (talk.READ,)},
    ],
)
async def test_another_request_is_not(
    make: Make, served: Provider, tmp_path: Path, other: dict[str, Any]
) -> None:
    served.say(answer(talk.plain("openai")))
    router = make(cache=AnswerCache(str(tmp_path), 1 << 20))
    await router.complete(asking("own/x"))
    await router.complete(asking(**{"name": "own/x", **other}))
    assert len(served.asked) == 2


async def test_faults_and_cut_answers_are_not_kept(
    make: Make, served: Provider, tmp_path: Path
) -> None:
    cut = talk.plain("openai")
    cut["choices"][0]["finish_reason"] = "length"
    served.say(answer({}, status=500), answer(cut), answer(talk.plain("openai")))
    router = make(cache=AnswerCache(str(tmp_path), 1 << 20))
    kinds = [kind_of(await router.complete(asking("own/x"))) for _ in range(4)]
    assert kinds == ["overload", "answer", "answer", "answer"]
    assert len(served.asked) == 3


async def test_cache_stays_within_its_room_and_the_oldest_goes(tmp_path: Path) -> None:
    cache = AnswerCache(str(tmp_path), 4000)
    message = Message(role="assistant", text="x" * 700)
    for at in range(10):
        cache.put(f"{at:064}", ModelAnswer(message=message))
        for file in tmp_path.rglob("*.json"):
            stamp = int(file.stem)
            os.utime(file, (stamp, stamp))
    kept = [int(file.stem) for file in tmp_path.rglob("*.json")]
    assert kept and sum(f.stat().st_size for f in tmp_path.rglob("*.json")) <= 4000
    assert min(kept) > 3 and 9 in kept
    assert cache.get(f"{9:064}") is not None and cache.get(f"{0:064}") is None


async def test_damaged_file_is_asked_for_again(
    make: Make, served: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.say(answer(talk.plain("openai")))
    router = make(cache=AnswerCache(str(tmp_path), 1 << 20))
    await router.complete(asking("own/x"))
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{}", encoding="utf-8")
    result = await router.complete(asking("own/x"))
    assert isinstance(result, ModelAnswer) and not result.cached
    assert "not readable" in caplog.text
