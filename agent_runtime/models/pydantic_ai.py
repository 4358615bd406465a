"""Every provider that pydantic-ai knows, behind the same contract: `pydantic-ai/groq:llama-…`.

An optional extra; only the router imports this file, and only for such a name. Keys are read by
pydantic-ai itself, from the environment. Nothing is streamed from the provider, because a stream
that was cut looks like a whole answer there; who listens gets the text when it is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic_ai import messages as theirs
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import (
    AgentRunError,
    ContentFilterError,
    ModelAPIError,
    ModelHTTPError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.models import ModelRequestParameters, infer_model
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from agent_runtime.messages import Message, ToolUse
from agent_runtime.models import forms
from agent_runtime.models.faults import Failed, from_error
from agent_runtime.models.faults import retry_after_seconds as wait_of
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.redaction import Redactor
from agent_runtime.types import Json

ANSWER_SECONDS_MAX = 600.0
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")


async def ask(request: ModelRequest, model: str) -> ModelAnswer | ModelFault:
    """Ask once. Costs are not known here."""
    place = f"pydantic-ai/{model}"
    try:
        try:
            answer = await _ask(request, model)
        except Exception as error:  # noqa: BLE001 - another package's: it is told as a fault
            raise _failed(place, error) from None
    except Failed as failed:
        fault = failed.fault("")
        return ModelFault(
            kind=fault.kind,
            message=_environment_redactor().text(fault.message),
            retry_after_seconds=fault.retry_after_seconds,
            usage=fault.usage,
        )
    if request.heard is not None and answer.message.text:
        request.heard(answer.message.text)
    return answer


async def _ask(request: ModelRequest, model: str) -> ModelAnswer:
    schema = request.answer_schema
    parameters = ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name,
                description=tool.description,
                parameters_json_schema=dict(tool.parameters),
            )
            for tool in request.tools
        ],
        output_mode="text" if schema is None else "native",
        output_object=None
        if schema is None
        else OutputObjectDefinition(json_schema=dict(schema), name="answer"),
        allow_text_output=True,
    )
    settings = ModelSettings(
        max_tokens=request.output_tokens_max, timeout=ANSWER_SECONDS_MAX, max_retries=0
    )
    async with infer_model(model) as asked:
        response = await model_request(
            asked, _history(request), model_settings=settings, model_request_parameters=parameters
        )
    return _answer(request, model, response)


def _history(request: ModelRequest) -> list[theirs.ModelMessage]:
    history: list[theirs.ModelMessage] = []
    parts: list[Any] = [theirs.SystemPromptPart(request.system)] if request.system else []
    names: dict[str, str] = {}
    for message in forms.own_ids(request.messages, request.model.provider):
        match message.role:
            case "user":
                parts.append(theirs.UserPromptPart(message.text))
            case "tool":
                name = names.get(message.call_id, "unknown")
                parts.append(theirs.ToolReturnPart(name, message.text, message.call_id))
            case _:
                if parts:
                    history.append(theirs.ModelRequest(parts))
                    parts = []
                names = {call.id: call.name for call in message.calls}
                history.append(_response(message, request.model.provider))
    if parts:
        history.append(theirs.ModelRequest(parts))
    return history


def _response(message: Message, provider: str) -> theirs.ModelResponse:
    if message.blocks is not None and message.provider == provider:
        (own,) = theirs.ModelMessagesTypeAdapter.validate_python([message.blocks])
        assert isinstance(own, theirs.ModelResponse)
        return own
    parts: list[Any] = [theirs.TextPart(message.text)] if message.text else []
    parts += [
        theirs.ToolCallPart(call.name, forms.arguments_text(call), call.id)
        for call in message.calls
    ]
    return theirs.ModelResponse(parts)


def _answer(request: ModelRequest, model: str, response: theirs.ModelResponse) -> ModelAnswer:
    said = theirs.ModelMessagesTypeAdapter.dump_python([response], mode="json")[0]
    text = "".join(part.content for part in response.parts if isinstance(part, theirs.TextPart))
    called = [part for part in response.parts if isinstance(part, theirs.ToolCallPart)]
    calls, changed = forms.with_unique_ids(list(map(_use, called)), turn=len(request.messages))
    counted = response.usage
    usage = forms.Counted(
        input=counted.input_tokens or None,
        cached=counted.cache_read_tokens,
        cache_written=counted.cache_write_tokens,
        output=counted.output_tokens if counted.output_tokens else None,
    ).usage(
        asked_bytes=len(msgspec.json.encode([msgspec.to_builtins(m) for m in request.messages])),
        answered_bytes=len(msgspec.json.encode(said)),
        output_max=request.output_tokens_max,
    )
    if response.finish_reason == "content_filter":
        raise Failed("filter", f"pydantic-ai/{model} refuses to answer this", usage=usage)
    broken = changed or any(call.arguments is None for call in calls)
    return ModelAnswer(
        message=Message(
            role="assistant",
            text=text,
            calls=calls,
            blocks=None if broken else said,
            provider=request.model.provider,
        ),
        stop="length" if response.finish_reason == "length" else "calls" if calls else "end",
        usage=usage,
        model=response.model_name or model,
    )


def _use(part: theirs.ToolCallPart) -> ToolUse:
    raw = part.args if isinstance(part.args, str) else forms.encode(part.args or {}).decode()
    return forms.call_of(part.tool_call_id, part.tool_name, raw)


def _failed(place: str, error: Exception) -> Failed:
    match error:
        case Failed():
            return error
        case ModelHTTPError():
            headers: Mapping[str, str] = error.headers or {}
            return from_error(
                place, _error_object(error.body), status=error.status_code, after=wait_of(headers),
                raw=str(error.message).encode(),
            )  # fmt: skip
        case ContentFilterError():
            return Failed("filter", f"{place} refuses to answer this: {error}")
        case UnexpectedModelBehavior():
            return Failed("truncated", f"{place}: the answer is none: {error}")
        case ModelAPIError():
            return Failed("transport", f"{place}: {error}")
        case UserError() | ImportError() | ValueError() | AgentRunError():
            # A missing key, client or model is told by its own words.
            key = "key" in str(error).lower()
            return Failed("auth" if key else "bad_request", f"{place}: {error}")
        case _:
            return Failed("internal", f"{place}: {type(error).__name__}: {error}")


def _error_object(body: object) -> Json:
    # Their clients take the object out of its "error".
    return {"error": body} if isinstance(body, dict) and "error" not in body else body


def _environment_redactor() -> Redactor:
    """Of everything in the environment that may be a key: which one was used is not told."""
    values: Sequence[tuple[str, str]] = [
        (name, value)
        for name, value in os.environ.items()
        if _SECRET.search(name.upper()) and len(value) >= 8
    ]
    return Redactor(dict(values))
