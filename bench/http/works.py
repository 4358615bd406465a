"""What is asked of each server, declared: `load` sends it.

The servers keep the same thing, one task of some 500 bytes, and are asked for it in the same three
ways: hand it off, get one, list ten. What a peer leaves out of what the daemon does is said in
`bench.report.SETTINGS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

BATCH = 50
TASKS, FEW = 3_200, 640
CONNECTIONS = 64

_TASK: dict[str, Any] = {
    "goal": ("Make the parser keep comments that follow the last statement of a script. " * 5)[
        :330
    ],
    "labels": {"team": "parsers", "ticket": "PARSE-1234", "run": "7"},
    "priority": 5,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Requests of one kind."""

    name: str
    path: str
    """`{key}` is a new UUID each time, `{id}` what an earlier work has made, each in its turn."""
    body: Any = None
    """Sent as JSON with POST; without one it is a GET."""
    key: bool = False
    """With a new Idempotency-Key."""
    status: int = 200
    """Every other one is a failed measurement: a refusal would be fast too."""
    made: str = ""
    """The field of the answer that names what was made."""
    count: int = TASKS
    connections: int = CONNECTIONS
    tasks: int = 1
    """Tasks in one request; figures are for each of them."""

    def request(self, *, key: str, task_id: str, token: str) -> bytes:
        """The bytes of one request."""
        path = self.path.replace("{key}", key).replace("{id}", task_id)
        data = b"" if self.body is None else json.dumps(self.body).encode()
        lines = [f"{'POST' if data else 'GET'} {path} HTTP/1.1", "Host: localhost"]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if self.key:
            lines.append(f"Idempotency-Key: {key}")
        if data:
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        return "\r\n".join((*lines, "", "")).encode() + data


SUBMIT, GET, LIST = "submit", "get", "list"

_V1 = (
    Work(name=SUBMIT, path="/v1/tasks", body=_TASK, key=True, status=201, made="id"),
    Work(name=GET, path="/v1/tasks/{id}", count=2 * TASKS),
    Work(name=LIST, path="/v1/tasks?limit=10", count=2 * TASKS),
)

# A run on a thread of its own, which it makes: one request, the least that leaves something that
# can be asked for. The client chooses the thread's id, which is no idempotency key: asked again, it
# is a second run.
_RUN = Work(name=SUBMIT, path="/threads/{key}/runs", made="thread_id", count=FEW, body={
    "assistant_id": "bench", "if_not_exists": "create", "input": {"goal": _TASK["goal"]},
    "metadata": {**_TASK["labels"], "priority": _TASK["priority"]},
})  # fmt: skip

WORKS: Mapping[str, tuple[Work, ...]] = {
    "starlette": (Work(name="get", path="/", count=4 * TASKS),),
    "daemon": _V1,
    "parts": (
        # What a submission consists of, from outside: each does more than the one before it.
        Work(name="probe", path="/livez", count=4 * TASKS),
        # Its last field is wrong: key, rate and body are looked at, and nothing is stored.
        Work(name="refused", path="/v1/tasks", body={**_TASK, "priority": 10}, status=422),
    ),
    "batch": (
        Work(name="batch", path="/v1/tasks:batch", body={"tasks": [_TASK] * BATCH}, key=True,
             status=207, count=256, connections=8, tasks=BATCH),
    ),
    "fastapi": _V1,
    # Its requests walk its lists of threads and runs: it is compared while those are short, and
    # only the last figure is of lists as long as the others' stores.
    "langgraph": (
        _RUN,
        Work(name=GET, path="/threads/{id}", count=2 * FEW),
        Work(name=LIST, path="/threads/search", body={"limit": 10}, count=2 * FEW),
        replace(_RUN, name=f"submit, up to {TASKS:,}", count=TASKS - FEW),
    ),
}  # fmt: skip
