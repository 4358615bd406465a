"""What there is to read of a task, as resources and page by page: report, diff, plan, events…"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

import msgspec

from agent_runtime.api.daemon import Daemon
from agent_runtime.api.hub import stored
from agent_runtime.api.results import plan_view
from agent_runtime.api.views import moment
from agent_runtime.report import quote
from agent_runtime.report_page import markdown_of
from agent_runtime.types import Json, TaskId, TaskSpec, TaskSummary
from agent_runtime_mcp.definitions import McpFault, ResourceDefinition
from agent_runtime_mcp.runtime.telling import told
from agent_runtime_mcp.runtime.wishes import Part

ROOT: Final = "agent-runtime://tasks/"
TASK_FILE: Final = "agent-runtime://schema/task-file"
PARTS: Final[tuple[Part, ...]] = get_args(Part)
PAGE_CHARS: Final = 60_000
"""Of what a model reads in one go."""
EVENTS_BYTES: Final = 256 << 10
EVENTS_MAX: Final = 500
DOCUMENT_BYTES_MAX: Final = 8 << 20
"""Of a resource: clients hold it whole."""

TITLE_CHARS: Final = 80

_URI = re.compile(rf"{ROOT}(task_[0-9a-f]{{32}})(?:/([a-z]+)(?:\?after=(\d{{1,12}}))?)?\Z")

_JSON: Final = "application/json"
MEDIA: Final[Mapping[Part, str]] = {
    "report": "text/markdown",
    "diff": "text/x-diff",
    "plan": _JSON,
    "events": "application/x-ndjson",
    "certificate": _JSON,
    "task": _JSON,
}
_ABOUT: Final[Mapping[Part, str]] = {
    "report": "Everything a reviewer wants to know, as far as the task is",
    "diff": "The verified patch of an ended task, else what it has changed up to now",
    "plan": "Its steps, and where each stands",
    "events": "Its log from the first event, or behind number `after`, a line of JSON each",
    "certificate": "Which commands gave which results on which tree",
    "task": "The task file",
}


@dataclass(frozen=True, slots=True)
class Document:
    """`data` and its media type. `next`: where the rest begins; None: this is all."""

    media: str
    data: bytes
    next: int | None = None


async def read_part(
    daemon: Daemon, task_id: TaskId, part: Part, after: int = 0, *, bytes_max: int = EVENTS_BYTES
) -> Document:
    """One part of a task. Only events are read from somewhere on, about `bytes_max` at once.

    Raises:
        NotFound: no such task, or it has no such part.
    """
    runtime = daemon.runtime
    match part:
        case "report":
            data = markdown_of(await runtime.report(task_id)).encode("utf-8", "replace")
        case "diff":
            data = await runtime.patch(task_id)
        case "plan":
            data = msgspec.json.encode(plan_view(await runtime.state(task_id)))
        case "certificate":
            await runtime.summary(task_id)  # is there such a task?
            data = msgspec.json.encode(await runtime.certificate(task_id))
        case "task":
            data = msgspec.json.encode((await runtime.state(task_id)).task)
        case "events":
            return await _events(daemon, task_id, after, bytes_max)
    return Document(MEDIA[part], data)


async def _events(daemon: Daemon, task_id: TaskId, after: int, bytes_max: int) -> Document:
    store = daemon.runtime.ports.store
    newest = (await store.summary(task_id)).seq
    lines: list[bytes] = []
    size = 0
    for row in await store.load(task_id, after, EVENTS_MAX):
        line = msgspec.json.encode(stored(row)) + b"\n"
        if lines and size + len(line) > bytes_max:
            break
        lines.append(line)
        size += len(line)
        after = row.seq
    return Document(MEDIA["events"], b"".join(lines), after if after < newest else None)


def templates() -> list[ResourceDefinition]:
    """What there is of every task."""
    found = [
        ResourceDefinition(
            uri=f"{ROOT}{{task_id}}", name="task", title="A task", is_template=True,
            description="Where a task stands, and what can be done", mime_type=_JSON,
        )
    ]  # fmt: skip
    for part in PARTS:
        more = "{?after}" if part == "events" else ""
        found.append(
            ResourceDefinition(
                uri=f"{ROOT}{{task_id}}/{part}{more}", name=f"task-{part}", is_template=True,
                title=f"{part.capitalize()} of a task", description=_ABOUT[part],
                mime_type=MEDIA[part],
            )
        )  # fmt: skip
    return found


SCHEMA: Final = ResourceDefinition(
    uri=TASK_FILE, name="task-file", title="Schema of a task file",
    description="JSON schema of what submit_task takes as `task`",
    mime_type="application/schema+json",
)  # fmt: skip


def of_task(summary: TaskSummary) -> ResourceDefinition:
    """A task in the list: what a person would attach to a conversation is its report."""
    return ResourceDefinition(
        uri=f"{ROOT}{summary.task_id}/report",
        name=summary.task_id,
        title=f"{summary.status}: {quote(' '.join(summary.goal.split())).text[:TITLE_CHARS]}",
        description=_ABOUT["report"],
        mime_type=MEDIA["report"],
        annotations={"lastModified": moment(summary.updated_at_us)},
    )


def task_of(uri: str) -> str:
    """The id in the address of a task or of a part of it; empty if it is none."""
    found = _URI.match(uri)
    return found[1] if found else ""


async def read_uri(daemon: Daemon, uri: str) -> list[Mapping[str, Json]]:
    """The contents of a resource.

    Raises:
        McpFault: there is none such; says which there are.
        NotFound: the task is gone, or has no such part yet.
    """
    if uri == TASK_FILE:
        schema = msgspec.json.schema(TaskSpec)
        return [_content(uri, "application/schema+json", msgspec.json.encode(schema))]
    found = _URI.match(uri)
    if found is None or (found[2] and found[2] not in PARTS) or (found[3] and found[2] != "events"):
        known = f"{ROOT}TASK_ID, and behind that /{', /'.join(PARTS)}; {TASK_FILE}"
        raise McpFault(
            McpFault.INVALID_PARAMS, f"there is no resource {uri!r}; there are: {known}",
            {"uri": uri},
        )  # fmt: skip
    task_id = TaskId(found[1])
    if not found[2]:
        view, _ = await told(daemon.runtime, await daemon.runtime.summary(task_id))
        return [_content(uri, _JSON, msgspec.json.encode(view))]
    part = next(part for part in PARTS if part == found[2])
    document = await read_part(daemon, task_id, part, int(found[3] or 0))
    if len(document.data) > DOCUMENT_BYTES_MAX:
        raise McpFault(
            McpFault.INTERNAL,
            f"{uri!r} has {len(document.data)} bytes, a resource at most {DOCUMENT_BYTES_MAX}: "
            f"read it by read_task page by page, or GET /v1/tasks/{task_id}/{part} of the daemon",
        )
    content = _content(uri, document.media, document.data)
    if document.next is not None:
        rest = f"{ROOT}{task_id}/events?after={document.next}"
        content = {**content, "_meta": {"io.agent-runtime/next": rest}}
    return [content]


def _content(uri: str, media: str, data: bytes) -> Mapping[str, Json]:
    try:
        return {"uri": uri, "mimeType": media, "text": data.decode()}
    except UnicodeDecodeError:  # a patch of a file that is no text
        return {"uri": uri, "mimeType": media, "blob": base64.b64encode(data).decode()}
