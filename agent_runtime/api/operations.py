"""One registry of operations: of each, its route, its validation, its scope and its OpenAPI entry.

An operation is declared where it is written:

    @operation("GET", "/v1/tasks/{task_id}", answers={200: TaskView}, scope="tasks:read")
    async def get_task(request: Request) -> Reply: …

`Endpoint` is the ASGI side: one for each path, it picks the method, checks the scope, reads and
validates what came, and turns operating errors into problems. It uses no Starlette request or
response: they are half of what a small request costs.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl

import anyio
import msgspec

from agent_runtime.access.callers import Caller
from agent_runtime.api.answers import Message, Receive, Reply, Scope, Send
from agent_runtime.api.daemon import Daemon, Draining, Faulty
from agent_runtime.api.problems import ProblemFault, problem, problem_of
from agent_runtime.api.recording import action_of, record_reply, refused
from agent_runtime.errors import AgentRuntimeError, Overloaded
from agent_runtime.schema import nearest
from agent_runtime.shapes import words_at
from agent_runtime.taskfile import read_json

log = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 1 << 20
"""Of a JSON body, unless an operation says otherwise."""
BODY_SECONDS_MAX: Final = 30.0
"""For a body that does not come with its head."""

_TOLD: Final = (Overloaded, Draining, Faulty)
"""The daemon says these once in its log: a line for each request would be a stranger's to cause."""

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")


@dataclass(slots=True)
class Request(Generic[BodyT, QueryT]):
    """What came, validated. `body` and `query` are what the operation declares."""

    scope: Scope
    receive: Receive
    daemon: Daemon
    body: BodyT
    query: QueryT

    @property
    def caller(self) -> Caller:
        """Who asks; the guard has put it there."""
        caller: Caller = self.scope["caller"]
        return caller

    @property
    def path(self) -> Mapping[str, str]:
        """Parameters of the path."""
        parameters: Mapping[str, str] = self.scope["path_params"]
        return parameters

    def header(self, name: bytes) -> str | None:
        """The first header called `name` (lower case)."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None


Run = Callable[[Request[Any, Any]], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answers` maps statuses to bodies: a type, a media type, or None."""

    method: str
    path: str
    run: Run
    scope: str
    answers: Mapping[int, Any]
    errors: Sequence[int]
    body: Any = None
    takes: str = "application/json"
    raw: bool = False
    """The body is handed over as bytes: its reader is the operation's own."""
    streamed: bool = False
    """The body is left to the operation, which reads `request.receive`."""
    signed: bool = False
    """It looks at a signature of its own, and at no credentials of ours."""
    query: Any = None
    body_bytes_max: int = BODY_BYTES_MAX
    body_optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that it knows, and what each does."""
    recorded: bool = False
    """It has its decisions recorded by itself."""

    @property
    def name(self) -> str:
        return getattr(self.run, "__name__", "")

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").strip().partition("\n")[0]

    @property
    def description(self) -> str:
        lines = (self.run.__doc__ or "").strip().splitlines()[1:]
        return "\n".join(line.strip() for line in lines).strip()


def operation(
    method: str,
    path: str,
    *,
    answers: Mapping[int, Any],
    scope: str = "",
    errors: Sequence[int] = (),
    **more: Any,
) -> Callable[[Run], Operation]:
    """Declare an operation; its function's docstring becomes the documentation.

    `scope` empty: no credentials are needed.
    """

    def declare(run: Run) -> Operation:
        return Operation(method, path, run, scope, answers, errors, **more)

    return declare


class Refused(Exception):
    """Carries the problem that a request ends with."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def _nothing_more() -> Message:
    return {"type": "http.disconnect"}


