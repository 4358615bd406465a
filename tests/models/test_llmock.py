"""Both wires against llmock, a scripted provider that others wrote: its faults in our words."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent_runtime.messages import Message
from agent_runtime.models.http import Patience
from agent_runtime.models.providers import Providers
from agent_runtime.models.router import Router
from agent_runtime.ports import ModelAnswer, ModelFault, ModelRequest
from tests.models import talk
from tests.models.talk import request_of

pytestmark = pytest.mark.anyio

NAMES = {"openai": "openai/gpt-4o", "anthropic": "anthropic/claude-sonnet-4-5"}


@pytest.fixture
async def router(llmock: Any) -> AsyncIterator[Router]:
    llmock.tool_mode("off")
    patience = Patience(connect=2, silence=5, silence_streamed=0.4, whole=20)
    async with Router(Providers(os.environ), patience=patience, local_places=()) as made:
        yield made


def asking(wire: str, *messages: Message, streamed: bool = False) -> ModelRequest:
    def listen(text: str) -> None:
        assert text

    return request_of(*messages, name=NAMES[wire], heard=listen if streamed else None)


@pytest.mark.parametrize("wire", NAMES)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_call_is_asked_for_observed_and_answered(
    llmock: Any, router: Router, wire: str, streamed: bool
) -> None:
    llmock.call_tool("shell", {"command": "ls"}, text="Looking.").reply("It is mended.")
    first = await router.complete(asking(wire, streamed=streamed))
    assert isinstance(first, ModelAnswer), first
    (call,) = first.message.calls
    assert (call.name, call.arguments) == ("shell", {"command": "ls"})
    history = (Message(role="user", text="x"), first.message, talk.observed(call.id, "a.py"))
    second = await router.complete(asking(wire, *history, streamed=streamed))
    assert isinstance(second, ModelAnswer), second
    assert second.message.text == "It is mended." and second.usage.input > first.usage.input > 0


@pytest.mark.parametrize("wire", NAMES)
async def test_faults_come_with_their_kind_and_nothing_is_sent_twice(
    llmock: Any, router: Router, wire: str
) -> None:
    llmock.rate_limit(retry_after=2.0).fail(529, retry_after=1.0).fail(401).context_overflow()
    found = [await router.complete(asking(wire)) for _ in range(4)]
    faults = [fault for fault in found if isinstance(fault, ModelFault)]
    assert [fault.kind for fault in faults] == ["rate", "overload", "auth", "context"]
    assert [fault.retry_after_seconds for fault in faults[:2]] == [2.0, 1.0]
    assert len(llmock.requests) == 4


@pytest.mark.parametrize("wire", NAMES)
@pytest.mark.parametrize(
    ("trouble", "kind"),
    [("disconnect", "truncated"), ("truncate", "truncated"), ("corrupt", "truncated"),
     ("stall", "transport")],
)  # fmt: skip
async def test_broken_streams_are_no_answers(
    llmock: Any, router: Router, wire: str, trouble: str, kind: str
) -> None:
    llmock.reply("It is mended, and this is told at some length.")
    getattr(llmock, trouble)(after_chunks=3, **({"seconds": 5.0} if trouble == "stall" else {}))
    fault = await router.complete(asking(wire, streamed=True))
    assert isinstance(fault, ModelFault), fault
    assert fault.kind == kind and fault.usage.total > 0


@pytest.mark.parametrize("wire", NAMES)
async def test_malformed_arguments_are_kept(llmock: Any, router: Router, wire: str) -> None:
    """What llmock breaks depends on the wire: Anthropic's whole answers cannot say broken JSON."""
    llmock.call_tool("shell", {"command": "ls"}).break_tool_call()
    answer = await router.complete(asking(wire, streamed=True))
    assert isinstance(answer, ModelAnswer), answer
    (call,) = answer.message.calls
    assert call.arguments is None and call.raw
