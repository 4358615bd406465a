"""Which task a client's calls belong to: one for each caller, workspace and policy.

Such a task has an open plan (`loop.state.State.is_open`): its steps are the calls. It is found
again by its label after a restart, and ends when nobody has called for long.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec

from agent_runtime.access.callers import Caller
from agent_runtime.api.daemon import Daemon
from agent_runtime.api.intake import require_below
from agent_runtime.errors import UsageError
from agent_runtime.taskfile import parse_task
from agent_runtime.types import (
    TERMINAL_STATUSES,
    Json,
    Limits,
    PlanSpec,
    Policy,
    Status,
    TaskId,
    TaskSpec,
    WorkspaceSpec,
)
from agent_runtime_mcp.definitions import Asked

LABELS: Final[Mapping[str, str]] = {"mcp": "tools"}
SESSION: Final = "mcp-session"
"""Label whose value tells the sessions of one caller, workspace and policy from all others."""
IN_PLACE: Final[Mapping[str, str]] = {**LABELS, "mcp-place": "checkout"}
"""Of those that hold the user's own directory."""
NO_LIMIT: Final = Limits(steps=10**9, seconds=10.0**9, tokens=10**15, usd=10.0**9)
"""Nothing here thinks or pays; each call has its own deadline."""
APPROVAL_SECONDS: Final = 3600.0
"""Unless the policy says otherwise: while a person is asked, no other call may write."""
EVENTS_MAX: Final = 40_000
"""Of a session that works in place; about 5,000 calls. The next call after a pause begins another:
a log is read in full when a key is looked up, and the state holds the name of every call."""
IDLE_SECONDS: Final = 1800.0
OTHERS_IDLE_SECONDS: Final = 60.0
"""After which a session makes way for another caller's in the same directory."""
REAP_SECONDS: Final = 60.0
KEY_SECONDS: Final = 86_400.0
"""How long keys are honoured after the end of their session."""
END_SECONDS: Final = 60.0
"""How long a call waits for the end of a session that takes no more."""
_WISHES_MAX: Final = 1024
_ENDED_MAX: Final = 64
"""Ended sessions of which the calls' names are at hand; those of others are read again."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request means: the same for every request of one client."""

    identity: str
    spec: TaskSpec
    by: str
    in_place: bool
    directory: str