class Endpoint:
    """All operations of one path, as an ASGI application."""

    def __init__(self, operations: Sequence[Operation], daemon: Daemon) -> None:
        self._daemon = daemon
        self._by_method = {each.method: Prepared(each) for each in operations}
        if "GET" in self._by_method:
            self._by_method.setdefault("HEAD", self._by_method["GET"])
        self._allow = ", ".join(sorted(self._by_method)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        prepared = self._by_method.get(scope["method"])
        if prepared is None:
            headers = ((b"allow", self._allow),)
            detail = f"{scope['path']} takes {self._allow.decode()}, got {scope['method']}"
            refusal = problem(
                405, "method-not-allowed", "The path takes no such method", detail, headers=headers
            )
            await refusal(scope, receive, send)
            return
        try:
            reply = await self.reply(prepared, scope, receive)
        except ClientGone:
            return
        await reply(scope, receive, send)

    def prepared(self, method: str) -> Prepared | None:
        """The operation of this method."""
        return self._by_method.get(method)

    async def reply(
        self,
        prepared: Prepared,
        scope: Scope,
        receive: Receive = _nothing_more,
        whole: bytes | None = None,
    ) -> Reply:
        """What the operation answers; `whole` is the body if that has come, and None if not."""
        scope["operation"] = prepared.name
        wanted = prepared.operation.scope
        if wanted and wanted not in scope["caller"].scopes:
            refused(self._daemon, scope, wanted)
            return problem(
                403, "forbidden", "Your key does not allow this",
                f"{prepared.name} needs the scope {wanted!r}; "
                f"{scope['caller'].subject!r} has {', '.join(sorted(scope['caller'].scopes))}",
            )  # fmt: skip
        try:
            query = prepared.read_query(scope["query_string"])
            if whole is None:
                body = await prepared.read_body(scope, receive)
            else:
                body = prepared.body_of(scope, whole)
            request = Request(scope, receive, self._daemon, body, query)
            reply = await prepared.operation.run(request)
            if prepared.action:
                detail = getattr(body, "decision", "")
                await record_reply(self._daemon, scope, prepared.action, reply, detail)
            return reply
        except Refused as refusal:
            return refusal.reply
        except AgentRuntimeError as error:
            answer = problem_of(error)
            if answer.status >= 500 and not isinstance(error, _TOLD):
                log.error("%s %s: %s", scope["method"], scope["path"], error)
            return answer
        except (ClientGone, anyio.get_cancelled_exc_class()):
            raise
        except Exception:
            log.exception("%s %s failed by a defect", scope["method"], scope["path"])
            return problem(
                500, "internal", "The runtime failed",
                "This is a defect; the daemon's log has more. What was stored before is safe.",
            )  # fmt: skip


class Prepared:
    """An operation with its decoders."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.name = operation.name
        decides = operation.method != "GET" and not operation.scope.endswith(":read")
        self.action = action_of(operation.name) if decides and not operation.recorded else ""
        """How the audit record names it; empty: nothing is decided."""
        typed = operation.body is not None and not operation.raw
        self._decode = msgspec.json.Decoder(operation.body).decode if typed else None
        query = operation.query
        self._lists = frozenset(
            each.encode_name
            for each in (msgspec.structs.fields(query) if query is not None else ())
            if "list" in str(each.type)
        )

    def read_query(self, text: bytes) -> Any:
        if self.operation.query is None:
            return None
        if not text:
            return msgspec.convert({}, self.operation.query)
        given: dict[str, Any] = {}
        try:
            pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict")
            for name, value in pairs:
                if name in self._lists:
                    given.setdefault(name, []).append(value)
                elif name in given:
                    raise msgspec.ValidationError(f"the parameter {name!r} may be given once")
                else:
                    given[name] = value
            return msgspec.convert(given, self.operation.query, strict=False)
        except (msgspec.ValidationError, ValueError) as error:
            said = _with_words(str(error), self.operation.query)
            detail = f"a parameter of the query is wrong: {said}"
            raise Refused(problem(422, "invalid-query", "The query is not valid", detail)) from None

    async def read_body(self, scope: Scope, receive: Receive) -> Any:
        operation = self.operation
        if operation.streamed or (operation.body is None and not operation.raw):
            return None
        return self.body_of(scope, await whole_body(scope, receive, operation.body_bytes_max))

    def body_of(self, scope: Scope, body: bytes) -> Any:
        """What the operation takes, of a body that has come whole."""
        operation = self.operation
        if operation.body is None and not operation.raw:
            return None
        if not body and operation.body_optional:
            return msgspec.convert({}, operation.body)
        _require_media_type(scope, operation.takes)
        if self._decode is None:
            return body
        try:
            return self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # JSON Schema counts 8.0 as an integer, msgspec does not: only mistakes pay for this.
            return _once_more(body, operation.body, error)


def _once_more(body: bytes, kind: Any, error: Exception) -> Any:
    document = read_json(body)
    try:
        return msgspec.convert(_integers(document), kind)
    except msgspec.ValidationError as wrong:
        text, _, place = _with_words(str(wrong), kind).partition(" - at ")
        pointer = _pointer(place.strip("`"))
        if unknown := _UNKNOWN.match(text):  # msgspec points at what holds the field
            pointer += "/" + unknown[1].replace("~", "~0").replace("/", "~1")
        fault = ProblemFault(pointer, text)
        detail = f"{text} - at {place}" if place else text
        raise Refused(
            problem(422, "invalid-input", "The input is not valid", detail, errors=[fault])
        ) from error


def _with_words(said: str, kind: Any) -> str:
    """What msgspec says of a wrong word, and which words would have done."""
    text, _, place = said.partition(" - at ")
    if not text.startswith("Invalid enum value"):
        return said
    words = words_at(kind, place.strip("`"))
    wrong = text.removeprefix("Invalid enum value ").strip("'")
    guess = nearest(wrong, words)
    hint = f"; did you mean {guess!r}?" if guess else ""
    text += f": must be one of {', '.join(map(repr, words))}{hint}" if words else ""
    return f"{text} - at {place}" if place else text


_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _integers(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        case dict():
            return {key: _integers(item) for key, item in value.items()}
        case list():
            return [_integers(item) for item in value]
        case _:
            return value


def _pointer(place: str) -> str:
    """msgspec's `$.tasks[0].goal` as a JSON pointer; `[...]` stands for any item."""
    parts = place.removeprefix("$").replace("[", ".").replace("]", "").split(".")
    return "".join(f"/{part}" for part in parts if part)


def _require_media_type(scope: Scope, wanted: str) -> None:
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value == b"application/json" and wanted == "application/json":
                return
            given = value.partition(b";")[0].strip().lower().decode("latin-1")
            if given == wanted:
                return
            break
    else:
        given = ""
    said = f"got {given!r}" if given else "and none was given"
    raise Refused(
        problem(
            415, "unsupported-media-type", "The body has another media type",
            f"the header Content-Type must be {wanted}, {said}",
        )
    )  # fmt: skip


async def whole_body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """A body of at most `bytes_max`. Raises `Refused`, or `ClientGone`."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    parts, size = [body], len(body)
    try:
        with anyio.fail_after(BODY_SECONDS_MAX):
            while message.get("more_body"):
                if size > bytes_max:
                    raise _too_large(bytes_max)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
    except TimeoutError:
        raise Refused(
            problem(
                408, "slow-body", "The body did not come",
                f"a body must be here {BODY_SECONDS_MAX:.0f} s after its head",
                headers=((b"connection", b"close"),),
            )
        ) from None  # fmt: skip
    if size > bytes_max:
        raise _too_large(bytes_max)
    return b"".join(parts)


def _too_large(bytes_max: int) -> Refused:
    detail = f"the body may have at most {bytes_max} bytes"
    return Refused(
        problem(
            413, "too-large", "The body is too large", detail, headers=((b"connection", b"close"),)
        )
    )
