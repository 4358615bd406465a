"""What both wires share: schemas, ids, addresses through a proxy, records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_runtime import model_names
from agent_runtime.loop.planning import SCHEMA
from agent_runtime.messages import Message, ToolUse
from agent_runtime.models import forms, openai, responses
from agent_runtime.models.faults import redacted
from agent_runtime.models.http import Http, Patience
from agent_runtime.models.recorded import RecordedModel, Recorder
from agent_runtime.models.schemas import closed, is_strict
from agent_runtime.ports import ModelAnswer, ModelFault
from agent_runtime.testing.models import SaidModel
from agent_runtime.types import TaskSpec
from tests.models import talk
from tests.models.server import Provider, answer, stream
from tests.models.talk import KEY, endpoint_at, request_of

# ---- schemas -------------------------------------------------------------------------------


def test_schema_of_a_plan_keeps_the_rules_of_strict_answers() -> None:
    """Else OpenAI would take it as a wish only."""
    assert is_strict(SCHEMA)


def test_rules_that_providers_refuse_become_words() -> None:
    """Providers refuse a request with `maxLength`, and the loop checks the answer anyway."""
    shown = closed(SCHEMA)
    text = str(shown)
    assert all(f"'{rule}':" not in text for rule in ("maxLength", "minLength", "maxItems"))
    assert (
        "maxLength: 40"
        in shown["properties"]["objectives"]["items"]["properties"]["id"]["description"]
    )
    assert shown["properties"]["steps"]["minItems"] == 1
    assert closed(shown) == shown


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
        {"type": "array", "items": {"type": "object"}},
        {"anyOf": [{"type": "object", "properties": {}}]},
        {"$defs": {"x": {"type": "object"}}},
    ],
)
def test_open_schema_is_not_strict_and_is_closed(schema: dict[str, Any]) -> None:
    assert not is_strict(schema)
    assert "additionalProperties" in str(closed(schema))


# ---- ids -----------------------------------------------------------------------------------


def test_renamed_ids_stay_the_same_when_the_conversation_grows() -> None:
    """Else a provider's cache would not hold."""
    history: list[Message] = []
    for at in range(4):
        # A local server that counts from zero in each turn.
        call = ToolUse(id="call_0", name="shell", arguments={})
        history += [talk.turn(call), talk.observed("call_0", f"seen {at}")]
    whole = forms.own_ids(history, "here")
    for end in range(0, len(history), 2):
        assert forms.own_ids(history[:end], "here") == whole[:end]
    ids = [call.id for message in whole for call in message.calls]
    assert len(set(ids)) == 4
    assert [m.call_id for m in whole if m.role == "tool"] == ids


def test_ids_of_messages_that_are_sent_back_verbatim_stay() -> None:
    blocks = [{"type": "tool_use", "id": "call_0", "name": "x", "input": {}}]
    call = ToolUse(id="call_0", name="x", arguments={})
    own = Message(role="assistant", calls=(call,), blocks=blocks, provider="here")
    history = [own, talk.observed("call_0", "a"), own, talk.observed("call_0", "b")]
    assert forms.own_ids(history, "here") == history


@pytest.mark.parametrize("raw", ["{}", ' {"a" : 1}', '{"ü": "\\ud83d\\ude00"}'])
def test_arguments_go_back_as_they_came(raw: str) -> None:
    assert forms.arguments_text(forms.call_of("a", "x", raw)) == raw


