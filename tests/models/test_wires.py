"""Both wires against a provider that says anything: right answers, wrong ones, cut ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_runtime.messages import Message, ModelUsage, ToolUse
from agent_runtime.models import anthropic, openai, responses
from agent_runtime.models.endpoints import Endpoint, Wire
from agent_runtime.models.http import ANSWER_BYTES_MAX, Http
from agent_runtime.ports import ModelAnswer, ModelFault, ModelRequest
from tests.models import talk
from tests.models.server import Provider, Reply, answer, provider, stream
from tests.models.talk import KEY, WIRES, endpoint_at, request_of
from tests.sandboxes.web import make_certificate

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("wire", WIRES)]

THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": "c2ln"}
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
USAGE = {
    "openai": ModelUsage(input=120, cached=100, output=30),
    "responses": ModelUsage(input=120, cached=100, output=30),
    "anthropic": ModelUsage(input=120, cached=90, cache_written=10, output=30),
}


async def ask(
    wire: Wire, endpoint: Endpoint, http: Http, request: ModelRequest | None = None
) -> ModelAnswer | ModelFault:
    asking = {"openai": openai.ask, "responses": responses.ask, "anthropic": anthropic.ask}[wire]
    return await asking(request or request_of(), endpoint, http)


def reply_of(
    wire: Wire, text: str | None, calls: list[tuple[str, str, str]], *, streamed: bool
) -> Reply:
    if streamed:
        return stream(talk.events(wire, text, calls), done=wire == "openai")
    return answer(talk.said(wire, text, calls))


async def asked(
    wire: Wire, served: Provider, http: Http, reply: Reply, *, streamed: bool = False, **more: Any
) -> ModelAnswer | ModelFault:
    served.say(reply)
    heard: list[str] = []
    request = request_of(heard=heard.append if streamed else None, **more)
    result = await ask(wire, endpoint_at(wire, served.url), http, request)
    if isinstance(result, ModelAnswer) and streamed:
        assert "".join(heard) == result.message.text
    return result


def answered(result: ModelAnswer | ModelFault) -> ModelAnswer:
    assert isinstance(result, ModelAnswer), result
    return result


def failed(result: ModelAnswer | ModelFault) -> ModelFault:
    assert isinstance(result, ModelFault), result
    assert KEY not in repr(result) and KEY[:10] not in repr(result)
    return result


# ---- right answers -------------------------------------------------------------------------


@STREAMED
async def test_text_is_the_answer(wire: Wire, served: Provider, http: Http, streamed: bool) -> None:
    reply = reply_of(wire, "Grün, fertig. 🎉", [], streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    assert result.message.text == "Grün, fertig. 🎉"
    assert (result.message.role, result.stop, result.cached) == ("assistant", "end", False)
    assert result.usage == USAGE[wire]
    assert result.model.endswith("-2026")


@STREAMED
async def test_parallel_calls_come_in_their_order(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    calls = [("a1", "read_file", '{"path": "ä.py"}'), ("b2", "shell", '{"command": "ls"}')]
    reply = reply_of(wire, "Looking.", calls, streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    assert [(c.id, c.name, c.arguments) for c in result.message.calls] == [
        ("a1", "read_file", {"path": "ä.py"}),
        ("b2", "shell", {"command": "ls"}),
    ]
    assert (result.stop, result.message.text) == ("calls", "Looking.")
    assert result.message.blocks is None, "nothing in it that our own form would lose"


@STREAMED
async def test_junk_arguments_are_kept_for_repair(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    raw = '{"path": "a.py'
    reply = reply_of(wire, None, [("a1", "read_file", raw)], streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    assert result.message.calls == (ToolUse(id="a1", name="read_file", arguments=None, raw=raw),)


@pytest.mark.parametrize(
    "raw", ["[1]", '"x"', '{"n": NaN}', '{"n": 1e999}', '{"n": 1%s}' % ("0" * 40)]
)
async def test_arguments_that_no_log_can_hold_are_junk(
    wire: Wire, served: Provider, http: Http, raw: str
) -> None:
    reply = reply_of(wire, None, [("a1", "shell", raw)], streamed=True)
    result = answered(await asked(wire, served, http, reply, streamed=True))
    assert result.message.calls[0].arguments is None
    assert result.message.calls[0].raw == raw


@STREAMED
async def test_call_without_arguments_has_none(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    raw = "" if streamed or wire == "openai" else "{}"
    reply = reply_of(wire, None, [("a1", "shell", raw)], streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    assert result.message.calls[0].arguments == {}


@STREAMED
async def test_two_calls_with_one_id_get_ids_of_their_own(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    calls = [("a1", "shell", '{"command": "a"}'), ("a1", "shell", '{"command": "b"}')]
    reply = reply_of(wire, None, calls, streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    first, second = result.message.calls
    assert first.id == "a1" and second.id not in ("a1", "")
    assert (first.arguments, second.arguments) == ({"command": "a"}, {"command": "b"})
    assert result.message.blocks is None


@STREAMED
async def test_empty_answer_is_an_answer(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    reply = reply_of(wire, None, [], streamed=streamed)
    result = answered(await asked(wire, served, http, reply, streamed=streamed))
    assert (result.message.text, result.message.calls, result.stop) == ("", (), "end")
    assert result.usage.output > 0


async def test_answer_that_was_cut_for_length_says_so(
    wire: Wire, served: Provider, http: Http
) -> None:
    body = talk.plain(wire, "Half a")
    if wire == "openai":
        body["choices"][0]["finish_reason"] = "length"
    elif wire == "responses":
        body |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    else:
        body["stop_reason"] = "max_tokens"
    result = answered(await asked(wire, served, http, answer(body)))
    assert (result.stop, result.message.text) == ("length", "Half a")


async def test_server_that_does_not_stream_is_understood(
    wire: Wire, served: Provider, http: Http
) -> None:
    result = answered(
        await asked(wire, served, http, answer(talk.plain(wire, "Whole.")), streamed=True)
    )
    assert result.message.text == "Whole."


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": -1, "prompt_tokens": "x"}])
async def test_usage_that_is_missing_is_estimated(
    wire: Wire, served: Provider, http: Http, usage: Any
) -> None:
    result = answered(
        await asked(wire, served, http, answer(talk.plain(wire, "x" * 300, usage=usage)))
    )
    assert result.usage.input >= len(served.asked[0].raw) / 4
    assert 75 <= result.usage.output <= 1000


async def test_stream_needs_no_usage_either(wire: Wire, served: Provider, http: Http) -> None:
    events = talk.events(wire, "Done.", [])
    if wire == "openai":
        events = events[:-1]
    elif wire == "responses":
        events[-1]["response"].pop("usage")
    else:
        events[0]["message"].pop("usage")
        events[-2].pop("usage")
    result = answered(
        await asked(wire, served, http, stream(events, done=wire == "openai"), streamed=True)
    )
    assert result.usage.input > 10 and result.usage.output > 0


# ---- what is sent --------------------------------------------------------------------------


async def test_request_grows_at_its_end_only(wire: Wire, served: Provider, http: Http) -> None:
    """A provider's cache holds for a prefix that is the same, but for its marks."""
    first = Message(role="user", text="Mend it.")
    one = talk.turn(ToolUse(id="a1", name="shell", arguments={"command": "ls"}))
    served.say(answer(talk.plain(wire)))
    endpoint = endpoint_at(wire, served.url)
    for messages in ([first], [first, one, talk.observed("a1", "a.py")]):
        await ask(wire, endpoint, http, request_of(*messages))
    before, after = [unmarked(body) for body in served.bodies]
    key = "input" if wire == "responses" else "messages"
    assert after[key][: len(before[key])] == before[key]
    assert {**after, key: 0} == {**before, key: 0}


def unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unmarked(item) for key, item in value.items() if key != "cache_control"}
    return [unmarked(item) for item in value] if isinstance(value, list) else value


async def test_anothers_blocks_and_ids_are_never_sent(
    wire: Wire, served: Provider, http: Http
) -> None:
    """Ids differ in what providers allow; nine letters and digits are right for all."""
    foreign = Message(
        role="assistant", text="Looking.", provider="other:https://x",
        calls=(ToolUse(id="weird id/1", name="shell", arguments={"command": "ls"}),),
        blocks=[{"type": "thinking", "thinking": "SECRET THOUGHT", "signature": "s"}],
    )  # fmt: skip
    served.say(answer(talk.plain(wire)))
    messages = [Message(role="user", text="x"), foreign, talk.observed("weird id/1", "a.py")]
    await ask(wire, endpoint_at(wire, served.url), http, request_of(*messages))
    sent = served.asked[0].raw.decode()
    assert "SECRET" not in sent and "weird" not in sent
    assert sent.count('"call00000"') == 2


async def test_own_blocks_are_sent_back_verbatim(wire: Wire, served: Provider, http: Http) -> None:
    """Signatures of thoughts are refused when one letter of them has changed."""
    body = talk.said(wire, "Looking.", [("a1", "shell", '{"command": "ls"}')])
    if wire == "openai":
        message = body["choices"][0]["message"]
        message["tool_calls"][0]["extra_content"] = {"google": {"thought_signature": "c2ln"}}
        message["reasoning_content"] = "hm"
        own = message
    elif wire == "responses":
        body["output"].insert(0, THOUGHT)
        own = body["output"]
    else:
        body["content"].insert(0, {"type": "thinking", "thinking": "hm", "signature": "c2ln"})
        own = body["content"]
    first = answered(await asked(wire, served, http, answer(body)))
    assert first.message.blocks == own
    endpoint = endpoint_at(wire, served.url)
    assert first.message.provider == endpoint.provider
    messages = [Message(role="user", text="x"), first.message, talk.observed("a1", "a.py")]
    served.say(answer(talk.plain(wire)))
    await ask(wire, endpoint, http, request_of(*messages))
    sent = served.bodies[-1]
    if wire == "responses":
        assert sent["input"][1 : 1 + len(own)] == own
    else:
        found = sent["messages"]
        assert (found[2] if wire == "openai" else found[1]["content"]) == own


async def test_streamed_blocks_are_those_of_the_whole_answer(
    wire: Wire, served: Provider, http: Http
) -> None:
    if wire == "openai":
        call = {
            "index": 0, "id": "a1", "type": "function",
            "function": {"name": "shell", "arguments": '{"command": "ls"}'},
            "extra_content": {"google": {"thought_signature": "c2ln"}},
        }  # fmt: skip
        choice = {"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}
        last = {"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": "tool_calls"}
        events: list[Any] = [{"choices": [choice]}, {"choices": [last]}]
        own: Any = {
            "role": "assistant", "content": None, "reasoning_content": "hm",
            "tool_calls": [{key: value for key, value in call.items() if key != "index"}],
        }  # fmt: skip
    elif wire == "responses":
        events = talk.events(wire, "Looking.", [("a1", "shell", '{"command": "ls"}')])
        own = events[-1]["response"]["output"]
        own.insert(0, THOUGHT)
    else:
        events = talk.events(wire, "Looking.", [("a1", "shell", '{"command": "ls"}')])
        thought = {"type": "thinking", "thinking": "", "signature": ""}
        for event in events[2:-2]:
            event["index"] += 1
        deltas = [
            {"type": "thinking_delta", "thinking": "h"},
            {"type": "thinking_delta", "thinking": "m"},
            {"type": "signature_delta", "signature": "c2ln"},
        ]
        events[2:2] = [
            {"type": "content_block_start", "index": 0, "content_block": thought},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
        ]
        own = [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "a1", "name": "shell", "input": {"command": "ls"}},
        ]
    reply = stream(events, done=wire == "openai")
    result = answered(await asked(wire, served, http, reply, streamed=True))
    assert result.message.blocks == own


