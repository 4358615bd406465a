"""The log alone: hashed rows with 500 bytes of output, one after the other in each task."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import msgspec

from agent_runtime.clock import SystemClock
from agent_runtime.loop import codec
from agent_runtime.loop import events as e
from agent_runtime.loop.submission import submit
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import Seq, TaskId
from bench import meter
from bench.meter import OUTPUT, Meter
from bench.ours.world import opened, playbook


async def measure(directory: str, waves: Sequence[Meter], agents: int) -> None:
    """Let `agents` tasks append at once, wave after wave."""
    async with opened(directory) as store:
        for wave in waves:
            clock, spec = SystemClock(), playbook(1)
            ids = [await submit(spec, store, clock, submitted_by="bench") for _ in range(agents)]
            async with anyio.create_task_group() as tg:
                for task_id in ids:
                    tg.start_soon(_append, store, task_id, wave)


async def _append(store: SqliteStore, task_id: TaskId, wave: Meter) -> None:
    summary = await store.summary(task_id)
    for number in range(wave.calls):
        await wave.call(task_id, number)
        event = e.CallReturned(call_id=f"s{number}.1", ok=True, output=OUTPUT, exit=0)
        rows = codec.encode(
            task_id, [event], after=summary.seq, head=summary.head_hash, at_us=summary.updated_at_us
        )
        after = Seq(summary.seq)
        summary = msgspec.structs.replace(summary, seq=rows[-1].seq, head_hash=rows[-1].hash)
        await store.append(task_id, after, rows, epoch=None, summary=summary)


def main() -> None:
    """`python -m bench.ours.log steps DIRECTORY`: one line of JSON."""
    given = meter.arguments()
    waves = meter.meters(given)
    anyio.run(measure, given.directory, waves, given.agents)
    meter.tell_steps(waves)


if __name__ == "__main__":
    main()
