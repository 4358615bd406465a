"""Small logs, and writing them with few words, for the tests of stores."""

from collections.abc import Sequence

from agent_runtime.ports import Store
from agent_runtime.stores.limits import digest
from agent_runtime.types import Epoch, Row, Seq, Snapshot, TaskId, TaskSummary

TASK, OTHER = TaskId("task_a"), TaskId("task_b")
ZERO = "0" * 64


def log(task_id: str, first: int, last: int, *, text: str = "") -> list[Row]:
    """Rows with a hash that depends on `text`, as that of a real log does."""
    return [
        Row(
            task_id=task_id,
            seq=seq,
            type="StepSucceeded",
            schema=1,
            at_us=1_750_000_000_000_000 + seq,
            data=f'{{ "text":"{text} é\\u0000",  "n":{seq}}}'.encode(),
            prev_hash=_hash(text, seq - 1),
            hash=_hash(text, seq),
        )
        for seq in range(first, last + 1)
    ]


def _hash(text: str, seq: int) -> str:
    return digest(f"{text}{seq}".encode()) if seq else ZERO


def summary_of(
    rows: Sequence[Row],
    *,
    status: str = "running",
    priority: int = 5,
    labels: dict[str, str] | None = None,
    submitted_by: str = "",
    wake_at_us: int = 0,
    tokens: int = 0,
) -> TaskSummary:
    return TaskSummary(
        task_id=rows[0].task_id,
        status=status,
        phase="execution_phase",
        reason="",
        goal='Make "it" work\n',
        seq=rows[-1].seq,
        head_hash=rows[-1].hash,
        created_at_us=1,
        updated_at_us=rows[-1].at_us,
        labels=labels or {},
        priority=priority,
        repo="/repo",
        submitted_by=submitted_by,
        wake_at_us=wake_at_us,
        tokens=tokens,
        microusd=tokens * 3,
    )


async def create(
    store: Store,
    task_id: str = TASK,
    *,
    status: str = "running",
    priority: int = 5,
    labels: dict[str, str] | None = None,
    submitted_by: str = "",
    wake_at_us: int = 0,
    blobs: Sequence[bytes] = (),
    idempotency_key: str | None = None,
    held: bool = False,
) -> TaskId:
    rows = log(task_id, 1, 1)
    return await store.create(
        summary_of(
            rows,
            status=status,
            priority=priority,
            labels=labels,
            submitted_by=submitted_by,
            wake_at_us=wake_at_us,
        ),
        rows,
        blobs={digest(data): data for data in blobs},
        idempotency_key=idempotency_key,
        held=held,
    )


async def append(
    store: Store,
    expected: int,
    *,
    count: int = 1,
    task_id: str = TASK,
    epoch: int | None = None,
    text: str = "",
    status: str = "running",
    tokens: int = 0,
    blobs: Sequence[bytes] = (),
    snapshot: Snapshot | None = None,
    relabel: tuple[dict[str, str], int] | None = None,
) -> Seq:
    rows = log(task_id, expected + 1, expected + count, text=text)
    return await store.append(
        TaskId(task_id),
        Seq(expected),
        rows,
        epoch=None if epoch is None else Epoch(epoch),
        summary=summary_of(
            rows, status=status, tokens=tokens, labels=relabel and relabel[0],
            priority=relabel[1] if relabel else 5,
        ),
        blobs={digest(data): data for data in blobs},
        snapshot=snapshot,
        relabel=relabel is not None,
    )  # fmt: skip
