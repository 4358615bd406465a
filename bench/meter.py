"""One definition of a step for every engine, and how a measurement hands over what it saw.

Runs in the runtime's venv and in the peers', so it imports the standard library only. An agent
calls a no-op tool again and again; the meter hears of each call as it begins. A *step* is the time
from one call to the next of the same agent: by then the result of the first is durable, and where
an engine stores intents, the intent of the second, too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import signal
import string
import time
from typing import NoReturn

OUTPUT = "".join(random.Random(7).choices(string.ascii_letters, k=500))
"""What the tool returns: 500 bytes."""


class Meter:
    """Counts the steps of `agents` agents, from their call `hold` on.

    All agents wait in call `hold` for the last of them, so that all live at once; their next
    `steps` steps are measured. Each agent makes `calls` calls.
    """

    def __init__(self, agents: int, hold: int, steps: int) -> None:
        self.calls = hold + steps + 1
        self._agents, self._hold, self._steps = agents, hold, steps
        self._arrived = self._left = 0
        self._all_here = asyncio.Event()
        self._last: dict[str, float] = {}
        self._before_bytes = _settled_bytes()
        self.periods: list[float] = []
        self.live_bytes = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._opened = self._cpu_opened = 0.0

    async def call(self, agent: str, number: int) -> None:
        """Call `number` of `agent`, counted from 0, begins."""
        now = time.perf_counter()
        if number == self._hold:
            await self._arrive()
            self._last[agent] = self._opened
        elif number > self._hold:
            self.periods.append(now - self._last[agent])
            self._last[agent] = now
            if number == self._hold + self._steps:
                self._left += 1
                if self._left == self._agents:
                    self.seconds = now - self._opened
                    self.cpu_seconds = time.process_time() - self._cpu_opened

    async def _arrive(self) -> None:
        self._arrived += 1
        if self._arrived == self._agents:
            self.live_bytes = _settled_bytes() - self._before_bytes
            self._opened, self._cpu_opened = time.perf_counter(), time.process_time()
            self._all_here.set()
        await self._all_here.wait()

    def done(self) -> None:
        """Raise unless every agent made all its calls."""
        wanted = self._agents * self._steps
        if len(self.periods) != wanted:
            raise RuntimeError(f"{len(self.periods)} steps were made, not {wanted}")


class Halt:
    """Kills this process when every agent is in its call `at`: all of them are half done."""

    def __init__(self, agents: int, at: int) -> None:
        self._missing, self._at = agents, at

    async def call(self, agent: str, number: int) -> None:
        """Call `number` of `agent` begins; the half-done one never ends."""
        if number == self._at:
            self._missing -= 1
            if self._missing == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.Event().wait()


class Regained:
    """Ends this process when every agent is past the call in which it was killed."""

    def __init__(self, agents: int, killed_in: int) -> None:
        self._left: set[str] = set()
        self._agents, self._killed_in = agents, killed_in
        self._begun, self._cpu_begun = time.perf_counter(), time.process_time()
        self._repeated: set[str] = set()

    async def call(self, agent: str, number: int) -> None:
        """Call `number` of `agent` begins."""
        if number < self._killed_in:
            raise RuntimeError(f"{agent} repeated call {number}, whose result was durable")
        if number == self._killed_in:
            self._repeated.add(agent)
        if number == self._killed_in + 1:
            self._left.add(agent)
            if len(self._left) == self._agents:
                tell(
                    seconds=time.perf_counter() - self._begun,
                    cpu_seconds=time.process_time() - self._cpu_begun,
                    repeated=len(self._repeated),
                )
                os._exit(0)


def arguments() -> argparse.Namespace:
    """`WHAT DIRECTORY`, and the size of the work."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("steps", "half", "regain"))
    parser.add_argument("directory")
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--waves", type=int, default=1)
    parser.add_argument("--hold", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--durability", default="sync")
    return parser.parse_args()


def meters(given: argparse.Namespace) -> list[Meter]:
    """One for each wave of agents."""
    return [Meter(given.agents, given.hold, given.steps) for _ in range(given.waves)]


def tell_steps(waves: list[Meter], **more: object) -> None:
    """Hand over what all waves came to."""
    for meter in waves:
        meter.done()
    periods = sorted(period for meter in waves for period in meter.periods)
    tell(
        steps_per_second=len(periods) / sum(meter.seconds for meter in waves),
        p50_ms=1000 * periods[len(periods) // 2],
        p99_ms=1000 * periods[int(len(periods) * 0.99)],
        cpu_us_per_step=1e6 * sum(meter.cpu_seconds for meter in waves) / len(periods),
        live_kib_per_agent=waves[0].live_bytes / 1024 / waves[0]._agents,
        **more,
    )


def tell(**figures: object) -> None:
    """The one line that the caller reads: the last one of standard output."""
    print(json.dumps(figures), flush=True)


def end() -> NoReturn:
    """End without waiting for threads that a library left behind."""
    os._exit(0)


def _settled_bytes() -> int:
    """Resident memory after a garbage collection."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
