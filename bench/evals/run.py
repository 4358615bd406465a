"""Many tasks through one runtime: submitted, driven to their end, verified, counted.

Everything is real: the store, the sandbox, the models' adapters and their sockets, the checks. What
a task came to is read from its log.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from agent_runtime.app import open_runtime
from agent_runtime.errors import AgentRuntimeError
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.state import lacks_brain
from agent_runtime.runtime import Runtime
from agent_runtime.settings import load_settings
from agent_runtime.types import Row, TaskSpec
from bench.evals.cases import Case, Prepared
from bench.evals.oracle import Oracle

BY_MODEL = "model"
"""The answer that nobody knows before."""
GOLD = "gold"
WIRES = ("openai", "anthropic")


@dataclass(frozen=True, slots=True)
class Job:
    """One task: a case, and whose answer it gets."""

    case: Case
    answer: str
    wire: str = ""
    """Of the oracle."""
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task came to."""

    suite: str
    name: str
    answer: str
    wire: str = ""
    streamed: bool = False
    task_id: str = ""
    status: str
    grade: str = ""
    reason: str = ""
    lacks_model: bool = False
    """Nobody can be asked, and so it is with every other task."""
    verified: bool = False
    """`verify` found log, patch and claims to be what was written."""
    countered: int = 0
    steps: int = 0
    """Attempts of calls and turns."""
    turns: int = 0
    calls: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_cached: int = 0
    """Of those that went in."""
    tokens_out: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """From its submission to its end, with others beside it."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds in each phase, by the log."""

    @property
    def certified(self) -> bool:
        """Does a certificate say that it is right, and does it hold?"""
        return self.status == "succeeded" and self.grade == "proven" and self.verified

    @property
    def as_expected(self) -> bool:
        """The right answer is certified, a wrong one has an end that is none of success."""
        if self.answer in (GOLD, BY_MODEL):
            return self.certified
        return self.status in ("unverified", "failed")


