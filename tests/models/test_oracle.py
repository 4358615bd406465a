"""The official clients and ours, against the same scripted provider, send the same requests.

The same conversation is held with each: a text and two calls at once, their observations (one of
them failed), a call with arguments that are no JSON, a structured answer at the end. What is sent
is compared field by field: method, path, the headers that matter, the whole body. Where ours
differs by choice, the difference is named here, each in a function of its own. The clients are
imported by the functions that use them: it takes seconds, and every process that collects tests
would pay for it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agent_runtime.messages import Message, ModelChoice
from agent_runtime.models import anthropic as own_anthropic
from agent_runtime.models import openai as own_openai
from agent_runtime.models import responses as own_responses
from agent_runtime.models.endpoints import Endpoint, Wire
from agent_runtime.models.http import Http
from agent_runtime.ports import ModelAnswer, ModelRequest
from tests.models import talk
from tests.models.server import Asked, Provider, Reply, answer, provider, stream
from tests.models.talk import KEY, READ, SCHEMA, SHELL

# The clients take many seconds to import.
pytestmark = [pytest.mark.anyio, pytest.mark.long]

SYSTEM = "You mend things.\nCarefully, with “care”."
GOAL = "Mend it: grün 🎉"
TOKENS = 1234
CONVERSATION = "task_0123"
CALLS = [
    ("call_a1", "read_file", '{"path": "ä.py"}'),
    ("call_b2", "shell", '{"command":"ls -la",  "n": 1.50}'),
]
SEEN = {"call_a1": "print('ü')\n", "call_b2": "exit 1: no such file"}
THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "c2ln"}
JUNK = ("call_c3", "shell", '{"command": "ls')
JUNK_SEEN = "The arguments are no JSON object."
NUDGE = "Give the files now."
FILES = '{"files": ["ä.py"]}'

MODES = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@pytest.fixture
def pair() -> Iterator[tuple[Provider, Provider]]:
    """One provider for their client and one for ours, who say the same."""
    with provider() as theirs, provider() as ours:
        yield theirs, ours


def arrange(
    wire: Wire, pair: tuple[Provider, Provider], *, streamed: bool, junk: bool,
    thinking: bool = False,
) -> None:  # fmt: skip
    turns: list[tuple[str | None, list[tuple[str, str, str]]]] = [("Looking.", CALLS)]
    turns += [(None, [JUNK])] if junk else []
    turns += [(FILES, [])]
    replies: list[Reply] = []
    for text, calls in turns:
        if streamed:
            events = talk.events(wire, text, calls)
            if thinking:
                events[-1]["response"]["output"].insert(0, THOUGHT)
            replies.append(stream(events, done=wire == "openai"))
        else:
            body = real(wire, talk.said(wire, text, calls))
            if thinking:
                body["output"].insert(0, THOUGHT)
            replies.append(answer(body))
    for each in pair:
        each.say(*replies)


def real(wire: Wire, body: dict[str, Any]) -> dict[str, Any]:
    """With the fields that say nothing, as the real providers send them."""
    if wire == "openai":
        body["choices"][0]["message"] |= {"refusal": None, "annotations": []}
        body["choices"][0]["logprobs"] = None
    elif wire == "anthropic":
        for block in body["content"]:
            if block["type"] == "tool_use":
                block["caller"] = {"type": "direct"}
            else:
                block["citations"] = None
    return body


# ---- our conversation ----------------------------------------------------------------------


async def hold(
    ask: Callable[[ModelRequest], Awaitable[Any]], *, streamed: bool, junk: bool
) -> Message:
    """The conversation as the loop holds it; gives the last answer."""
    messages: list[Message] = [Message(role="user", text=GOAL)]
    heard: list[str] = []

    async def turn(schema: dict[str, Any] | None = None) -> Message:
        request = ModelRequest(
            model=ModelChoice(name="test/x"),
            system=SYSTEM,
            messages=tuple(messages),
            tools=(READ, SHELL),
            answer_schema=schema,
            output_tokens_max=TOKENS,
            conversation=CONVERSATION,
            heard=heard.append if streamed else None,
        )
        result = await ask(request)
        assert isinstance(result, ModelAnswer), result
        messages.append(result.message)
        return result.message

    first = await turn()
    for call in first.calls:
        failed = call.id == "call_b2"
        messages.append(talk.observed(call.id, SEEN[call.id], failed=failed))
    if junk:
        second = await turn()
        messages.append(talk.observed(second.calls[0].id, JUNK_SEEN, failed=True))
    messages.append(Message(role="user", text=NUDGE))
    return await turn(SCHEMA)


# ---- OpenAI --------------------------------------------------------------------------------


async def hold_with_openai(url: str, *, streamed: bool, junk: bool, own: bool) -> None:
    """The same with the official client, as its documentation shows it."""
    import openai
    from openai.lib.streaming.chat import ChatCompletionStreamState

    client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    tools: Any = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in (READ, SHELL)
    ]
    messages: list[Any] = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": GOAL},
    ]
    more: dict[str, Any] = {"max_tokens": TOKENS}
    if own:
        more = {"max_completion_tokens": TOKENS, "prompt_cache_key": CONVERSATION}

    async def turn(**extra: Any) -> Any:
        if not streamed:
            whole = await client.chat.completions.create(
                model="gpt-6.1-sol", messages=messages, tools=tools, **more, **extra
            )
            said = whole.choices[0].message
        else:
            chunks = await client.chat.completions.create(
                model="gpt-6.1-sol", messages=messages, tools=tools, stream=True,
                stream_options={"include_usage": True}, **more, **extra,
            )  # fmt: skip
            state: Any = ChatCompletionStreamState()
            async for chunk in chunks:
                state.handle_chunk(chunk)
            said = state.get_final_completion().choices[0].message
        messages.append(said)
        return said

    first = await turn()
    ids = [call.id for call in first.tool_calls]
    messages += [{"role": "tool", "tool_call_id": id_, "content": SEEN[id_]} for id_ in ids]
    if junk:
        second = await turn()
        id_ = second.tool_calls[0].id
        messages.append({"role": "tool", "tool_call_id": id_, "content": JUNK_SEEN})
    messages.append({"role": "user", "content": NUDGE})
    schema = {"name": "answer", "schema": SCHEMA, "strict": True}
    await turn(response_format={"type": "json_schema", "json_schema": schema})
    await client.close()


@MODES
@pytest.mark.parametrize("own", [True, False], ids=["OpenAI's own", "compatible"])
async def test_openai_conversation_is_the_same_on_the_wire(
    pair: tuple[Provider, Provider], http: Http, streamed: bool, own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    theirs, ours = pair
    if own:
        monkeypatch.setattr(own_openai, "OWN_HOST", "127.0.0.1")
    arrange("openai", pair, streamed=streamed, junk=True)
    await hold_with_openai(f"{theirs.url}/v1", streamed=streamed, junk=True, own=own)
    endpoint = Endpoint(wire="openai", url=f"{ours.url}/v1", model="gpt-6.1-sol", key=KEY)
    last = await hold(
        lambda request: own_openai.ask(request, endpoint, http), streamed=streamed, junk=True
    )
    assert json.loads(last.text) == json.loads(FILES)
    assert len(ours.asked) == len(theirs.asked) == 3
    for mine, other in zip(ours.asked, theirs.asked, strict=True):
        same_envelope(mine, other, {"authorization", "content-type", "accept"})
        assert mine.body == junk_as_json(without_nothing(other.body))
        assert list(mine.body["messages"][0]) == list(other.body["messages"][0])


def without_nothing(body: dict[str, Any]) -> dict[str, Any]:
    """By choice: an assistant's fields that say nothing are not said again.

    `refusal: null`, `annotations: []`, `audio: null` and the like come with every answer, and some
    compatible servers refuse them. `content: null` beside calls stays.
    """
    for message in body["messages"]:
        if message["role"] == "assistant":
            for key in [key for key, value in message.items() if value in (None, [])]:
                if key != "content":
                    del message[key]
            for call in message.get("tool_calls", ()):
                # Of their stream's own bookkeeping.
                call.pop("index", None)
                call["function"].pop("parsed_arguments", None)
    return body


def junk_as_json(body: dict[str, Any]) -> dict[str, Any]:
    """By choice: arguments that are no JSON are sent back inside a JSON object.

    Servers that read them for their templates (vLLM, llama.cpp) would refuse the conversation.
    """
    for message in body["messages"]:
        for call in message.get("tool_calls", ()):
            if call["function"]["arguments"] == JUNK[2]:
                wrapped = json.dumps({"INVALID_JSON": JUNK[2]}, ensure_ascii=False)
                call["function"]["arguments"] = wrapped
    return body


async def hold_with_responses(url: str, *, streamed: bool) -> None:
    """The same with OpenAI's newer wire, without anything stored there."""
    import openai

    client = openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    tools: Any = [
        {
            "type": "function",
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "strict": False,
        }
        for tool in (READ, SHELL)
    ]
    items: list[Any] = [{"role": "user", "content": GOAL}]

    async def turn(**extra: Any) -> Any:
        asked: Any = {
            "model": "gpt-6.1-sol", "input": items, "tools": tools, "instructions": SYSTEM,
            "max_output_tokens": TOKENS, "store": False, "prompt_cache_key": CONVERSATION,
            "include": ["reasoning.encrypted_content"], **extra,
        }  # fmt: skip
        if not streamed:
            whole = await client.responses.create(**asked)
        else:
            async for event in await client.responses.create(**asked, stream=True):
                if event.type == "response.completed":
                    whole = event.response
        items.extend(whole.output)
        return [item for item in whole.output if item.type == "function_call"]

    for call in await turn():
        seen = SEEN[call.call_id]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": seen})
    (junk,) = await turn()
    items.append({"type": "function_call_output", "call_id": junk.call_id, "output": JUNK_SEEN})
    items.append({"role": "user", "content": NUDGE})
    format_ = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
    await turn(text={"format": format_})
    await client.close()


