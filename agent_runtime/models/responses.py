"""The wire of OpenAI's responses, which api.openai.com wants of models that think and call tools.

Since GPT-5.6 chat completions refuse tools unless the model is told not to think. Nothing is stored
at OpenAI: thoughts come encrypted and are sent back verbatim. `body` and `answer_of` are pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from agent_runtime.messages import Message, ToolUse
from agent_runtime.models import forms
from agent_runtime.models.endpoints import Endpoint
from agent_runtime.models.faults import Failed, from_error
from agent_runtime.models.http import Http
from agent_runtime.models.schemas import closed, is_strict
from agent_runtime.models.turn import ask_once
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import Json

_PLAIN: Final[Mapping[str, frozenset[str]]] = {
    "message": frozenset({"id", "type", "status", "role", "content"}),
    "function_call": frozenset({"id", "type", "status", "call_id", "name", "arguments"}),
}
"""What our own form of an answer does not lose, or need not keep."""
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


async def ask(request: ModelRequest, endpoint: Endpoint, http: Http) -> ModelAnswer | ModelFault:
    """Ask once. Costs are not known here."""
    return await ask_once(
        request, endpoint, http, path="/responses", headers=endpoint.bearer,
        body=body(request, endpoint), stream=Assembled(str(endpoint), request.heard),
        answer_of=answer_of,
    )  # fmt: skip


# ---- the request ---------------------------------------------------------------------------


def body(request: ModelRequest, endpoint: Endpoint) -> dict[str, Json]:
    """What is sent; the same for the same request, and the former one's beginning stays."""
    sent: dict[str, Json] = {
        "model": endpoint.model,
        "input": items(request, endpoint.provider),
        "max_output_tokens": request.output_tokens_max,
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }
    if request.system:
        sent["instructions"] = request.system
    if request.tools:
        sent["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
                # Else every parameter would have to be required.
                "strict": False,
            }
            for tool in request.tools
        ]
    if request.answer_schema is not None:
        strict = is_strict(request.answer_schema)
        schema = closed(request.answer_schema) if strict else dict(request.answer_schema)
        format_ = {"type": "json_schema", "name": "answer", "schema": schema, "strict": strict}
        sent["text"] = {"format": format_}
    if request.conversation:
        sent["prompt_cache_key"] = forms.cache_key(request.conversation)
    if request.heard is not None:
        sent["stream"] = True
    return sent


def items(request: ModelRequest, provider: str) -> list[Json]:
    """The conversation in the wire's words."""
    found: list[Json] = []
    for message in forms.own_ids(request.messages, provider):
        match message.role:
            case "user":
                found.append({"role": "user", "content": message.text})
            case "tool":
                found.append(
                    {
                        "type": "function_call_output",
                        "call_id": message.call_id,
                        "output": message.text,
                    }
                )
            case _ if isinstance(message.blocks, list) and message.provider == provider:
                found += message.blocks
            case _:
                if message.text:
                    found.append({"role": "assistant", "content": message.text})
                found += map(_call, message.calls)
    return found


def _call(call: ToolUse) -> Json:
    return {
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": forms.arguments_text(call),
    }


# ---- the answer ----------------------------------------------------------------------------


def answer_of(
    request: ModelRequest, endpoint: Endpoint, whole: Mapping[str, Json], asked_bytes: int
) -> ModelAnswer:
    """What an answer says.

    Raises:
        Failed: it is an error, a refusal, or not whole.
    """
    place = str(endpoint)
    if whole.get("error"):
        raise from_error(place, dict(whole))
    listed = whole.get("output")
    output = [forms.record(item) for item in listed] if isinstance(listed, list) else []
    usage = _counted(whole.get("usage")).usage(
        asked_bytes=asked_bytes, answered_bytes=len(msgspec.json.encode(output)),
        output_max=request.output_tokens_max,
    )  # fmt: skip
    status = whole.get("status")
    reason = forms.text_of(forms.record(whole.get("incomplete_details")).get("reason"))
    if not isinstance(listed, list) or status not in ("completed", "incomplete"):
        raise Failed(
            "truncated", f"{place}: the answer ended without its finish marker", usage=usage
        )
    parts = [
        forms.record(part)
        for item in output
        if item.get("type") == "message"
        for part in item.get("content") or ()
    ]
    text = "".join(forms.text_of(p.get("text")) for p in parts if p.get("type") == "output_text")
    refusal = "".join(forms.text_of(part.get("refusal")) for part in parts)
    if reason == "content_filter" or (refusal and not text):
        why = " ".join(refusal.split()) or "its content filter stopped the answer"
        raise Failed("filter", f"{place} refuses to answer this: {why}", usage=usage)
    message = _assistant(output, text, request, endpoint)
    return ModelAnswer(
        message=message,
        stop="length" if status == "incomplete" else "calls" if message.calls else "end",
        usage=usage,
        model=forms.text_of(whole.get("model")) or endpoint.model,
    )


def _assistant(
    output: list[dict[str, Json]], text: str, request: ModelRequest, endpoint: Endpoint
) -> Message:
    calls, changed = forms.with_unique_ids(
        [
            forms.call_of(
                forms.text_of(item.get("call_id")),
                forms.text_of(item.get("name")),
                forms.text_of(item.get("arguments")),
            )
            for item in output
            if item.get("type") == "function_call"
        ],
        turn=len(request.messages),
    )
    broken = changed or any(call.arguments is None for call in calls)
    more = any(
        value
        for item in output
        for key, value in item.items()
        if key not in _PLAIN.get(str(item.get("type")), frozenset())
    )
    own = None if broken or not more else output
    return Message(role="assistant", text=text, calls=calls, blocks=own, provider=endpoint.provider)


def _counted(usage: Json) -> forms.Counted:
    said = forms.record(usage)
    details = forms.record(said.get("input_tokens_details"))
    return forms.Counted(
        input=forms.count(said.get("input_tokens")),
        cached=forms.count(details.get("cached_tokens")) or 0,
        cache_written=forms.count(details.get("cache_write_tokens")) or 0,
        output=forms.count(said.get("output_tokens")),
    )


# ---- the stream ----------------------------------------------------------------------------


class Assembled:
    """See `turn.Assembling`. The last event holds the whole answer."""

    def __init__(self, place: str, heard: Callable[[str], None] | None) -> None:
        self._place = place
        self._heard = heard
        self._whole: dict[str, Any] = {}
        self.bytes_heard = 0

    @property
    def counted(self) -> forms.Counted:
        """See `turn.Assembling`."""
        return _counted(self._whole.get("usage"))

    def take(self, data: str) -> bool:
        """See `turn.Assembling`."""
        event = forms.chunk_object(self._place, data)
        self.bytes_heard += len(data)
        kind = event.get("type")
        if kind == "error" or event.get("error"):
            raise from_error(self._place, event)
        if kind == "response.output_text.delta" and self._heard is not None:
            if text := forms.text_of(event.get("delta")):
                self._heard(forms.whole(text))
        if kind in _ENDS:
            self._whole = forms.mended(forms.record(event.get("response")))
            return True
        return False

    def whole(self) -> dict[str, Json]:
        """See `turn.Assembling`."""
        return self._whole
