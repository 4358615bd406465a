"""A conversation and what two providers answer, for the tests of both wires."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from agent_runtime.messages import Message, ModelChoice, ToolUse
from agent_runtime.models.endpoints import Endpoint, Wire
from agent_runtime.ports import ModelRequest
from agent_runtime.types import Json, ToolInfo

KEY = "sk-canary-7f3a9b2c4d5e6f708192a3b4c5d6"
WIRES: tuple[Wire, ...] = ("openai", "responses", "anthropic")

READ = ToolInfo(
    name="read_file",
    description="Reads a file.",
    parameters={
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": False,
    },
    toolbelt="standard",
    where="worker",
)
SHELL = ToolInfo(
    name="shell",
    description="Runs a command.",
    parameters={
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
        "additionalProperties": False,
    },
    toolbelt="standard",
    where="worker",
)
SCHEMA: dict[str, Json] = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string"}}},
    "required": ["files"],
    "additionalProperties": False,
}


def endpoint_at(wire: Wire, url: str, key: str = KEY, model: str = "") -> Endpoint:
    """An endpoint of a provider that runs at `url`."""
    name = model or ("claude-sonnet-5-5" if wire == "anthropic" else "gpt-6.1-sol")
    return Endpoint(wire=wire, url=url if wire == "anthropic" else f"{url}/v1", model=name, key=key)


def request_of(
    *messages: Message,
    tools: Sequence[ToolInfo] = (READ, SHELL),
    heard: Callable[[str], None] | None = None,
    answer_schema: dict[str, Json] | None = None,
    name: str = "test/x",
    conversation: str = "",
    output_tokens_max: int = 1000,
) -> ModelRequest:
    """One turn; without messages, its first."""
    return ModelRequest(
        model=ModelChoice(name=name),
        system="You mend things.",
        messages=messages or (Message(role="user", text="Mend it."),),
        tools=tuple(tools),
        heard=heard,
        answer_schema=answer_schema,
        conversation=conversation,
        output_tokens_max=output_tokens_max,
    )


def plain(wire: Wire, text: str = "Done.", **changes: Any) -> dict[str, Any]:
    """A whole answer with a text and no calls."""
    return said(wire, text, [], **changes)


def said(
    wire: Wire, text: str | None, calls: Sequence[tuple[str, str, str]], **changes: Any
) -> dict[str, Any]:
    """A whole answer; calls are (id, name, arguments as text)."""
    if wire == "openai":
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": raw}}
                for id_, name, raw in calls
            ]
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-6.1-sol-2026",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "finish_reason": "tool_calls" if calls else "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 120,
                "completion_tokens": 30,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 100},
            },
            **changes,
        }
    if wire == "responses":
        output: list[dict[str, Any]] = []
        if text is not None:
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            output.append({
                "id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
                "content": [part],
            })  # fmt: skip
        for id_, name, raw in calls:
            output.append({
                "id": f"fc_{id_}", "type": "function_call", "status": "completed",
                "call_id": id_, "name": name, "arguments": raw,
            })  # fmt: skip
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "model": "gpt-6.1-sol-2026",
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": 120,
                "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
                "output_tokens": 30,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 150,
            },
            **changes,
        }
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text is not None else []
    content += [
        {"type": "tool_use", "id": id_, "name": name, "input": _object(raw)}
        for id_, name, raw in calls
    ]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5-2026",
        "content": content,
        "stop_reason": "tool_use" if calls else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 20,
            "cache_read_input_tokens": 90,
            "cache_creation_input_tokens": 10,
            "output_tokens": 30,
        },
        **changes,
    }


def events(wire: Wire, text: str | None, calls: Sequence[tuple[str, str, str]]) -> list[Any]:
    """The same answer as the provider streams it, in small pieces."""
    if wire == "openai":
        return _openai_events(text, calls)
    if wire == "responses":
        return _responses_events(text, calls)
    return _anthropic_events(text, calls)


def _openai_events(text: str | None, calls: Sequence[tuple[str, str, str]]) -> list[Any]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": "gpt-6.1-sol-2026", "choices": [choice], **more,
        }  # fmt: skip

    found = [chunk({"role": "assistant", "content": None if calls and text is None else ""})]
    found += [chunk({"content": piece}) for piece in _pieces(text or "")]
    for index, (id_, name, raw) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        call = {"index": index, "id": id_, "type": "function", "function": function}
        found.append(chunk({"tool_calls": [call]}))
        for piece in _pieces(raw):
            more = {"index": index, "function": {"arguments": piece}}
            found.append(chunk({"tool_calls": [more]}))
    found.append(chunk({}, "tool_calls" if calls else "stop"))
    usage = {
        "prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 100},
    }  # fmt: skip
    return [*found, {**chunk({}), "choices": [], "usage": usage}]


def _responses_events(text: str | None, calls: Sequence[tuple[str, str, str]]) -> list[Any]:
    whole = said("responses", text, calls)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    found: list[Any] = [{"type": "response.created", "response": begun}]
    for at, item in enumerate(whole["output"]):
        empty = {**item, "status": "in_progress"}
        if item["type"] == "message":
            empty["content"] = []
        else:
            empty["arguments"] = ""
        found.append({"type": "response.output_item.added", "output_index": at, "item": empty})
        place = {"item_id": item["id"], "output_index": at}
        if item["type"] == "message":
            place["content_index"] = 0
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            found.append({"type": "response.content_part.added", "part": part, **place})
            kind, pieces = "response.output_text.delta", _pieces(text or "")
        else:
            kind, pieces = "response.function_call_arguments.delta", _pieces(item["arguments"])
        found += [{"type": kind, "delta": piece, "logprobs": [], **place} for piece in pieces]
        found.append({"type": "response.output_item.done", "output_index": at, "item": item})
    found.append({"type": "response.completed", "response": whole})
    return [{**event, "sequence_number": number} for number, event in enumerate(found)]


def _anthropic_events(text: str | None, calls: Sequence[tuple[str, str, str]]) -> list[Any]:
    message = said("anthropic", None, [])
    message |= {"content": [], "stop_reason": None}
    message["usage"] = {**message["usage"], "output_tokens": 1}
    found: list[Any] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if text is not None:
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(text)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for id_, name, raw in calls:
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in _pieces(raw)]
        blocks.append(({"type": "tool_use", "id": id_, "name": name, "input": {}}, deltas))
    for index, (block, deltas) in enumerate(blocks):
        found.append({"type": "content_block_start", "index": index, "content_block": block})
        found += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        found.append({"type": "content_block_stop", "index": index})
    stop = "tool_use" if calls else "end_turn"
    delta = {"stop_reason": stop, "stop_sequence": None}
    found.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 30}})
    return [*found, {"type": "message_stop"}]


def turn(*calls: ToolUse, text: str = "", provider: str = "") -> Message:
    """What an assistant said."""
    return Message(role="assistant", text=text, calls=calls, provider=provider)


def observed(call_id: str, text: str, *, failed: bool = False) -> Message:
    """What came of a call."""
    return Message(role="tool", call_id=call_id, text=text, failed=failed)


def _pieces(text: str) -> list[str]:
    return [text[at : at + 3] for at in range(0, len(text), 3)]


def _object(raw: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw
