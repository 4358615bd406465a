"""What a server is, whatever wire it is spoken over: tools, resources, prompts, and who asks.

A server subclasses `McpServer` and overrides what it offers. It knows no revision of the protocol:
`Asked` hides which one the client speaks. Values on the wire (content blocks, schemas, annotations)
are plain JSON here, as the revision of 2026-07-28 names them, so that a hot call builds no models.

This file imports neither the SDK nor pydantic: a process on stdio must start at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from agent_runtime.access.callers import Caller
from agent_runtime.types import Json

ItemT = TypeVar("ItemT")

TaskSupport = Literal["forbidden", "optional", "required"]


class McpFault(Exception):
    """A request that ends with a JSON-RPC error: the client's mistake, or a missing thing.

    What a tool could not do is no fault but a `ToolAnswer` with `is_error`: models read those.
    """

    INVALID_PARAMS = -32602
    INTERNAL = -32603

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Unsupported(Exception):
    """The client has not said that it can do what was asked of it (elicitation, sampling, roots).

    The server goes another way, or ends the call with what a person would do instead.
    """


class Asked(Protocol):
    """One request: who asks it, what they said about it, and what can be told or asked back."""

    @property
    def caller(self) -> Caller:
        """Whose rights it has; the owner of the process on stdio."""

    @property
    def client(self) -> str:
        """Name and version the client gives itself; a claim."""

    @property
    def meta(self) -> Mapping[str, Json]:
        """`_meta` of the request."""

    @property
    def state(self) -> str:
        """What `ask` was given as `state` in an earlier round of this request; else empty.

        It has come through the client and was proven to be ours, for this caller and request.
        """

    @property
    def query(self) -> Mapping[str, str]:
        """Options of the address the client was given: `?mode=search` over HTTP, flags on stdio."""

    def can(self, capability: str) -> bool:
        """Does the client say that it knows `elicitation`, `sampling`, `roots`?"""

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell how far it is. Nothing happens unless the client asked for it."""

    async def log(self, level: str, data: Json, logger: str | None = None) -> None:
        """Tell the client a line of a log, where it wants them."""

    async def ask(
        self, questions: Mapping[str, tuple[str, Mapping[str, Json]]], *, state: str = ""
    ) -> Mapping[str, Mapping[str, Json]]:
        """Ask the client: name -> (method, params); returns name -> result.

        Methods are `elicitation/create`, `sampling/createMessage`, `roots/list`. On the stateless
        wire the request ends here and comes again with the answers: the handler runs from its start
        again, so nothing before an `ask` may have an effect that would harm twice.

        Raises:
            Unsupported: the client cannot be asked that.
        """


Block = Mapping[str, Json]
"""A content block, as it goes over the wire: `{"type": "text", "text": …}`."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a call gave. `structured` stands beside `content` if the tool has an output schema."""

    content: Sequence[Block]
    structured: Json = None
    is_error: bool = False
    meta: Mapping[str, Json] | None = None


def text(value: str) -> ToolAnswer:
    """An answer of one text."""
    return ToolAnswer([{"type": "text", "text": value}])


def failed(message: str) -> ToolAnswer:
    """The call did not do what it should; a model reads why."""
    return ToolAnswer([{"type": "text", "text": message}], is_error=True)


