"""Every documented path reaches its operation, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from agent_runtime.api.answers import Receive, Scope, Send
from agent_runtime.api.dispatch import Dispatch

pytestmark = pytest.mark.anyio


class Seen:
    def __init__(self, name: str, told: list[tuple[str, dict[str, str]]]) -> None:
        self._name, self._told = name, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._told.append((self._name, dict(scope.get("path_params", {}))))


TEMPLATES = (
    "/livez", "/v1/tasks", "/v1/tasks:batch", "/v1/tasks/{task_id}", "/v1/tasks/{task_id}/events",
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", "/hooks/{hook_id}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name", "parameters"),
    [
        ("/livez", "/livez", {}),
        ("/v1/tasks:batch", "/v1/tasks:batch", {}),
        ("/v1/tasks/t1", "/v1/tasks/{task_id}", {"task_id": "t1"}),
        ("/v1/tasks/t1/events", "/v1/tasks/{task_id}/events", {"task_id": "t1"}),
        ("/v1/webhooks/w/deliveries/d/redeliver", TEMPLATES[5],
         {"webhook_id": "w", "delivery_id": "d"}),
        ("/hooks/{hook_id}", "/hooks/{hook_id}", {"hook_id": "{hook_id}"}),
        ("/v1/tasks/", "otherwise", {}),
        ("/v1/tasks//events", "otherwise", {}),
        ("/v1/tasks/a/b/events", "otherwise", {}),
        ("/v1/other/t1/events", "otherwise", {}),
        ("//livez", "otherwise", {}),
        ("", "otherwise", {}),
    ],
)  # fmt: skip
async def test_a_path_is_found_by_its_fixed_parts(
    path: str, name: str, parameters: dict[str, str]
) -> None:
    told: list[tuple[str, dict[str, str]]] = []
    endpoints = {template: Seen(template, told) for template in TEMPLATES}
    app = Dispatch(endpoints, Seen("otherwise", told))
    nothing: Any = None
    await app({"type": "http", "path": path}, nothing, nothing)
    assert told == [(name, parameters)]
