"""What a call that became a task sees of its client, who has gone and looks in now and then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, cast

from agent_runtime.access.callers import Caller, How
from agent_runtime.kept_calls.records import Asker, KeptCall
from agent_runtime.types import Json
from agent_runtime_mcp.definitions import Asked, Unsupported
from agent_runtime_mcp.wire import META_KEY

Questions = Mapping[str, tuple[str, Mapping[str, Json]]]
Answers = Mapping[str, Mapping[str, Json]]

NEEDED: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
"""What a client must have said that it can do, by method."""


class Detached:
    """`Asked` of a kept call. What is asked waits in the record until somebody answers it."""

    state = ""

    def __init__(
        self,
        call: KeptCall,
        *,
        tell: Callable[[str], None],
        wait: Callable[[Questions], Awaitable[Answers]],
    ) -> None:
        """`tell` notes how far it is; `wait` keeps questions and returns with all the answers."""
        asker = call.asker
        self._asker = asker
        self._tell = tell
        self._wait = wait
        self.caller = caller_of(asker)
        self.client = asker.client
        self.query: Mapping[str, str] = asker.query
        # The same in each run: what it names as its key is done once.
        self.meta: Mapping[str, Json] = {META_KEY: call.call_id, **asker.meta}

    def can(self, capability: str) -> bool:
        """As the client had said when it called."""
        return capability in self._asker.can

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Becomes the task's status message."""
        far = f"{progress:g} of {total:g}" if total is not None else f"{progress:g}"
        self._tell(f"{far}: {message}" if message else far)

    async def log(self, level: str, data: Json, logger: str | None = None) -> None:
        """Nobody listens: tasks have no log."""

    async def ask(self, questions: Questions, *, state: str = "") -> Answers:
        """Wait until whoever owns the task has answered; also over the end of the daemon."""
        for method, _ in questions.values():
            if not self.can(NEEDED[method]):
                raise Unsupported(f"the client does not say that it can {NEEDED[method]}")
        return await self._wait(questions)


def asker_of(asked: Asked) -> Asker:
    """What is kept of a request."""
    caller = asked.caller
    return Asker(
        subject=caller.subject,
        how=caller.how,
        scopes=tuple(sorted(caller.scopes)),
        key_id=caller.key_id,
        client=asked.client,
        can=tuple(each for each in NEEDED.values() if asked.can(each)),
        query=dict(asked.query),
        meta={
            name: value
            for name, value in asked.meta.items()
            if name == META_KEY or not name.startswith(("io.modelcontextprotocol/", "progress"))
        },
    )


def caller_of(asker: Asker) -> Caller:
    """Whose rights a kept call has: those of when it was made."""
    how = cast(How, asker.how)  # it was one when it was kept
    return Caller(asker.subject, frozenset(asker.scopes), how, asker.key_id)