def test_half_characters_are_made_whole() -> None:
    assert forms.whole("\ud83d\ude00") == "😀"
    assert forms.encode({"a": ["\ud83d"]}).decode() == '{"a":["\N{REPLACEMENT CHARACTER}"]}'
    assert forms.parse('["\\ud83d"]') == ["\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("text", ["", "x", "{", "NaN", "[1e999]", "1" * 30, "[" * 100_000])
def test_what_no_log_can_hold_is_no_json(text: str) -> None:
    with pytest.raises(ValueError):
        forms.parse(text)


def test_beginning_of_a_key_is_taken_out_too() -> None:
    """Providers repeat a wrong key with its middle or end cut."""
    for said in (KEY, f"'{KEY}'", f"{KEY[:12]}***{KEY[-4:]}", f"Bearer {KEY}"):
        assert KEY[:10] not in redacted(f"bad key {said}, sorry", KEY)
        assert redacted(f"bad key {said}, sorry", KEY).endswith(", sorry")


# ---- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "openai/gpt-6.1-sol", "openrouter/meta/llama-4", "http://h/v1#a/b:7b", "https://h:1/v1/#x",
        "http://[::1]:8080/v1#x", "client", "claude-code", "codex", "harness/other",
        "pydantic-ai/groq:llama",
    ],
)  # fmt: skip
def test_names_of_brains(name: str) -> None:
    assert model_names.fault_of(name) == ""


@pytest.mark.parametrize(
    "name", ["", "gpt", "Client", "http://h/v1", "http://u:pw@h/v1#x", "ftp://h/v1#x", "a/ b", "/x",
             "http://h/v1?key=x#m", "openai/"],
)  # fmt: skip
def test_what_is_no_name_of_a_brain(name: str) -> None:
    fault = model_names.fault_of(name)
    assert fault and (not name or name not in fault)


# ---- an error of one wire ------------------------------------------------------------------


@pytest.mark.anyio
async def test_errors_of_responses_come_bare_or_inside(served: Provider, http: Http) -> None:
    """In a stream code and message stand in the event itself, or in the answer that has failed."""
    event = {"type": "error", "code": "rate_limit_exceeded", "message": "slow down"}
    whole = {**talk.plain("responses"), "status": "failed", "error": {"code": "server_error"}}
    ended = {"type": "response.failed", "response": whole}
    kinds = []
    for last in (event, ended):
        served.say(stream([*talk.events("responses", "Now.", [])[:3], last], done=False))
        request = request_of(heard=lambda text: None)
        fault = await responses.ask(request, endpoint_at("responses", served.url), http)
        assert isinstance(fault, ModelFault)
        kinds.append(fault.kind)
    assert kinds == ["rate", "overload"]


# ---- what one family of models wants -------------------------------------------------------


def test_mistrals_models_get_no_user_after_an_observation() -> None:
    """They refuse the request, wherever they are served; and ids of other than nine letters."""
    call = ToolUse(id="call_0123456789", name="shell", arguments={})
    history = (
        Message(role="user", text="one"), Message(role="user", text="two"),
        talk.turn(call), talk.observed(call.id, "seen"), Message(role="user", text="three"),
    )  # fmt: skip
    url = "http://127.0.0.1:1"
    strict = openai.messages(
        request_of(*history), endpoint_at("openai", url, model="mistralai/Devstral-2")
    )
    assert [each["role"] for each in strict] == ["system", "user", "assistant", "tool"]
    assert strict[1]["content"] == "one\n\ntwo" and strict[3]["content"] == "seen\n\nthree"
    assert len(strict[3]["tool_call_id"]) == 9
    assert strict[2]["tool_calls"][0]["id"] == strict[3]["tool_call_id"]
    others = openai.messages(request_of(*history), endpoint_at("openai", url, model="qwen3"))
    assert len(others) == 6 and others[4]["tool_call_id"] == call.id


# ---- a proxy -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_proxy_of_the_environment_is_used_but_not_for_this_machine(
    served: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.say(answer(talk.plain("openai")))
    monkeypatch.setenv("HTTP_PROXY", served.url)
    http = Http(Patience(connect=2, silence=2, whole=5))
    away = endpoint_at("openai", "http://models.example")
    assert isinstance(await openai.ask(request_of(), away, http), ModelAnswer)
    assert served.asked[0].path == "http://models.example/v1/chat/completions"
    here = endpoint_at("openai", served.url)
    assert isinstance(await openai.ask(request_of(), here, http), ModelAnswer)
    assert served.asked[1].path == "/v1/chat/completions"
    await http.close()


# ---- records -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_record_is_played_in_its_order_and_strictly(tmp_path: Path) -> None:
    path = str(tmp_path / "record.jsonl")
    model = SaidModel()
    recorder = Recorder(model, path)
    first = Message(role="user", text="one")
    call = talk.turn(ToolUse(id="a", name="shell", arguments={"command": "ls"}), text="Look.")
    model.say(call, talk.turn(text="again"))
    one = [await recorder.complete(request_of(first)) for _ in range(2)]
    model.fail("rate", retry_after_seconds=3)
    two = await recorder.complete(request_of(first, call, talk.observed("a", "a.py")))
    player = RecordedModel(path)
    assert (await player.find(TaskSpec(goal="x"))).models[0].name == "test/x"
    assert [await player.complete(request_of(first)) for _ in range(2)] == one
    other = await player.complete(request_of(first, call, talk.observed("a", "b.py")))
    assert isinstance(other, ModelFault) and other.kind == "bad_request"
    assert "message 3 (tool) 'a.py'" in other.message and "'b.py'" in other.message
    assert await player.complete(request_of(first, call, talk.observed("a", "a.py"))) == two
    ended = await player.complete(request_of(first))
    assert isinstance(ended, ModelFault) and "at its end" in ended.message


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "other/x"}, "model 'other/x'"),
        ({"tools": ()}, "tool read_file"),
        ({"output_tokens_max": 9}, "output_tokens_max"),
        ({"answer_schema": talk.SCHEMA}, "answer_schema"),
    ],
)
async def test_first_difference_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    path = str(tmp_path / "record.jsonl")
    model = SaidModel()
    model.say(talk.turn(text="Done."))
    await Recorder(model, path).complete(request_of())
    fault = await RecordedModel(path).complete(request_of(**change))
    assert isinstance(fault, ModelFault) and word in fault.message
