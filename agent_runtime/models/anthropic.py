"""The wire of Anthropic's messages.

`body` and `answer_of` are pure; `ask` puts HTTP between them. The prompt's beginning is marked for
the provider's cache at three places of the four that are allowed: behind the tools, behind the
system text, and behind the newest message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from agent_runtime.messages import Message, ToolUse
from agent_runtime.models import forms
from agent_runtime.models.endpoints import Endpoint
from agent_runtime.models.faults import Failed, from_error
from agent_runtime.models.http import Http
from agent_runtime.models.schemas import closed
from agent_runtime.models.turn import ask_once
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import Json

OWN_HOST: Final = "api.anthropic.com"
VERSION: Final = "2026-10-21"
OLDER_VERSION: Final = "2023-06-01"
"""What every compatible server knows. Nothing that is sent here differs between the two."""
ANSWER_TOOL: Final = "answer"
"""What a model without structured outputs must call instead."""
_CACHED: Final = {"cache_control": {"type": "ephemeral"}}
_NO_STRUCTURE = re.compile(r"claude-(?:[123v]|instant|(?:opus|sonnet)-4(?:-0\b|-2025|$))")
"""Models from before structured outputs."""
_CACHEABLE: Final = frozenset({"text", "tool_use", "tool_result"})


async def ask(request: ModelRequest, endpoint: Endpoint, http: Http) -> ModelAnswer | ModelFault:
    """Ask once. Costs are not known here."""
    return await ask_once(
        request, endpoint, http, path="/v1/messages", headers=headers(endpoint),
        body=body(request, endpoint), stream=Assembled(str(endpoint), request.heard),
        answer_of=answer_of,
    )  # fmt: skip


# ---- the request ---------------------------------------------------------------------------


def headers(endpoint: Endpoint) -> dict[str, str]:
    """The version of the protocol, and the key.

    Anthropic wants the key as others have it since 2026; other servers know one form or the other.
    """
    own = urlsplit(endpoint.url).hostname == OWN_HOST
    sent = {"anthropic-version": VERSION if own else OLDER_VERSION}
    if endpoint.key:
        sent["authorization"] = f"Bearer {endpoint.key}"
        if not own:
            sent["x-api-key"] = endpoint.key
    return sent


def body(request: ModelRequest, endpoint: Endpoint) -> dict[str, Json]:
    """What is sent; the same for the same request, and the former one's beginning stays."""
    sent: dict[str, Json] = {
        "model": endpoint.model,
        "max_tokens": request.output_tokens_max,
        "messages": messages(request, endpoint.provider),
    }
    if request.system.strip():
        sent["system"] = [{"type": "text", "text": request.system, **_CACHED}]
    tools: list[dict[str, Json]] = [
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": dict(tool.parameters),
        }
        for tool in request.tools
    ]
    if tools:
        tools[-1] |= _CACHED
    if request.answer_schema is not None:
        if _by_tool(request, endpoint):
            tools.append(
                {
                    "name": ANSWER_TOOL,
                    "description": "Gives the answer.",
                    "input_schema": dict(request.answer_schema),
                }
            )
            sent["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL}
        else:
            format_ = {"type": "json_schema", "schema": closed(request.answer_schema)}
            sent["output_config"] = {"format": format_}
    if tools:
        sent["tools"] = tools
    if request.heard is not None:
        sent["stream"] = True
    return sent


def messages(request: ModelRequest, provider: str) -> list[Json]:
    """The conversation in the wire's words: turns of user and assistant alternate.

    Observations are the user's, and stand before what else is said in the same turn.
    """
    turns: list[dict[str, Any]] = []
    for message in forms.own_ids(request.messages, provider):
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, provider)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": list(blocks)})
    if turns and turns[-1]["content"][-1].get("type") in _CACHEABLE:
        turns[-1]["content"][-1] = {**turns[-1]["content"][-1], **_CACHED}
    return list(turns)