async def test_half_characters_do_not_stop_a_request(
    wire: Wire, served: Provider, http: Http
) -> None:
    """A tool's output may hold bytes that are no text."""
    served.say(answer(talk.plain(wire)))
    request = request_of(Message(role="user", text="bad \udcff byte"))
    answered(await ask(wire, endpoint_at(wire, served.url), http, request))
    assert "bad" in served.asked[0].raw.decode()


async def test_keyless_server_gets_no_key(wire: Wire, served: Provider, http: Http) -> None:
    served.say(answer(talk.plain(wire)))
    answered(await ask(wire, endpoint_at(wire, served.url, key=""), http))
    assert not {"authorization", "x-api-key"} & served.asked[0].headers.keys()


# ---- structured answers --------------------------------------------------------------------


@STREAMED
async def test_structured_answer_is_json_text(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    reply = reply_of(wire, '{"files": ["a.py"]}', [], streamed=streamed)
    result = answered(
        await asked(wire, served, http, reply, streamed=streamed, answer_schema=talk.SCHEMA)
    )
    assert json.loads(result.message.text) == {"files": ["a.py"]}
    body = served.bodies[0]
    sent = {
        "openai": lambda: body["response_format"]["json_schema"],
        "responses": lambda: body["text"]["format"],
        "anthropic": lambda: body["output_config"]["format"],
    }[wire]()
    assert sent["schema"] == talk.SCHEMA
    assert sent.get("strict", True)


# ---- wrong answers -------------------------------------------------------------------------

ERRORS: list[tuple[int, Any, dict[str, str], str]] = [
    (401, {"error": {"message": "Incorrect API key provided: " + KEY, "code": "invalid_api_key"}},
     {}, "auth"),
    (401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid key"}},
     {}, "auth"),
    (403, {"error": {"message": "your region"}}, {}, "auth"),
    (402, {}, {}, "auth"),
    (429, {"error": {"message": "no money", "code": "insufficient_quota"}}, {}, "auth"),
    (400, {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}},
     {}, "auth"),
    (400, [{"error": {"code": 400, "status": "INVALID_ARGUMENT",
                      "message": "API key not valid. Please pass a valid API key."}}], {}, "auth"),
    (404, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}},
     {}, "not_found"),
    (404, {"type": "error", "error": {"type": "not_found_error", "message": "model: x"}},
     {}, "not_found"),
    (404, b"<html>nothing here</html>", {}, "not_found"),
    (400, {"error": "model 'llama9' not found"}, {}, "not_found"),
    (429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, {}, "rate"),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}}, {}, "rate"),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
     {}, "overload"),
    (500, {"error": {"message": "The server had an error", "type": "server_error"}},
     {}, "overload"),
    (503, b"upstream connect error", {}, "overload"),
    (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, {}, "context"),
    (400, {"type": "error", "error": {"type": "invalid_request_error",
           "message": "prompt is too long: 200001 tokens > 200000 maximum"}}, {}, "context"),
    (400, {"error": {"type": "exceed_context_size_error", "code": 400,
           "message": "the request exceeds the available context size"}}, {}, "context"),
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens",
           "type": "BadRequestError", "code": 400}, {}, "context"),
    (413, {"type": "error", "error": {"type": "request_too_large", "message": "x"}}, {}, "context"),
    (400, {"error": {"message": "filtered", "code": "content_filter"}}, {}, "filter"),
    (200, {"error": {"code": "bio_policy", "message": "no"}}, {}, "filter"),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x",
           "details": {"error_code": "enforced_spend_limit_reached"}}}, {}, "auth"),
    (400, {"error": {"message": "bad field", "type": "invalid_request_error"}}, {}, "bad_request"),
    (422, {"detail": [{"type": "extra_forbidden"}]}, {}, "bad_request"),
    (302, b"", {"location": "https://elsewhere.example/v1"}, "not_found"),
    (200, {"error": {"message": "Provider returned error", "code": 502}}, {}, "overload"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "headers", "kind"), ERRORS)
