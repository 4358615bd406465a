"""One request and its answer, whatever the wire: streamed or whole, paid for when it failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from agent_runtime.models import forms
from agent_runtime.models.endpoints import Endpoint
from agent_runtime.models.faults import Failed
from agent_runtime.models.http import Http
from agent_runtime.ports.model import ModelAnswer, ModelFault, ModelRequest
from agent_runtime.types import Json


class Assembling(Protocol):
    """A streamed answer, put together to what the same answer is when it is not streamed."""

    bytes_heard: int

    @property
    def counted(self) -> forms.Counted:
        """What is known of its tokens."""

    def take(self, data: str) -> bool:
        """One event; was it the last? Raises `Failed`: it is an error, or no JSON object."""

    def whole(self) -> dict[str, Json]:
        """The answer; without its finish marker if none came."""


AnswerOf = Callable[[ModelRequest, Endpoint, Mapping[str, Json], int], ModelAnswer]
"""Reads a whole answer; the last argument is how many bytes were asked. Raises `Failed`."""


async def ask_once(
    request: ModelRequest, endpoint: Endpoint, http: Http, *, path: str,
    headers: Mapping[str, str], body: Mapping[str, Json], stream: Assembling, answer_of: AnswerOf,
) -> ModelAnswer | ModelFault:  # fmt: skip
    """Ask, and listen if somebody does. Costs are not known here."""
    place = str(endpoint)
    asked = forms.encode(dict(body))
    try:
        async with http.exchange(
            place, endpoint.url + path, headers, asked, streamed=request.heard is not None
        ) as exchange:
            if exchange.is_stream:
                await exchange.events(lambda event: stream.take(event.data))
                whole = stream.whole()
            else:
                whole = forms.answer_object(place, await exchange.whole())
        answer = answer_of(request, endpoint, whole, len(asked))
    except Failed as failed:
        forms.charge(failed, stream.counted, request, len(asked), stream.bytes_heard)
        return failed.fault(endpoint.key)
    if request.heard is not None and not stream.bytes_heard and answer.message.text:
        request.heard(answer.message.text)
    return answer
