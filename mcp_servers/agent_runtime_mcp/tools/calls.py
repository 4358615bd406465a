"""One call of a client: asked for in its session, followed in the log, answered.

A call with a key is one step for ever: who asks again hears what became of the first. Its name in
the log is made of caller and key, so it is found after a restart, and after its session.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

import anyio
import msgspec

from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.errors import Conflict, NotFound
from agent_runtime.loop.events import ApprovalRequested
from agent_runtime.loop.intake import NotStorable, json_of
from agent_runtime.types import Json, TaskId
from agent_runtime_mcp.definitions import Asked, McpFault, ToolAnswer
from agent_runtime_mcp.tools import asking
from agent_runtime_mcp.tools.course import META_CALL, META_TASK, Course
from agent_runtime_mcp.tools.sessions import Sessions
from agent_runtime_mcp.wire import FRONT_KEYS, META_KEY

KEY_CHARS_MAX: Final = 255
LOOK_SECONDS: Final = 0.25
"""Between two looks at the log when another process drives the session."""
MOMENT_SECONDS: Final = 1.0
"""How long a client waits for the answer to a call that becomes a task."""
BEAT_SECONDS: Final = 10.0
"""Between two notes of progress: many clients give up after a minute of silence."""
WITHDRAW_SECONDS_MAX: Final = 5.0
SESSIONS_TRIED: Final = 3
_WAITING_MAX: Final = 1000


class Resumed(msgspec.Struct, frozen=True):
    """What a request carries through a question on the stateless wire."""

    task_id: str
    step_id: str
    seq: int
    key: str
    session: str = ""
    """Of the address that the question was asked at: workspace and policy."""


@dataclass(frozen=True, slots=True)
class _Asking:
    """A call as the client made it."""

    tool: str
    arguments: Mapping[str, Json]
    asked: Asked
    key: str

    @property
    def known_key(self) -> str:
        """The key, if its client knows it and could use it again by itself; else empty."""
        return "" if self.key.startswith(FRONT_KEYS) else self.key

    @property
    def step_id(self) -> str:
        if not self.key:
            return f"c{uuid.uuid4().hex[:24]}"
        told = f"{self.asked.caller.by}\0{self.key}".encode()
        return f"k{hashlib.sha256(told).hexdigest()[:24]}"


class Calls:
    """Makes the calls of every client of one process."""

    def __init__(self, daemon: Daemon, sessions: Sessions) -> None:
        self._runtime = daemon.runtime
        self._daemon = daemon
        self._sessions = sessions
        self._waiting: dict[str, tuple[Course, str]] = {}
        """Calls without a key whose answer was that a person must decide, by what they are."""

    async def call(self, tool: str, arguments: Mapping[str, Json], asked: Asked) -> ToolAnswer:
        """Make a call, or tell what became of it.

        Raises:
            McpFault: the key is none, or was used for another call.
            AgentRuntimeError: there is no session; the message says why.
        """
        made = _Asking(tool, arguments, asked, _key(asked.meta))
        course, key = await self._begin(made)
        try:
            return await self._follow(made, course, key)
        except anyio.get_cancelled_exc_class():
            if not key and not (made.key and self._daemon.readiness is Readiness.DRAINING):
                # Nobody can come back for its answer.
                self._waiting.pop(self._same(made), None)
                with anyio.move_on_after(WITHDRAW_SECONDS_MAX, shield=True):
                    await self.withdraw(course, asked)
            raise

    async def begin(self, tool: str, arguments: Mapping[str, Json], asked: Asked) -> Course:
        """Ask for a call and leave it to itself, after a moment in which it may end.

        Raises:
            McpFault, AgentRuntimeError: as `call`.
        """
        made = _Asking(tool, arguments, asked, _key(asked.meta))
        course, _ = await self._begin(made)
        with anyio.move_on_after(MOMENT_SECONDS):
            await self.until(course, lambda: course.pending is not None)
        return course

    # ---- asking for it -------------------------------------------------------------------

    async def _begin(self, call: _Asking) -> tuple[Course, str]:
        """The call in its session's log, and the key under which it can be asked for again."""
        asked = call.asked
        if asked.state:
            at = msgspec.json.decode(asked.state, type=Resumed)
            if at.session != self._sessions.wish(asked).identity:
                raise McpFault(
                    McpFault.INVALID_PARAMS,
                    "requestState is that of a call with another workspace or policy: send it to "
                    "the address that asked",
                )
            course = Course(TaskId(at.task_id), at.step_id)
            course.start = course.seen = at.seq
            return course, at.key
        self._daemon.refuse_unless_ready()
        if not call.known_key and (found := self._waiting.pop(self._same(call), None)) is not None:
            return found
        step_id = call.step_id
        if call.key and (ended := await self._sessions.earlier(asked, step_id)) is not None:
            course = Course(ended, step_id)
            course.see(await self._runtime.rows(ended))
            self._require_same(course, call)
            if not course.never_begun:
                return course, call.known_key
        return await self._request(call, step_id), call.known_key

    async def _request(self, call: _Asking, step_id: str) -> Course:
        for _ in range(SESSIONS_TRIED):
            task_id = await self._sessions.current(call.asked)
            try:
                seq = await self._runtime.request_call(
                    task_id, step_id, call.tool, call.arguments, by=call.asked.caller.by
                )
            except (Conflict, NotFound):
                await self._sessions.over(call.asked, task_id)
                continue
            course = Course(task_id, step_id)
            if seq is not None:
                course.start = course.seen = seq
                return course
            course.see(await self._runtime.rows(task_id))
            self._require_same(course, call)
            return course
        raise Conflict("each session ended before it took the call; the daemon's log says why")

    @staticmethod
    def _require_same(course: Course, call: _Asking) -> None:
        first = course.asked
        if first is None:
            return
        try:
            same = first.tool == call.tool and first.arguments == json_of(dict(call.arguments))
        except NotStorable:
            same = False
        if not same:
            raise McpFault(
                McpFault.INVALID_PARAMS,
                f"the key {call.key!r} was used for another call, {first.tool!r} with other "
                f"arguments or another tool: use a new {META_KEY} for a new call, and send the "
                "same tool and arguments for a repetition",
            )

    def _same(self, call: _Asking) -> str:
        """Names calls that a model would take for one: it cannot give a key of its own."""
        wish = self._sessions.wish(call.asked)
        told = msgspec.json.encode([wish.identity, call.tool, call.arguments], order="sorted")
        return hashlib.sha256(told).hexdigest()

    async def withdraw(self, course: Course, asked: Asked) -> None:
        """End a call, or let it not begin; nothing happens if it has ended."""
        try:
            await self._runtime.withdraw_call(
                course.task_id, course.step_id, by=asked.caller.by,
                reason="its request was cancelled",
            )  # fmt: skip
        except (Conflict, NotFound):
            pass  # the session has ended, and the call with it

    # ---- following it --------------------------------------------------------------------

    async def _follow(self, call: _Asking, course: Course, key: str) -> ToolAnswer:
        if course.ended:
            return course.answer()
        if "progressToken" not in call.asked.meta:
            return await self._answered(call, course, key)
        began = monotonic()

        async def beat(_: anyio.CancelScope) -> None:
            while True:
                await anyio.sleep(BEAT_SECONDS)
                await call.asked.progress(round(monotonic() - began, 1), None, where(course))

        answer = await asking.beside(lambda: self._answered(call, course, key), beat)
        assert answer is not None, "nobody cancels it but with everything"
        return answer

    async def _answered(self, call: _Asking, course: Course, key: str) -> ToolAnswer:
        while True:
            await self.until(course, lambda: course.pending is not None)
            request = course.pending
            if course.ended or request is None:
                self._waiting.pop(self._same(call), None)
                await self._sessions.renew(call.asked, course.task_id, course.seen)
                return course.answer()
            if not key:
                self._keep(call, course)
            if not asking.may_ask(call.asked):
                return _must_wait(course, key, request)
            decided = await self._ask(call, course, key, request)
            if decided is not None:
                await self.decide(course, request, decided, call.asked)
            elif course.pending is request:
                return _must_wait(course, key, request)

    async def until(self, course: Course, done: Callable[[], bool]) -> None:
        """Read the log as it grows, until `done` or the end of the call."""
        runtime, grown = self._runtime, anyio.Event()

        def heard(seq: int) -> None:
            grown.set()

        unsubscribe = runtime.ports.bus.subscribe(course.task_id, heard)
        try:
            while True:
                grown = anyio.Event()
                rows = await runtime.rows(course.task_id, course.seen)
                course.see(rows)
                if course.ended or done():
                    return
                if not rows:
                    with anyio.move_on_after(LOOK_SECONDS):
                        await grown.wait()
        finally:
            unsubscribe()

    # ---- a person decides ----------------------------------------------------------------

    async def _ask(
        self, call: _Asking, course: Course, key: str, request: ApprovalRequested
    ) -> asking.Decided | None:
        """What the person at the client says; None: nothing, or somebody else was faster."""
        state = msgspec.json.encode(
            Resumed(
                course.task_id,
                course.step_id,
                course.start,
                key,
                self._sessions.wish(call.asked).identity,
            )
        ).decode()

        async def elsewhere(scope: anyio.CancelScope) -> None:
            await self.until(course, lambda: course.pending is not request)
            scope.cancel()

        return await asking.beside(lambda: asking.decision(request, call.asked, state), elsewhere)

    async def decide(
        self, course: Course, request: ApprovalRequested, decided: asking.Decided, asked: Asked
    ) -> None:
        """Store what a person said, unless somebody was faster; the log says what holds then."""
        try:
            await self._runtime.decide_approval(
                course.task_id, request.approval_id, decided.decision,
                by=asked.caller.by, message=decided.message, scope=decided.scope,
            )  # fmt: skip
        except (NotFound, Conflict):
            pass
        await self.until(course, lambda: course.pending is not request)

    def _keep(self, call: _Asking, course: Course) -> None:
        self._waiting[self._same(call)] = (course, "")
        while len(self._waiting) > _WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]