@MODES
@pytest.mark.parametrize("thinking", [True, False], ids=["with thoughts", "without"])
async def test_responses_conversation_is_the_same_on_the_wire(
    pair: tuple[Provider, Provider], http: Http, streamed: bool, thinking: bool
) -> None:
    theirs, ours = pair
    arrange("responses", pair, streamed=streamed, junk=True, thinking=thinking)
    await hold_with_responses(f"{theirs.url}/v1", streamed=streamed)
    endpoint = Endpoint(wire="responses", url=f"{ours.url}/v1", model="gpt-6.1-sol", key=KEY)
    last = await hold(
        lambda request: own_responses.ask(request, endpoint, http), streamed=streamed, junk=True
    )
    assert json.loads(last.text) == json.loads(FILES)
    assert len(ours.asked) == len(theirs.asked) == 3
    for mine, other in zip(ours.asked, theirs.asked, strict=True):
        same_envelope(mine, other, {"authorization", "content-type", "accept"})
        assert mine.body == in_short(other.body, thinking=thinking)


def in_short(body: dict[str, Any], *, thinking: bool) -> dict[str, Any]:
    """By choice: an answer that holds nothing but text and calls is said again in the short form.

    With anything else in it, such as thoughts, it goes back as it came, but for what is null. A
    turn with junk for arguments goes back in the short form, too, and without its thoughts: what
    is in it was changed.
    """
    turns: list[list[Any]] = [[]]
    for item in body["input"]:
        if item.get("role") == "user" or item.get("type") == "function_call_output":
            turns += [[item], []]
        else:
            turns[-1].append({key: value for key, value in item.items() if value is not None})
    found: list[Any] = []
    for turn in turns:
        junk = any(item.get("arguments") == JUNK[2] for item in turn)
        if junk or not thinking:
            turn = [_short(item) for item in turn if item.get("type") != "reasoning"]
        found += turn
    return {**body, "input": found}


