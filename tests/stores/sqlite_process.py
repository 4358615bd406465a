"""A process of its own on a store, for tests that kill it. It says what it did, a line each.

`python -m tests.stores.sqlite_process PATH claim TASK` then waits to be killed;
`… create TASK` adds it and ends; `… append TASK COUNT TEXT` adds rows and prints their numbers.
"""

import sys

import anyio

from agent_runtime.errors import Conflict
from agent_runtime.stores.sqlite import SqliteStore
from agent_runtime.types import TaskId
from tests.contracts.logs import append, create


async def main(*arguments: str) -> None:
    path, verb, *words = arguments
    store = await SqliteStore.open(path)
    print("open", flush=True)
    if verb == "claim":
        lease = await store.claim(TaskId(words[0]))
        print(lease.epoch, flush=True)
        await anyio.sleep_forever()
    if verb == "create":
        await create(store, words[0])
    if verb == "append":
        await append_all(store, TaskId(words[0]), int(words[1]), words[2])
    await store.close()


async def append_all(store: SqliteStore, task_id: TaskId, count: int, text: str) -> None:
    for _ in range(count):
        while True:
            head = (await store.heads([task_id]))[task_id]
            try:
                seq = await append(store, head, task_id=task_id, text=text)
            except Conflict:
                continue
            print(seq, flush=True)
            break


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
