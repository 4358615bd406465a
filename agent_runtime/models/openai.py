"""The wire of OpenAI's chat completions, which Ollama, vLLM, llama.cpp, Gemini and many more speak.

`body` and `answer_of` are pure; `ask` puts HTTP between them. What only api.openai.com knows is
sent to nobody else, because some compatible servers refuse what they do not know.
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
from agent_runtime.models.schemas import closed, is_strict
from agent_runtime.models.turn import ask_once
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import Json

OWN_HOST: Final = "api.openai.com"
_MISTRAL_HOST: Final = "//api.mistral.ai/"
_MISTRAL: Final = re.compile(
    r"mistral|mixtral|ministral|devstral|codestral|magistral", re.IGNORECASE
)
_MISTRAL_IDS: Final = re.compile(r"[A-Za-z0-9]{9}")
_PLAIN: Final = frozenset({"role", "content", "tool_calls"})
_PLAIN_CALL: Final = frozenset({"id", "type", "function", "index"})


async def ask(request: ModelRequest, endpoint: Endpoint, http: Http) -> ModelAnswer | ModelFault:
    """Ask once. Costs are not known here."""
    return await ask_once(
        request, endpoint, http, path="/chat/completions", headers=endpoint.bearer,
        body=body(request, endpoint), stream=Assembled(str(endpoint), request.heard),
        answer_of=answer_of,
    )  # fmt: skip


# ---- the request ---------------------------------------------------------------------------


def body(request: ModelRequest, endpoint: Endpoint) -> dict[str, Json]:
    """What is sent; the same for the same request, and the former one's beginning stays."""
    own = urlsplit(endpoint.url).hostname == OWN_HOST
    sent: dict[str, Json] = {
        "model": endpoint.model,
        "messages": messages(request, endpoint),
        # The older name is refused by OpenAI's newer models, the newer one by others.
        "max_completion_tokens" if own else "max_tokens": request.output_tokens_max,
    }
    if request.tools:
        sent["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in request.tools
        ]
    if request.answer_schema is not None:
        strict = is_strict(request.answer_schema)
        schema = closed(request.answer_schema) if strict else dict(request.answer_schema)
        sent["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": strict},
        }
    if own and request.conversation:
        sent["prompt_cache_key"] = forms.cache_key(request.conversation)
    if request.heard is not None:
        sent |= {"stream": True, "stream_options": {"include_usage": True}}
    return sent


def messages(request: ModelRequest, endpoint: Endpoint) -> list[Json]:
    """The conversation in the wire's words."""
    system = [{"role": "system", "content": request.system}] if request.system else []
    strict = _MISTRAL_HOST in endpoint.url or _MISTRAL.search(endpoint.model) is not None
    allowed = _MISTRAL_IDS if strict else forms.IDS
    own = forms.own_ids(request.messages, endpoint.provider, allowed=allowed)
    said = [_message(each, endpoint.provider) for each in own]
    return system + (_in_strict_order(said) if strict else said)


def _message(message: Message, provider: str) -> Json:
    match message.role:
        case "user":
            return {"role": "user", "content": message.text}
        case "tool":
            return {"role": "tool", "tool_call_id": message.call_id, "content": message.text}
        case _:
            if message.blocks is not None and message.provider == provider:
                return message.blocks
            # Not null where nothing is called: several servers want a text then.
            text = message.text or (None if message.calls else "")
            said: dict[str, Json] = {"role": "assistant", "content": text}
            if message.calls:
                said["tool_calls"] = [_call(call) for call in message.calls]
            return said


def _in_strict_order(said: list[Json]) -> list[Json]:
    """What a user says directly after a message that is no assistant's, as a part of that one.

    Mistral's models refuse it otherwise, at every provider.
    """
    found: list[Json] = []
    for message in said:
        if message["role"] == "user" and found and found[-1]["role"] != "assistant":
            text = f"{found[-1]['content']}\n\n{message['content']}"
            found[-1] = {**found[-1], "content": text}
        else:
            found.append(message)
    return found


def _call(call: ToolUse) -> Json:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": forms.arguments_text(call)},
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
    choices = whole.get("choices")
    choice = forms.record(choices[0]) if isinstance(choices, list) and choices else {}
    said = forms.record(choice.get("message"))
    usage = _counted(whole.get("usage")).usage(
        asked_bytes=asked_bytes, answered_bytes=len(msgspec.json.encode(said)),
        output_max=request.output_tokens_max,
    )  # fmt: skip
    finish = forms.text_of(choice.get("finish_reason"))
    if not said or not finish:
        raise Failed(
            "truncated", f"{place}: the answer ended without its finish marker", usage=usage
        )
    text = _text(said.get("content"))
    refusal = forms.text_of(said.get("refusal"))
    if finish == "content_filter" or (refusal and not text):
        why = " ".join(refusal.split()) or "its content filter stopped the answer"
        raise Failed("filter", f"{place} refuses to answer this: {why}", usage=usage)
    message = _assistant(said, text, request, endpoint)
    return ModelAnswer(
        message=message,
        stop="length" if finish == "length" else "calls" if message.calls else "end",
        usage=usage,
        model=forms.text_of(whole.get("model")) or endpoint.model,
    )