def _short(item: dict[str, Any]) -> dict[str, Any]:
    if item.get("type") == "message":
        return {"role": "assistant", "content": item["content"][0]["text"]}
    if item.get("type") != "function_call":
        return item
    arguments = item["arguments"]
    if arguments == JUNK[2]:
        arguments = json.dumps({"INVALID_JSON": JUNK[2]}, ensure_ascii=False)
    names = ("type", "call_id", "name")
    return {**{name: item[name] for name in names}, "arguments": arguments}


# ---- Anthropic -----------------------------------------------------------------------------

MARK: Any = {"cache_control": {"type": "ephemeral"}}


async def hold_with_anthropic(url: str, *, streamed: bool) -> None:
    """The same with the official client, with the marks for the cache where ours puts them."""
    import anthropic

    client = anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0)
    tools: list[Any] = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": dict(tool.parameters),
        }
        for tool in (READ, SHELL)
    ]
    tools[-1] |= MARK
    messages: list[Any] = []

    async def turn(*blocks: Any, **extra: Any) -> Any:
        marked = [*blocks[:-1], {**blocks[-1], **MARK}]
        asked: Any = {
            "model": "claude-sonnet-5-5",
            "max_tokens": TOKENS,
            "system": [{"type": "text", "text": SYSTEM, **MARK}],
            "messages": [*messages, {"role": "user", "content": marked}],
            "tools": tools,
            **extra,
        }
        if streamed:
            async with client.messages.stream(**asked) as events:
                whole: Any = await events.get_final_message()
        else:
            whole = await client.messages.create(**asked)
        messages.append({"role": "user", "content": list(blocks)})
        messages.append({"role": "assistant", "content": whole.content})
        return whole

    first = await turn({"type": "text", "text": GOAL})
    results: list[Any] = []
    for block in first.content:
        if block.type == "tool_use":
            result = {"type": "tool_result", "tool_use_id": block.id, "content": SEEN[block.id]}
            results.append(result | ({"is_error": True} if block.id == "call_b2" else {}))
    format_ = {"type": "json_schema", "schema": SCHEMA}
    await turn(*results, {"type": "text", "text": NUDGE}, output_config={"format": format_})
    await client.close()


