"""Notices beside a store, on asyncio: receivers are real."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from agent_runtime.egress_rules import parse_rules
from agent_runtime.errors import NotFound
from agent_runtime.notices.ports import NoticeStore
from agent_runtime.notices.records import Delivery, Webhook
from agent_runtime.notices.service import Notices
from agent_runtime.notices.targets import parse_targets
from agent_runtime.stores.memory import MemoryStore
from agent_runtime.stores.memory_notices import MemoryNotices
from agent_runtime.types import Row, Seq, TaskId, TaskSummary

START_US = 1_800_000_000_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Place:
    """A log and what tells of it. The wall clock moves only when a test moves it."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.directory = directory
        self.log = MemoryStore()
        self.store: NoticeStore = MemoryNotices()
        self.ahead_us = 0
        self.counted: Counter[tuple[str, str]] = Counter()
        self.notices = self.make(**more)
        self._seqs: Counter[str] = Counter()

    def make(
        self, *, ports: tuple[int, ...] = (), notify: Mapping[str, Any] = {},
        environ: Mapping[str, str] = {},
    ) -> Notices:  # fmt: skip
        rules = [f"127.0.0.1:{port}" for port in ports]
        self.notices = Notices(
            self.log, self.store, state_dir=str(self.directory), allow=parse_rules("full", rules),
            notify=parse_targets(dict(notify)), link="https://agents.example/v1/tasks/",
            environ=environ, now_us=self.now_us, monotonic=time.monotonic,
            count=lambda kind, outcome: self.counted.update([(kind, outcome)]),
        )  # fmt: skip
        return self.notices

    def now_us(self) -> int:
        return int(time.time() * 1e6) + self.ahead_us

    def later(self, seconds: float) -> None:
        """The wall clock jumps, and couriers look."""
        self.ahead_us += round(seconds * 1e6)
        for courier, _ in self.notices._couriers.values():
            courier.wake()

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[Notices]:
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.notices.run)
            yield self.notices
            tg.cancel_scope.cancel()

    async def webhook(self, url: str, *types: str, **labels: str) -> Webhook:
        return await self.notices.desk.make(
            url=url, types=types, labels=labels, description="", by="key:boss"
        )

    async def happens(
        self, type_: str, data: Mapping[str, Any] = {}, *, task: str = "1", status: str = "running",
        reason: str = "", goal: str = "Fix it", labels: Mapping[str, str] = {},
    ) -> str:  # fmt: skip
        """An event is stored; its message's id."""
        task_id = TaskId(f"task_{task:0>32}")
        before = self._seqs[task_id]
        seq = self._seqs[task_id] = before + 1
        row = Row(
            task_id=task_id, seq=seq, type=type_, schema=1, at_us=START_US + seq,
            data=msgspec.json.encode(dict(data)), prev_hash=f"{before}", hash=f"{seq}",
        )  # fmt: skip
        summary = TaskSummary(
            task_id=task_id, status=status, phase="idle", reason=reason, goal=goal, seq=seq,
            head_hash=row.hash, created_at_us=1, updated_at_us=row.at_us, labels=dict(labels),
            priority=5, repo="",
        )  # fmt: skip
        if before:
            await self.log.append(task_id, Seq(before), [row], epoch=None, summary=summary)
        else:
            await self.log.create(summary, [row])
        return f"msg_{task_id[5:]}_{seq}"

    async def delivery(
        self, target: str, message_id: str, state: str, attempts: int = 0
    ) -> Delivery:
        """Until it is in this state, with at least so many tries."""
        with anyio.fail_after(20):
            while True:
                with suppress(NotFound):
                    found = await self.store.delivery(target, message_id)
                    if found.state == state and found.attempts >= attempts:
                        return found
                await anyio.sleep(0.005)