def _blocks(message: Message, provider: str) -> list[dict[str, Json]]:
    """One message's blocks; none for an empty one, because the wire refuses empty texts."""
    text = [{"type": "text", "text": message.text}] if message.text.strip() else []
    match message.role:
        case "user":
            return text
        case "tool":
            block: dict[str, Json] = {"type": "tool_result", "tool_use_id": message.call_id}
            if text:
                block["content"] = message.text
            if message.failed:
                block["is_error"] = True
            return [block]
        case _:
            if isinstance(message.blocks, list) and message.provider == provider:
                # It may say an empty text, and does not take it back.
                return [block for block in message.blocks if not _is_empty(forms.record(block))]
            return [*text, *map(_call, message.calls)]


def _is_empty(block: Mapping[str, Json]) -> bool:
    return block.get("type") == "text" and not forms.text_of(block.get("text")).strip()


def _call(call: ToolUse) -> dict[str, Json]:
    arguments = forms.arguments_object(call)
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _by_tool(request: ModelRequest, endpoint: Endpoint) -> bool:
    """Is the structured answer asked for as a call?"""
    return request.answer_schema is not None and bool(_NO_STRUCTURE.match(endpoint.model))


# ---- the answer ----------------------------------------------------------------------------


def answer_of(
    request: ModelRequest, endpoint: Endpoint, whole: Mapping[str, Json], asked_bytes: int
) -> ModelAnswer:
    """What an answer says.

    Raises:
        Failed: it is an error, a refusal, or not whole.
    """
    place = str(endpoint)
    if whole.get("type") == "error" or whole.get("error"):
        raise from_error(place, dict(whole))
    content = whole.get("content")
    blocks = [forms.record(block) for block in content] if isinstance(content, list) else []
    usage = _counted(whole.get("usage")).usage(
        asked_bytes=asked_bytes, answered_bytes=len(msgspec.json.encode(blocks)),
        output_max=request.output_tokens_max,
    )  # fmt: skip
    stop = forms.text_of(whole.get("stop_reason"))
    if not isinstance(content, list) or not stop:
        raise Failed(
            "truncated", f"{place}: the answer ended without its finish marker", usage=usage
        )
    if stop == "refusal":
        details = forms.record(whole.get("stop_details"))
        why = " ".join(forms.text_of(details.get("explanation")).split()) or "without a reason"
        raise Failed("filter", f"{place} refuses to answer this: {why}", usage=usage)
    message = _assistant(blocks, request, endpoint)
    cut = stop in ("max_tokens", "model_context_window_exceeded")
    return ModelAnswer(
        message=message,
        stop="length" if cut else "calls" if message.calls else "end",
        usage=usage,
        model=forms.text_of(whole.get("model")) or endpoint.model,
    )


def _assistant(blocks: list[dict[str, Json]], request: ModelRequest, endpoint: Endpoint) -> Message:
    text = "".join(forms.text_of(b.get("text")) for b in blocks if b.get("type") == "text")
    uses = [block for block in blocks if block.get("type") == "tool_use"]
    if _by_tool(request, endpoint):
        answers = [use for use in uses if use.get("name") == ANSWER_TOOL]
        if answers:
            given = answers[0].get("input")
            text = given if isinstance(given, str) else forms.encode(given).decode()
            return Message(role="assistant", text=text, provider=endpoint.provider)
    calls, changed = forms.with_unique_ids(
        [_use(block) for block in uses], turn=len(request.messages)
    )
    broken = changed or any(call.arguments is None for call in calls)
    more = any(set(block) - _PLAIN.get(str(block.get("type")), set()) for block in blocks)
    more = more or sum(block.get("type") == "text" for block in blocks) > 1
    own = None if broken or not more else blocks
    return Message(role="assistant", text=text, calls=calls, blocks=own, provider=endpoint.provider)