class Sessions:
    """Finds, makes and ends sessions; one for each process."""

    def __init__(self, daemon: Daemon, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._daemon = daemon
        self._idle_seconds = idle_seconds
        self._wishes: dict[tuple[str, tuple[tuple[str, str], ...]], Wish] = {}
        self._live: dict[str, TaskId] = {}
        self._ended: dict[TaskId, frozenset[str]] = {}
        """Names of the calls of sessions that have ended."""
        self._lock = anyio.Lock()

    def wish(self, asked: Asked) -> Wish:
        """Read the options of the client's address.

        Raises:
            UsageError: they cannot be used. Forbidden: the workspace is none that the daemon may.
        """
        key = (asked.caller.by, tuple(sorted(asked.query.items())))
        known = self._wishes.get(key)
        if known is None:
            if len(self._wishes) >= _WISHES_MAX:
                self._wishes.clear()
            known = self._wishes[key] = self._read(asked.caller, asked.query)
        return known

    def _read(self, caller: Caller, query: Mapping[str, str]) -> Wish:
        by = caller.by
        given = query.get("workspace", "")
        if not given:
            raise UsageError(
                "no workspace is named, so there is nothing for tools to work on: add "
                "?workspace=/path/of/a/checkout to the server's address, or --workspace DIR to the "
                "command in the client's configuration"
            )
        if not os.path.isabs(given):
            raise UsageError(f"workspace: must be an absolute path, got {given!r}")
        directory = os.path.realpath(given)
        require_below(directory, self._daemon.roots_of(caller))
        in_place = not _is_yes(query, "clone")
        policy = policy_of(query)
        spec = TaskSpec(
            goal=f"Tools for the MCP client of {by} in {directory}",
            plan=PlanSpec(steps=[]),
            workspace=WorkspaceSpec(repo=directory, in_place=in_place),
            limits=NO_LIMIT,
            policy=policy,
        )
        told = msgspec.json.encode([by, directory, in_place, policy])
        identity = hashlib.sha256(told).hexdigest()[:32]
        labels = {**(IN_PLACE if in_place else LABELS), SESSION: identity}
        spec = msgspec.structs.replace(spec, labels=labels)
        return Wish(identity, spec, by, in_place, directory)

    async def current(self, asked: Asked) -> TaskId:
        """The session of this client, made if there is none.

        Raises:
            UsageError, Forbidden, ConfigError: as the address or the workspace is.
            AllowanceSpent, Overloaded, StoreUnavailable: none is made just now.
        """
        wish = self.wish(asked)
        async with self._lock:
            if (known := self._live.get(wish.identity)) is not None:
                return known
            last = await self._newest(wish)
            if last is not None and last[1] not in TERMINAL_STATUSES:
                self._live[wish.identity] = last[0]
                return last[0]
            if wish.in_place:
                await self._make_way(wish)
            # Two processes that make one at the same time make the same.
            key = f"{wish.by} mcp-tools {wish.identity} {last[0] if last else ''}"
            with self._daemon.room() as room:
                taken = await self._daemon.runtime.take_in(
                    wish.spec, submitted_by=wish.by, idempotency_key=key,
                    budget=asked.caller.budget,
                )  # fmt: skip
                room.taken = int(taken.is_new)
            self._live[wish.identity] = TaskId(taken.summary.task_id)
            return self._live[wish.identity]

    async def over(self, asked: Asked, task_id: TaskId) -> None:
        """This session takes no more: wait for its end, so that another can be made.

        Raises:
            UsageError: it does not end; says what can be done.
        """
        wish = self.wish(asked)
        if self._live.get(wish.identity) == task_id:
            del self._live[wish.identity]
        store = self._daemon.runtime.ports.store
        with anyio.move_on_after(END_SECONDS):
            while (await store.summary(task_id)).status not in TERMINAL_STATUSES:
                await store.wait_changed(0.2)
            return
        raise UsageError(
            f"the session {task_id!r} is ending and holds the workspace; try again in a moment"
        )

    async def renew(self, asked: Asked, task_id: TaskId, seq: int) -> None:
        """End a session in place that has grown long, if nothing goes on in it."""
        if seq < EVENTS_MAX or not self.wish(asked).in_place:
            return
        reason = f"its log is long ({seq} events); the next call begins another session"
        await self._daemon.runtime.end_if_idle(task_id, by="mcp", reason=reason)

    async def earlier(self, asked: Asked, step_id: str) -> TaskId | None:
        """The ended session in which a call of this name was asked for."""
        wish, runtime = self.wish(asked), self._daemon.runtime
        since_us = runtime.ports.clock.now_us() - int(KEY_SECONDS * 1e6)
        before: TaskId | None = None
        while page := await runtime.tasks(
            labels={SESSION: wish.identity}, submitted_by=wish.by, before=before, limit=100
        ):
            for summary in page:
                task_id = before = TaskId(summary.task_id)
                if summary.status not in TERMINAL_STATUSES:
                    continue
                if summary.updated_at_us < since_us:
                    return None
                if task_id not in self._ended:
                    while len(self._ended) >= _ENDED_MAX:
                        del self._ended[next(iter(self._ended))]
                    state = await runtime.state(task_id)
                    self._ended[task_id] = state.past | state.steps.keys()
                if step_id in self._ended[task_id]:
                    return task_id
        return None

    async def reap(self) -> None:
        """End the sessions that nobody uses, for as long as the process lives."""
        runtime = self._daemon.runtime
        while True:
            await anyio.sleep(REAP_SECONDS)
            waiting = await runtime.tasks(labels=LABELS, statuses=[Status.WAITING], limit=500)
            for summary in waiting:
                reason = f"nobody called for {self._idle_seconds:g} s"
                await runtime.end_if_idle(
                    TaskId(summary.task_id), by="mcp", reason=reason,
                    idle_seconds=self._idle_seconds,
                )  # fmt: skip

    async def _make_way(self, wish: Wish) -> None:
        """End sessions that hold the directory and in which nothing goes on.

        The caller's own at once (its policy is another one now), those of others after a while.
        """
        runtime = self._daemon.runtime
        waiting = await runtime.tasks(labels=IN_PLACE, statuses=[Status.WAITING], limit=500)
        for summary in waiting:
            if summary.repo != wish.directory or summary.labels.get(SESSION) == wish.identity:
                continue
            idle = 0.0 if summary.submitted_by == wish.by else OTHERS_IDLE_SECONDS
            await runtime.end_if_idle(
                TaskId(summary.task_id), by="mcp", idle_seconds=idle,
                reason=f"another session of {wish.by} begins in the same directory",
            )  # fmt: skip

    async def _newest(self, wish: Wish) -> tuple[TaskId, str] | None:
        found = await self._daemon.runtime.tasks(
            labels={SESSION: wish.identity}, submitted_by=wish.by, limit=1
        )
        return (TaskId(found[0].task_id), found[0].status) if found else None


def policy_of(query: Mapping[str, str]) -> Policy:
    """What the options say about it: `policy`, JSON as in a task file, and `network` for short.

    Raises:
        UsageError: everything that is wrong.
    """
    given: Json = {}
    if text := query.get("policy"):
        try:
            given = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise UsageError(f"policy: must be a JSON object as in a task file: {error}") from None
        if not isinstance(given, dict):
            raise UsageError(f"policy: must be a JSON object as in a task file, got {text!r}")
    if network := query.get("network"):
        given = {**given, "network": network}
    policy = parse_task({"goal": "-", "policy": given}, base_dir="/").policy
    # Nobody is asked how to take an unknown effect: the client is told of it.
    policy = msgspec.structs.replace(policy, unknown_effect="fail")
    if "approval_seconds" not in given:
        policy = msgspec.structs.replace(policy, approval_seconds=APPROVAL_SECONDS)
    return policy


def _is_yes(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "no").lower()
    if value not in ("", "yes", "true", "1", "no", "false", "0"):
        raise UsageError(f"{name}: must be yes or no, got {value!r}")
    return value in ("", "yes", "true", "1")