@MODES
@pytest.mark.parametrize("own", [True, False], ids=["Anthropic's own", "compatible"])
async def test_anthropic_conversation_is_the_same_on_the_wire(
    pair: tuple[Provider, Provider], http: Http, streamed: bool, own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Without the junk: their client gives up on a stream with arguments that are no JSON."""
    theirs, ours = pair
    if own:
        monkeypatch.setattr(own_anthropic, "OWN_HOST", "127.0.0.1")
    arrange("anthropic", pair, streamed=streamed, junk=False)
    await hold_with_anthropic(theirs.url, streamed=streamed)
    endpoint = Endpoint(wire="anthropic", url=ours.url, model="claude-sonnet-5-5", key=KEY)
    last = await hold(
        lambda request: own_anthropic.ask(request, endpoint, http), streamed=streamed, junk=False
    )
    assert json.loads(last.text) == json.loads(FILES)
    assert len(ours.asked) == len(theirs.asked) == 2
    for mine, other in zip(ours.asked, theirs.asked, strict=True):
        if not own:
            like_the_older_version(mine)
        names = {"authorization", "anthropic-version", "content-type", "accept", "x-api-key"}
        same_envelope(mine, other, names)
        assert mine.body == without_parsed(other.body)


def like_the_older_version(mine: Asked) -> None:
    """By choice: servers that are not Anthropic's get the key in both forms, and the version of the
    protocol that all of them know."""
    assert mine.headers.pop("x-api-key") == KEY
    assert mine.headers["anthropic-version"] == own_anthropic.OLDER_VERSION
    mine.headers["anthropic-version"] = own_anthropic.VERSION


def without_parsed(body: dict[str, Any]) -> dict[str, Any]:
    """Of their stream's own bookkeeping."""
    for message in body["messages"]:
        for block in message["content"]:
            block.pop("parsed_output", None)
    return body


# ---- both ----------------------------------------------------------------------------------


def same_envelope(mine: Asked, other: Asked, names: set[str]) -> None:
    """By choice, ours has another `user-agent`, none of the `x-stainless-…`, and wants no
    compression: a small answer could unpack to one that no memory holds."""
    assert (mine.method, mine.path) == (other.method, other.path)
    assert {name: mine.headers.get(name) for name in names} == {
        name: other.headers.get(name) for name in names
    }
    chosen = {"user-agent", "accept-encoding", "host", "content-length", "connection"}
    more = {
        name
        for name in other.headers.keys() - mine.headers.keys()
        if not name.startswith("x-stainless-")
    }
    assert more <= chosen | {"anthropic-beta", "transfer-encoding"}
    assert mine.headers.keys() <= other.headers.keys()