def jobs(cases: Sequence[Case], answers: Sequence[str] | None, wires: Sequence[str]) -> list[Job]:
    """Each case with each of its answers, over the wires in turns, streamed and not.

    Without `answers` each is one task for a model.
    """
    if answers is None:
        return [Job(case, BY_MODEL) for case in cases]
    return [
        Job(case, answer, wires[number % len(wires)], number // len(wires) % 2 == 1)
        for number, case in enumerate(cases)
        for answer in case.answers
        if answer in answers
    ]


@dataclass(slots=True)
class Run:
    """How tasks are run."""

    directory: Path
    """The store, the repositories and the working copies go there."""
    concurrency: int
    oracle: Oracle | None = None
    model: str = ""
    """Who is asked, if not the oracle."""
    usd_max: float | None = None
    seconds_max: float = 1800.0
    """Of one task."""
    outcomes: list[Outcome] = field(default_factory=list)
    left: int = 0
    """Tasks without an outcome: the money was spent, no model was there, or it was broken off."""
    _prepared: dict[str, Prepared] = field(default_factory=dict)
    _locks: dict[str, anyio.Lock] = field(default_factory=dict)

    async def all(self, todo: Sequence[Job], told: Callable[[Outcome], None]) -> None:
        """Run all of them and say what each came to."""
        waiting = iter(todo)
        try:
            async with open_runtime(load_settings(self._settings())) as runtime:
                async with anyio.create_task_group() as tg:
                    for _ in range(min(self.concurrency, len(todo))):
                        tg.start_soon(self._work, runtime, waiting, told)
        finally:
            self.left = len(todo) - len(self.outcomes)

    def _settings(self) -> dict[str, object]:
        settings: dict[str, object] = {"store": f"sqlite:///{self.directory}/state/store.db"}
        if self.oracle is not None:
            # Nobody else is asked, whatever the user's own settings say.
            settings |= {"model_endpoints": self.oracle.models(), "model_fallbacks": ()}
        return settings

    async def _work(
        self, runtime: Runtime, waiting: Iterator[Job], told: Callable[[Outcome], None]
    ) -> None:
        while not self._is_over():
            job = next(waiting, None)
            if job is None:
                return
            try:
                outcome = await self._one(runtime, job)
            except AgentRuntimeError as error:
                outcome = _outcome(job, status="error", reason=str(error))
            self.outcomes.append(outcome)
            told(outcome)

    def _is_over(self) -> bool:
        spent = sum(outcome.usd for outcome in self.outcomes)
        nobody = any(outcome.lacks_model for outcome in self.outcomes)
        return nobody or (self.usd_max is not None and spent >= self.usd_max)

    async def _one(self, runtime: Runtime, job: Job) -> Outcome:
        prepared = await self._prepare(job.case)
        model = self.model
        if self.oracle is not None:
            self.oracle.learn(job.case.marker, job.answer, prepared.scripts[job.answer])
            model = self.oracle.name(job.answer, wire=job.wire)
        limits = {"seconds": self.seconds_max}
        if self.usd_max is not None:
            limits["usd"] = self.usd_max
        task = job.case.task(prepared, model, limits=limits)
        started = time.monotonic()
        task_id = await runtime.submit(msgspec.convert(task, TaskSpec), submitted_by="evals")
        stop = runtime.listen(task_id, lambda _: None) if job.streamed else lambda: None
        try:
            state = await runtime.drive(task_id)
        finally:
            stop()
        seconds = time.monotonic() - started
        rows = await runtime.rows(task_id)
        result = await runtime.result(task_id)
        verified = await runtime.verify(task_id)
        found = state.verification
        counted = _counted([codec.decode(row) for row in rows])
        return _outcome(
            job,
            task_id=task_id,
            status=result.status,
            grade=found.grade if found else "",
            reason=state.brain.why if state.brain and lacks_brain(state) else result.reason,
            lacks_model=lacks_brain(state),
            verified=verified.ok,
            countered=sum(len(check.countered) for check in found.checks) if found else 0,
            steps=state.usage.steps,
            usd=state.usage.usd,
            seconds=seconds,
            phases=_phases(rows),
            **counted,
        )

    async def _prepare(self, case: Case) -> Prepared:
        """Its repository, once."""
        lock = self._locks.setdefault(case.marker, anyio.Lock())
        async with lock:
            if case.marker not in self._prepared:
                directory = self.directory / "cases" / case.suite / case.name
                directory.mkdir(parents=True)
                self._prepared[case.marker] = await anyio.to_thread.run_sync(
                    case.prepare, directory
                )
        return self._prepared[case.marker]


def _outcome(job: Job, *, status: str, **more: object) -> Outcome:
    return msgspec.convert(
        {
            "suite": job.case.suite, "name": job.case.name, "answer": job.answer,
            "wire": job.wire, "streamed": job.streamed, "status": status, **more,
        },
        Outcome,
    )  # fmt: skip


def _counted(events: Sequence[e.AnyEvent]) -> dict[str, object]:
    """Turns, calls, faults and tokens."""
    replies = [event for event in events if isinstance(event, e.ModelReplied)]
    faults = [event for event in events if isinstance(event, e.ModelFailed)]
    usages = [event.usage for event in (*replies, *faults)]
    return {
        "turns": len(replies),
        "calls": sum(isinstance(event, e.CallIntended) for event in events),
        "faults": dict(Counter(fault.error for fault in faults)),
        "tokens_in": sum(usage.input for usage in usages),
        "tokens_cached": sum(usage.cached for usage in usages),
        "tokens_out": sum(usage.output for usage in usages),
    }


def _phases(rows: Sequence[Row]) -> dict[str, float]:
    """Seconds between entering each phase and entering the next one."""
    seconds: Counter[str] = Counter()
    phase, since = "idle", rows[0].at_us
    for row in rows:
        event = codec.decode(row)
        if isinstance(event, e.PhaseEntered | e.TaskEnded):
            seconds[phase] += (row.at_us - since) / 1e6
            since = row.at_us
            phase = event.phase if isinstance(event, e.PhaseEntered) else "idle"
    return {str(name): round(spent, 6) for name, spent in seconds.items()}