_PLAIN: Final[Mapping[str, set[str]]] = {
    "text": {"type", "text"},
    "tool_use": {"type", "id", "name", "input"},
}
"""What our own form of a message does not lose."""


def _use(block: Mapping[str, Json]) -> ToolUse:
    id_, name = forms.text_of(block.get("id")), forms.text_of(block.get("name"))
    given = block.get("input")
    if isinstance(given, dict):
        return ToolUse(id=id_, name=name, arguments=given)
    raw = given if isinstance(given, str) else forms.encode(given).decode()
    return forms.call_of(id_, name, raw)


def _counted(usage: Json) -> forms.Counted:
    said = forms.record(usage)
    fresh = forms.count(said.get("input_tokens"))
    cached = forms.count(said.get("cache_read_input_tokens")) or 0
    written = forms.count(said.get("cache_creation_input_tokens")) or 0
    return forms.Counted(
        input=None if fresh is None else fresh + cached + written,
        cached=cached,
        cache_written=written,
        output=forms.count(said.get("output_tokens")),
    )


# ---- the stream ----------------------------------------------------------------------------


class Assembled:
    """See `turn.Assembling`."""

    def __init__(self, place: str, heard: Callable[[str], None] | None) -> None:
        self._place = place
        self._heard = heard
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        self._usage: dict[str, Json] = {}
        self.bytes_heard = 0

    @property
    def counted(self) -> forms.Counted:
        """What is known of its tokens. Of a stream that is not at its end, the output is not."""
        ended = bool(self._message.get("stop_reason"))
        return _counted(self._usage if ended else {**self._usage, "output_tokens": None})

    def take(self, data: str) -> bool:
        """See `turn.Assembling`."""
        event = forms.chunk_object(self._place, data)
        self.bytes_heard += len(data)
        match event.get("type"):
            case "message_start":
                self._message = forms.record(event.get("message"))
                self._count(self._message.get("usage"))
            case "content_block_start":
                self._blocks[self._index(event)] = forms.record(event.get("content_block"))
            case "content_block_delta":
                self._take_delta(self._index(event), forms.record(event.get("delta")))
            case "message_delta":
                self._message |= forms.record(event.get("delta"))
                self._count(event.get("usage"))
            case "error":
                raise from_error(self._place, event)
            case "message_stop":
                return True
        # A new kind of event is nothing that an older client must know.
        return False

    def whole(self) -> dict[str, Json]:
        """The answer; it has no stop reason if none came."""
        for index, raw in self._inputs.items():
            call = forms.call_of("", "", raw)
            self._blocks[index]["input"] = raw if call.arguments is None else call.arguments
        content = [self._blocks[index] for index in sorted(self._blocks)]
        whole = {**self._message, "content": forms.mended(content), "usage": self._usage}
        return whole if self._message else {}

    def _index(self, event: Mapping[str, Json]) -> int:
        index = event.get("index")
        return index if isinstance(index, int) else 0

    def _count(self, usage: Json) -> None:
        # The numbers are sums: the newest counts, and what is not said again stays.
        said = forms.record(usage)
        self._usage |= {key: value for key, value in said.items() if value is not None}

    def _take_delta(self, index: int, delta: dict[str, Json]) -> None:
        block = self._blocks.setdefault(index, {"type": "text", "text": ""})
        match delta.get("type"):
            case "text_delta":
                text = forms.text_of(delta.get("text"))
                block["text"] = forms.text_of(block.get("text")) + text
                if text and self._heard is not None:
                    self._heard(forms.whole(text))
            case "input_json_delta":
                part = forms.text_of(delta.get("partial_json"))
                self._inputs[index] = self._inputs.get(index, "") + part
            case "thinking_delta":
                part = forms.text_of(delta.get("thinking"))
                block["thinking"] = forms.text_of(block.get("thinking")) + part
            case "signature_delta":
                block["signature"] = delta.get("signature")
            case "citations_delta":
                block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
