"""A request at one of our hooks becomes a task file, or is refused, or is not meant.

The order: is it signed by who knows the secret, is it JSON, do the filters want it, what does the
template make of it. Making the task is the daemon's, by the delivery's id as idempotency key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec

from agent_runtime.errors import Fault, NotFound, StoreUnavailable, UsageError
from agent_runtime.notices.filling import OUTPUT_BYTES_MAX, Filled, Order
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.records import Hook
from agent_runtime.notices.signing import delivery_of, fault_of_request
from agent_runtime.types import Json

SECONDS_MAX: Final = 10.0
AT_ONCE_MAX: Final = 2
WAITING_MAX: Final = 64
"""Requests that wait for their turn to be filled; what is more is to come again."""
_HIDDEN: Final = frozenset({
    "authorization", "cookie", "proxy-authorization", "x-gitlab-token", "x-hub-signature",
    "x-hub-signature-256", "webhook-signature",
})  # fmt: skip
"""Headers that no task reads."""


class NotSigned(Exception):
    """The request is not from who knows the hook's secret, or there is no such hook."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The task file that a request makes; `key` is the same for its repetitions."""

    hook: Hook
    key: str
    task: dict[str, Json]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A request in order that makes no task."""

    why: str


class Hooks:
    """Takes requests."""

    def __init__(self, store: NoticeStore) -> None:
        self.store = store
        self._limiter = anyio.CapacityLimiter(AT_ONCE_MAX)

    async def verified(
        self, hook_id: str, headers: Mapping[str, str], body: bytes, now_seconds: float
    ) -> Hook:
        """The hook that a request is for and signed with.

        Raises:
            NotSigned: says no more to the sender than that.
        """
        try:
            hook = await self.store.hook(hook_id)
        except NotFound:
            # As long as a wrong signature takes: who guesses learns nothing.
            hmac.digest(b"-" * 32, body, "sha256")
            raise NotSigned(f"there is no hook {hook_id[:80]!r}") from None
        if not hook.enabled:
            raise NotSigned(f"the hook {hook.name!r} is disabled")
        if fault := fault_of_request(hook, headers, body, now_seconds):
            raise NotSigned(f"hook {hook.name!r}: {fault}")
        return hook

    async def wish(self, hook: Hook, headers: Mapping[str, str], body: bytes) -> Wanted | Ignored:
        """What a signed request makes.

        Raises:
            UsageError: it is no JSON, or the template cannot be filled with it.
            StoreUnavailable: too many wait for their turn.
        """
        if hook.scheme == "github" and headers.get("x-github-event") == "ping":
            return Ignored("a ping")
        try:
            payload = msgspec.json.decode(body) if body else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"the body is no JSON: {error}") from None
        filled = await self._filled(hook, headers, payload)
        if filled.task is None:
            return Ignored(f"the filter {filled.refused_by!r} is not true")
        delivery = hashlib.sha256(delivery_of(hook, headers, body).encode()).hexdigest()
        return Wanted(hook, f"hook:{hook.hook_id} {delivery}", filled.task)

    async def _filled(self, hook: Hook, headers: Mapping[str, str], payload: Json) -> Filled:
        hidden = {*_HIDDEN, hook.header.lower()}
        shown = {name: value for name, value in headers.items() if name not in hidden}
        order = Order(
            hook.task, list(hook.filters),
            {"payload": payload, "headers": shown, "hook": {"id": hook.hook_id, "name": hook.name}},
        )  # fmt: skip
        if self._limiter.statistics().tasks_waiting >= WAITING_MAX:
            raise StoreUnavailable("too many requests wait at hooks: send it again in a moment")
        async with self._limiter:
            said = await _in_process(msgspec.json.encode(order))
        if said is None:
            why = f"takes more than {SECONDS_MAX:g} s, or too much CPU time or memory"
            raise UsageError(f"filling the task of hook {hook.name!r} {why}")
        filled = msgspec.json.decode(said, type=Filled)
        if filled.fault:
            raise UsageError(
                f"the task of hook {hook.name!r} cannot be filled: {filled.fault}",
                faults=[Fault((), filled.fault)],
            )
        return filled


async def _in_process(order: bytes) -> bytes | None:
    """What the process answers; None: it came to nothing."""
    environ = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"}
    words = [sys.executable, "-I", "-m", "agent_runtime.notices.filling"]
    try:
        with anyio.fail_after(SECONDS_MAX):
            done = await anyio.run_process(
                words, input=order, stderr=subprocess.DEVNULL, env=environ, check=False
            )
    except TimeoutError:
        return None
    return done.stdout if done.returncode == 0 and len(done.stdout) <= OUTPUT_BYTES_MAX else None
