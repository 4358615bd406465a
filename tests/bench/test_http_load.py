"""The load generator against a real server, and whose processor time counts."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.http.load import WARM, Failed, Load
from bench.http.processes import cpu_seconds
from bench.http.works import WORKS, Work
from bench.rows import GROUPS, ROWS

SUBMIT = Work(name="submit", path="/t", body={}, status=201, made="id", count=8, connections=2)
GET = Work(name="get", path="/t/{id}", status=200, count=6, connections=2)


@asynccontextmanager
async def serving(asked: list[str], post_status: int = 201) -> AsyncIterator[Load]:
    """Answers a POST with a new id and a GET with nothing; `asked` gets the paths."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            method, path, _ = head.decode().split()
            asked.append(path)
            length = 0
            while (line := await reader.readline()).strip():
                if line.startswith(b"Content-Length:"):
                    length = int(line.partition(b":")[2])
            await reader.readexactly(length)
            status = post_status if method == "POST" else 200
            data = json.dumps({"id": f"t{len(asked)}"}).encode()
            writer.write(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(data)) + data
            )
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield Load(server.sockets[0].getsockname()[1], os.getpid(), "")


def test_a_work_asks_for_what_an_earlier_work_has_made() -> None:
    """A GET of what is not there would be another, cheaper, work."""
    asked: list[str] = []

    async def run() -> dict[str, float]:
        async with serving(asked) as load:
            told = await load.run([SUBMIT, GET])
            assert await load.found(GET, load.made[:3]) == 3
            return told

    told = asyncio.run(run())
    made = WARM + SUBMIT.count
    assert asked[:made] == ["/t"] * made
    gets = asked[made : made + WARM + GET.count]
    assert len(gets) == WARM + GET.count and set(gets) <= {f"/t/t{at + 1}" for at in range(made)}
    assert told["submit answer_bytes"] > 0 and "get cpu_us" in told


def test_an_answer_of_another_status_is_a_failed_measurement() -> None:
    """A refusal is quick: it would be a good figure."""

    async def run() -> None:
        async with serving([], post_status=429) as load:
            await load.run([SUBMIT])

    with pytest.raises(Failed, match=r"submit: 429 instead of 201: .*t1"):
        asyncio.run(run())


def test_the_time_of_a_servers_children_counts() -> None:
    """A server may hand its work to processes of its own."""
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu_seconds(process.pid) >= 0.2
        process.communicate(b"\n")


def test_the_daemons_rows_are_of_works_that_are_declared() -> None:
    kinds = {measurement.name: measurement.words[0] for measurement in GROUPS["http"].measurements}
    told = {
        (name, work.name) for name, kind in kinds.items() for work in WORKS.get(kind, ())
    }  # fmt: skip
    # Streams, crowds and those who wait are measured by programs of their own.
    rows = [row for row in ROWS if row.group == "http" and kinds[row.ours] in WORKS]
    assert len(rows) >= 8
    for row in rows:
        assert (row.ours, row.figure.rpartition(" ")[0]) in told, row.what
        peer_figure = row.peer_figure or row.figure
        assert not row.peer or (row.peer, peer_figure.rpartition(" ")[0]) in told, row.what