def _must_wait(course: Course, key: str, request: ApprovalRequested) -> ToolAnswer:
    """Nobody at the client can decide: say what waits, who can, and how to get the result."""
    arguments = msgspec.json.encode(request.arguments).decode()
    again = f"with the same {META_KEY}" if key else "with the same arguments"
    text = (
        f"The call waits for an approval and has not run: {request.tool} {arguments}\n"
        f"`agent-runtime approve {course.task_id} {request.approval_id}` allows it, "
        f"`agent-runtime deny {course.task_id} {request.approval_id}` refuses it. Then make the "
        f"same call again {again} to get its result."
    )
    meta: dict[str, Json] = {META_TASK: course.task_id, META_CALL: course.step_id}
    return ToolAnswer([{"type": "text", "text": text}], is_error=True, meta=meta)


def _key(meta: Mapping[str, Json]) -> str:
    key = meta.get(META_KEY, "")
    if isinstance(key, str) and len(key) <= KEY_CHARS_MAX:
        return key
    raise McpFault(
        McpFault.INVALID_PARAMS,
        f"_meta[{META_KEY!r}] must be a text of at most {KEY_CHARS_MAX} characters",
    )


def where(course: Course) -> str:
    """Where a call stands, for people."""
    if course.pending is not None:
        return "waits for an approval"
    return "runs" if course.intended is not None else "waits for its turn"