def _assistant(
    said: dict[str, Json], text: str, request: ModelRequest, endpoint: Endpoint
) -> Message:
    called = said.get("tool_calls")
    listed = [forms.record(each) for each in called] if isinstance(called, list) else []
    functions = [forms.record(each.get("function")) for each in listed]
    calls, changed = forms.with_unique_ids(
        [
            forms.call_of(
                forms.text_of(each.get("id")),
                forms.text_of(function.get("name")),
                _arguments(function.get("arguments")),
            )
            for each, function in zip(listed, functions, strict=True)
        ],
        turn=len(request.messages),
    )
    broken = changed or any(call.arguments is None for call in calls)
    own = None if broken or not _says_more(said, listed) else said
    return Message(role="assistant", text=text, calls=calls, blocks=own, provider=endpoint.provider)


def _arguments(value: Json) -> str:
    # Some servers send an object where the wire has a text.
    return (
        value if isinstance(value, str) else "" if value is None else forms.encode(value).decode()
    )


def _says_more(said: Mapping[str, Json], calls: list[dict[str, Json]]) -> bool:
    """Is there something that our own form of the message would lose, such as a signature?"""
    return (
        any(value for key, value in said.items() if key not in _PLAIN)
        or not isinstance(said.get("content"), str | None)
        or any(value for call in calls for key, value in call.items() if key not in _PLAIN_CALL)
    )


def _text(content: Json) -> str:
    """A text, or a list of parts of which some are texts (Mistral's reasoning models)."""
    if isinstance(content, list):
        parts = [forms.record(part) for part in content]
        return "".join(forms.text_of(p.get("text")) for p in parts if p.get("type") == "text")
    return forms.text_of(content)


def _counted(usage: Json) -> forms.Counted:
    said = forms.record(usage)
    details = forms.record(said.get("prompt_tokens_details"))
    return forms.Counted(
        input=forms.count(said.get("prompt_tokens")),
        cached=forms.count(details.get("cached_tokens"))
        or forms.count(said.get("prompt_cache_hit_tokens"))  # DeepSeek's
        or 0,
        cache_written=forms.count(details.get("cache_write_tokens")) or 0,
        output=forms.count(said.get("completion_tokens")),
    )


# ---- the stream ----------------------------------------------------------------------------


class Assembled:
    """See `turn.Assembling`."""

    def __init__(self, place: str, heard: Callable[[str], None] | None) -> None:
        self._place = place
        self._heard = heard
        self._message: dict[str, Any] = {}
        self._calls: list[dict[str, Any]] = []
        self._at: dict[int, dict[str, Any]] = {}
        self._finish = ""
        self._model = ""
        self._usage: Json = None
        self.bytes_heard = 0

    @property
    def counted(self) -> forms.Counted:
        """What is known of its tokens."""
        return _counted(self._usage)

    def take(self, data: str) -> bool:
        """See `turn.Assembling`."""
        if data.strip() == "[DONE]":
            return True
        chunk = forms.chunk_object(self._place, data)
        if chunk.get("error"):
            raise from_error(self._place, chunk)
        self.bytes_heard += len(data)
        self._model = forms.text_of(chunk.get("model")) or self._model
        self._usage = chunk.get("usage") or self._usage
        choices = chunk.get("choices")
        for each in choices if isinstance(choices, list) else []:
            choice = forms.record(each)
            if choice.get("index", 0) == 0:
                self._finish = forms.text_of(choice.get("finish_reason")) or self._finish
                self._take_delta(forms.record(choice.get("delta")))
        return False

    def whole(self) -> dict[str, Json]:
        """The answer; its finish marker is empty if none came."""
        if self._calls:
            self._message["tool_calls"] = self._calls
        message = (
            {"role": "assistant", "content": None, **self._message} if self.bytes_heard else {}
        )
        return {
            "model": self._model,
            "choices": [{"message": forms.mended(message), "finish_reason": self._finish}],
            "usage": self._usage,
        }

    def _take_delta(self, delta: dict[str, Json]) -> None:
        for key, value in delta.items():
            if key == "tool_calls":
                for piece in value if isinstance(value, list) else []:
                    self._take_call(forms.record(piece))
            elif key == "role":
                self._message[key] = "assistant"
            elif value is not None:
                _join(self._message, key, value)
        text = _text(delta.get("content"))
        if text and self._heard is not None:
            self._heard(forms.whole(text))

    def _take_call(self, piece: dict[str, Json]) -> None:
        call = self._call_of(piece)
        for key, value in piece.items():
            if key == "function":
                function = call.setdefault("function", {})
                for name, part in forms.record(value).items():
                    # Only arguments come in pieces; some servers repeat the name in each.
                    if name == "arguments" and isinstance(part, str):
                        function[name] = function.get(name, "") + part
                    elif part:
                        function.setdefault(name, part)
            elif key == "index" or value is None:
                continue
            elif key in ("id", "type"):
                if value:
                    call.setdefault(key, value)
            else:
                _join(call, key, value)

    def _call_of(self, piece: dict[str, Json]) -> dict[str, Any]:
        """The call that a piece belongs to, a new one if it is the first.

        By its index; but Gemini gives each of several calls the index 0, and others none.
        """
        index, id_ = piece.get("index"), piece.get("id")
        if not isinstance(index, int):
            last = self._calls[-1] if self._calls else {}
            new = not self._calls or (id_ and id_ != last.get("id"))
            index = len(self._calls) - (0 if new else 1)
        call = self._at.get(index)
        if call is None or (id_ and call.get("id") and call["id"] != id_):
            call = {}
            self._calls.append(call)
            self._at[index] = call
        return call


def _join(into: dict[str, Any], key: str, value: Json) -> None:
    """Pieces of a text or a list follow each other; of anything else the last one counts."""
    before = into.get(key)
    if isinstance(before, str) and isinstance(value, str):
        into[key] = before + value
    elif isinstance(before, list) and isinstance(value, list):
        into[key] = before + value
    else:
        into[key] = value