async def test_errors_are_told_apart(
    wire: Wire, served: Provider, http: Http, status: int, body: Any,
    headers: dict[str, str], kind: str,
) -> None:  # fmt: skip
    reply = answer(body, status=status, headers=headers)
    fault = failed(await asked(wire, served, http, reply))
    assert fault.kind == kind
    assert served.url in fault.message
    assert len(served.asked) == 1, "nothing is sent twice, and nowhere else"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        (
            {
                "retry-after": "Sat, 21 Nov 2026 20:00:30 GMT",
                "date": "Sat, 21 Nov 2026 20:00:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Sat, 21 Nov 2020 20:00:30 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
    ],
)
async def test_wish_to_wait_is_passed_on(
    wire: Wire, served: Provider, http: Http, headers: dict[str, str], seconds: float | None
) -> None:
    fault = failed(await asked(wire, served, http, answer({}, status=429, headers=headers)))
    assert (fault.kind, fault.retry_after_seconds) == ("rate", seconds)


async def test_refusal_is_a_fault_of_its_own_and_is_charged(
    wire: Wire, served: Provider, http: Http
) -> None:
    body = talk.plain(wire)
    if wire == "openai":
        body["choices"][0]["message"] = {"role": "assistant", "content": None, "refusal": "I won't"}
    elif wire == "responses":
        body["output"][0]["content"] = [{"type": "refusal", "refusal": "I won't"}]
    else:
        body |= {
            "content": [],
            "stop_reason": "refusal",
            "stop_details": {"explanation": "I won't"},
        }
    fault = failed(await asked(wire, served, http, answer(body)))
    assert fault.kind == "filter" and "I won't" in fault.message
    assert fault.usage == USAGE[wire]


@STREAMED
@pytest.mark.parametrize(
    "body", [b"<html>Sign in</html>", b"[]", b"null", b"", b'{"choices": [{"mess', b"[" * 99_999]
)
async def test_what_is_no_json_object_is_no_answer(
    wire: Wire, served: Provider, http: Http, streamed: bool, body: bytes
) -> None:
    fault = failed(await asked(wire, served, http, answer(body), streamed=streamed))
    assert fault.kind == "truncated" and fault.usage.total > 0


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{}]}, {"content": []}])
async def test_answer_without_its_parts_is_none(
    wire: Wire, served: Provider, http: Http, body: Any
) -> None:
    assert failed(await asked(wire, served, http, answer(body))).kind == "truncated"


async def test_body_that_is_cut_is_no_answer(wire: Wire, served: Provider, http: Http) -> None:
    reply = answer(talk.plain(wire), length=50)
    assert failed(await asked(wire, served, http, reply)).kind == "truncated"


@pytest.mark.parametrize("whole", [True, False], ids=["ended", "cut"])
async def test_stream_without_its_finish_marker_is_no_answer_wherever_it_ends(
    wire: Wire, served: Provider, http: Http, whole: bool
) -> None:
    """Clients that take such a stream for an answer run half of a command."""
    calls = [("a1", "shell", '{"command": "rm -r build"}')]
    events = talk.events(wire, "Now.", calls)
    marks = [
        at
        for at, event in enumerate(events)
        if event.get("type") in ("message_delta", "response.completed")
        or any(choice.get("finish_reason") for choice in event.get("choices", ()))
    ]
    for end in range(0, marks[0] + 1, 4):
        reply = stream(events[:end], done=False, whole=whole)
        fault = failed(await asked(wire, served, http, reply, streamed=True))
        assert fault.kind == "truncated", end
        assert fault.usage.total > 0


async def test_done_without_a_finish_reason_is_no_answer(
    wire: Wire, served: Provider, http: Http
) -> None:
    events = talk.events(wire, "Now.", [])[:3]
    reply = stream(events, done=wire == "openai")
    assert failed(await asked(wire, served, http, reply, streamed=True)).kind == "truncated"