RunTool = Callable[[Mapping[str, Json], Asked], Awaitable[ToolAnswer]]
RunNow = Callable[[Mapping[str, Json], Asked], ToolAnswer | None]
BeginTask = Callable[[Mapping[str, Json], Asked], Awaitable["str | Mapping[str, Json] | None"]]
MayRepeat = Callable[[Mapping[str, Json]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """A tool as clients see it, and what runs it.

    `run` gets arguments that fit `input_schema`.
    """

    name: str
    description: str
    input_schema: Mapping[str, Json]
    run: RunTool
    title: str = ""
    output_schema: Mapping[str, Json] | None = None
    annotations: Mapping[str, Json] = field(default_factory=dict)
    """`readOnlyHint`, `destructiveHint`, `idempotentHint`, `openWorldHint`."""
    task_support: TaskSupport = "forbidden"
    """May (must) a call become a task that outlives the connection? Its client says whether it
    knows tasks; what the client shows its model then is the answer alone: it must say everything.
    """
    begin: BeginTask | None = None
    """How a call that becomes a task begins, while its client waits; it may ask the client things.

    It gives the id of work that has a life of its own, of which `McpServer.backed_tasks` tells; or
    the arguments with which `run` goes on; or None: this call is no task, and `run` answers it.
    None here: `run` goes on with the arguments as they are.
    """
    repeatable: MayRepeat | None = None
    """Is it safe to run a task again with these arguments, when the daemon was killed meanwhile?
    None: never; the task ends saying that its effect is unknown. What `Asked.meta` has as
    `wire.META_KEY` is the same in both runs."""
    now: RunNow | None = None
    """The short way: a plain function that answers within a millisecond and tells and asks the
    client nothing meanwhile. It gives None, and has done nothing, where the call would take longer:
    then `run` is called. It may run in any thread, outside of an event loop."""
    scope: str = ""
    """What the caller must be allowed; empty: what the server asks of everybody."""
    meta: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceDefinition:
    """A document that clients can read; `uri` is a template where `is_template`."""

    uri: str
    name: str
    title: str = ""
    description: str = ""
    mime_type: str = ""
    size: int | None = None
    is_template: bool = False
    annotations: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptArgument:
    """One value that fills a prompt."""

    name: str
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDefinition:
    """A text that a person picks, with what it wants to know."""

    name: str
    title: str = ""
    description: str = ""
    arguments: Sequence[PromptArgument] = ()


@dataclass(frozen=True, slots=True)
class PromptAnswer:
    """The messages of a prompt: `{"role": …, "content": {…}}`."""

    messages: Sequence[Mapping[str, Json]]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Something a client may have subscribed to has changed."""

    kind: Literal["resource", "tools", "resources", "prompts"]
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """Part of a list; `next_cursor` empty: the last one."""

    items: Sequence[ItemT]
    next_cursor: str = ""


TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """How a task stands. Times in microseconds since 1970."""

    task_id: str
    status: TaskStatus
    created_at_us: int
    updated_at_us: int
    message: str = ""
    """For people; no client shows it to its model."""
    ttl_ms: int | None = None
    """From creation; None: there is no end that is known now."""
    poll_ms: int = 2_000
    questions: Mapping[str, tuple[str, Mapping[str, Json]]] = field(default_factory=dict)
    """What it waits for (`input_required`): name -> (method, params), as for `Asked.ask`. A name is
    never used for a second question."""
    answer: ToolAnswer | None = None
    """What the call gave (`completed`; a cancelled one may have it, too)."""
    fault: McpFault | None = None
    """Why it has no answer (`failed`)."""


class BackedTasks(Protocol):
    """Work that has a life of its own, as tasks of a server. It is kept where it lives.

    Every method looks at whose work it is: to others it does not exist.
    """

    async def view(self, task_id: str, asked: Asked) -> TaskView | None:
        """How it stands; None: there is none such for this caller."""

    async def page(self, asked: Asked, cursor: str) -> Page[TaskView]:
        """The caller's, the newest first. `McpFault`: the cursor is none."""

    async def answer(
        self, task_id: str, answers: Mapping[str, Mapping[str, Json]], asked: Asked
    ) -> None:
        """Answers to `TaskView.questions`, also to some of them. Unknown names are left out."""

    async def cancel(self, task_id: str, asked: Asked) -> None:
        """Stop it: its status is `cancelled` when this returns. Nothing happens if it has ended."""

    async def changed(self, view: TaskView, seconds_max: float) -> None:
        """Return when it may stand otherwise than `view` says, or after `seconds_max`."""


class McpServer:
    """Base of servers: it offers nothing. One instance serves every client of the process.

    `name` is also the last part of its address below `/mcp/`. `scope` is what a caller must be
    allowed to speak to it at all.
    """

    name: str = ""
    title: str = ""
    instructions: str = ""
    scope: str = ""

    has_resources = False
    has_prompts = False
    has_completion = False
    has_tasks = False
    """May calls of some of its tools become tasks?"""

    async def run(self) -> None:
        """Lives as long as the process serves; whatever must go on between requests."""

    def fixed_tools(self) -> Sequence[ToolDefinition]:
        """Its tools, if they are the same for everybody and for as long as it lives."""
        return ()

    async def tools(self, asked: Asked) -> Sequence[ToolDefinition]:
        """Every tool there is for this client, always in the same order.

        Those whose `scope` the caller lacks are left out of lists, and refused, by who asks this.
        """
        return self.fixed_tools()

    async def tool(self, name: str, asked: Asked) -> ToolDefinition | None:
        """One of `tools`. Override it where looking through them all would cost."""
        return next((each for each in await self.tools(asked) if each.name == name), None)

    def backed_tasks(self) -> BackedTasks | None:
        """Who knows the tasks whose ids `ToolDefinition.begin` gives."""
        return None

    def input_schema(self, name: str) -> Mapping[str, Json] | None:
        """Of a tool, for whoever asks; None: it is not known.

        Arguments that are marked `x-mcp-header` also stand in headers of a request, and must agree.
        """
        return next((each.input_schema for each in self.fixed_tools() if each.name == name), None)

    async def resources(self, asked: Asked, cursor: str) -> Page[ResourceDefinition]:
        """A page of resources; templates are not among them. `McpFault`: the cursor is none."""
        return Page(())

    async def resource_templates(self, asked: Asked) -> Sequence[ResourceDefinition]:
        """All templates."""
        return ()

    async def read_resource(self, uri: str, asked: Asked) -> Sequence[Mapping[str, Json]]:
        """Contents: `{"uri", "mimeType", "text" | "blob"}`. `McpFault`: there is none such."""
        raise McpFault(McpFault.INVALID_PARAMS, f"there is no resource {uri!r}", {"uri": uri})

    async def prompts(self, asked: Asked) -> Sequence[PromptDefinition]:
        """All prompts."""
        return ()

    async def prompt(self, name: str, arguments: Mapping[str, str], asked: Asked) -> PromptAnswer:
        """A prompt filled in. `McpFault`: it does not exist, or an argument is missing."""
        raise McpFault(McpFault.INVALID_PARAMS, f"there is no prompt {name!r}")

    async def complete(
        self, reference: Mapping[str, Json], name: str, value: str,
        known: Mapping[str, str], asked: Asked,
    ) -> Sequence[str]:  # fmt: skip
        """Values of an argument that begin with `value`, the best first, at most 100."""
        return ()

    async def may_follow(self, uri: str, asked: Asked) -> None:
        """Looked at before a resource is followed. `McpFault`: this one cannot be."""

    def roots_changed(self) -> None:
        """A client says that it has other roots; ask for them when they are next needed."""

    def changes(self, uris: Sequence[str], asked: Asked) -> AsyncIterator[Change]:
        """Goes on until closed: changes of these resources, and of the lists."""
        return _none()


async def _none() -> AsyncIterator[Change]:
    return
    yield