async def test_error_inside_a_stream_is_told(wire: Wire, served: Provider, http: Http) -> None:
    events = talk.events(wire, "Now.", [])[:3]
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reply = stream([*events, error], done=False)
    fault = failed(await asked(wire, served, http, reply, streamed=True))
    assert (fault.kind, "Overloaded" in fault.message) == ("overload", True)


async def test_junk_inside_a_stream_is_no_answer(wire: Wire, served: Provider, http: Http) -> None:
    events = talk.events(wire, "Now.", [])
    reply = stream([*events[:3], b"data: {broken\n\n", *events[3:]])
    assert failed(await asked(wire, served, http, reply, streamed=True)).kind == "truncated"


@STREAMED
async def test_huge_answer_is_thrown_away(
    wire: Wire, served: Provider, http: Http, streamed: bool
) -> None:
    kind = "text/event-stream" if streamed else "application/json"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode()
    piece = b'{"content": "' if not streamed else b": nothing\n"
    filler = (b"x" if not streamed else b": nothing\n") * (1 << 18)

    served.say(Reply(head + piece + filler * (1 + (ANSWER_BYTES_MAX // len(filler)))))
    heard: list[str] = []
    request = request_of(heard=heard.append if streamed else None)
    fault = failed(await ask(wire, endpoint_at(wire, served.url), http, request))
    assert (fault.kind, "10 MiB" in fault.message) == ("too_large", True)
    assert 0 < fault.usage.output <= request.output_tokens_max


@STREAMED
async def test_silence_has_an_end(wire: Wire, served: Provider, http: Http, streamed: bool) -> None:
    if streamed:
        reply = stream(talk.events(wire, "Now, let me see", [])[:4], done=False, hold=True)
    else:
        reply = Reply(b"", hold=True)
    fault = failed(await asked(wire, served, http, reply, streamed=streamed))
    assert fault.kind == "transport" and "nothing came" in fault.message
    assert (fault.usage.total > 0) == streamed, "what had come is charged"


async def test_finish_marker_ends_a_stream_that_stays_open(
    wire: Wire, served: Provider, http: Http
) -> None:
    reply = stream(talk.events(wire, "Done.", []), done=wire == "openai", hold=True)
    result = answered(await asked(wire, served, http, reply, streamed=True))
    assert result.message.text == "Done."


async def test_nobody_listening_is_told(wire: Wire, http: Http) -> None:
    with provider() as gone:
        endpoint = endpoint_at(wire, gone.url)
    fault = failed(await ask(wire, endpoint, http))
    assert fault.kind == "transport" and "nothing listens" in fault.message


async def test_unknown_host_is_told(wire: Wire, http: Http) -> None:
    fault = failed(await ask(wire, endpoint_at(wire, "http://no-such-host.invalid"), http))
    assert fault.kind == "transport" and "no-such-host.invalid" in fault.message


async def test_certificate_that_nobody_knows_says_what_to_set(
    wire: Wire, http: Http, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    with provider(certificate) as secure:
        secure.say(answer(talk.plain(wire)))
        endpoint = endpoint_at(wire, secure.url)
        fault = failed(await ask(wire, endpoint, http))
        assert fault.kind == "transport" and "SSL_CERT_FILE" in fault.message
        assert secure.asked == [], "no key went out"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await http.close()
        answered(await ask(wire, endpoint, http))
        await http.close()


async def test_http_where_https_is_meant_is_told(wire: Wire, served: Provider, http: Http) -> None:
    served.say(answer({}))
    url = served.url.replace("http:", "https:")
    fault = failed(await ask(wire, endpoint_at(wire, url), http))
    assert fault.kind == "transport" and "https" in fault.message


async def test_key_stays_out_of_what_is_said_about_an_endpoint(
    wire: Wire, served: Provider
) -> None:
    endpoint = endpoint_at(wire, served.url)
    assert KEY not in f"{endpoint!r} {endpoint}"
