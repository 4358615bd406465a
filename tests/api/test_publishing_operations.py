"""Repositories that are sent to the daemon, and branches that leave it, as operations."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import httpx2
import pytest

from agent_runtime.access.callers import ROLES, Caller
from agent_runtime.api.daemon import Daemon, Readiness
from agent_runtime.api.publishing import BUNDLE, BYTES
from agent_runtime.api.routes import application
from agent_runtime.runtime import Runtime
from agent_runtime.testing import FakePublisher, FakeRemote
from agent_runtime.workspaces.uploads import LocalUploads, make_bundle
from tests.cli.conftest import make_repository
from tests.loop.harness import TASK, Bench, Script, step, task

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """As the daemon runs."""
    return "asyncio"


@asynccontextmanager
async def served(tmp_path: Path, bench: Bench) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the operations, behind a guard that lets an operator in."""
    publisher = FakePublisher(FakeRemote(), bench.workspaces)
    uploads = LocalUploads(str(tmp_path), bytes_max=1 << 20)
    ports = replace(bench.ports(bench.store()), publisher=publisher, uploads=uploads)
    daemon = Daemon(
        runtime=Runtime(ports, state_dir=str(tmp_path)),
        hub=cast(Any, None),
        metrics=cast(Any, None),
        modules=cast(Any, None),
        state_dir=str(tmp_path),
        workspace_roots=("/srv",),
        readiness=Readiness.READY,
    )
    app = application(daemon)

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        scope["caller"] = Caller("me", ROLES["operator"], "key", "k1")
        await app(scope, receive, send)

    transport = httpx2.ASGITransport(app=guarded)
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as client:
        client.daemon = daemon  # type: ignore[attr-defined]
        yield client


async def test_a_repository_is_sent_and_named_by_a_task(tmp_path: Path) -> None:
    """In pieces, and what is too much or no bundle is refused with the reason."""
    make_bundle(str(make_repository(tmp_path / "repo")), str(tmp_path / "bundle"))
    data = (tmp_path / "bundle").read_bytes()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100):
            yield data[at : at + 100]

    async with served(tmp_path, Bench()) as client:
        headers = {"content-type": BYTES}
        sent = await client.post("/v1/workspaces", content=pieces(), headers=headers)
        assert sent.status_code == 201, sent.text
        assert sent.json()["repo"].startswith("upload:")
        junk = await client.post("/v1/workspaces", content=b"junk", headers=headers)
        assert junk.status_code == 422 and "no git bundle" in junk.json()["detail"]
        much = await client.post("/v1/workspaces", content=b"x" * (2 << 20), headers=headers)
        assert much.status_code == 422 and "upload_bytes" in much.json()["detail"]


async def test_what_could_not_be_kept_is_not_taken(tmp_path: Path) -> None:
    """On a disk that is nearly full, and by a daemon that begins to end while a bundle comes."""
    async with served(tmp_path, Bench()) as client:
        daemon: Daemon = client.daemon  # type: ignore[attr-defined]
        headers = {"content-type": BYTES}
        daemon.faults["disk"] = "only 3 MiB are free"
        full = await client.post("/v1/workspaces", content=b"# v2 git bundle", headers=headers)
        assert full.status_code == 503 and "3 MiB" in full.json()["detail"]
        daemon.faults.clear()

        async def slow() -> AsyncIterator[bytes]:
            yield b"# v2 git bundle\n"
            daemon.readiness = Readiness.DRAINING
            await anyio.sleep_forever()

        with anyio.fail_after(20):
            ends = await client.post("/v1/workspaces", content=slow(), headers=headers)
        assert ends.status_code == 503 and ends.headers["retry-after"] == "2"
        assert os.listdir(tmp_path / "uploads") == []


async def test_a_proven_branch_is_fetched_and_published(tmp_path: Path) -> None:
    """And what is not proven, or does not exist, is not."""
    bench = Bench(Script("look"))
    await bench.submit(task(step("a", "look")))
    async with served(tmp_path, bench) as client:
        early = await client.post(f"/v1/tasks/{TASK}/publish")
        assert early.status_code == 409, early.text
        await bench.drive()
        branch = await client.get(f"/v1/tasks/{TASK}/branch")
        assert (branch.status_code, branch.headers["content-type"]) == (200, BUNDLE)
        wish = {"branch": "fix/a", "pr": "none"}
        asked = await client.post(f"/v1/tasks/{TASK}/publish", json=wish)
        assert (asked.status_code, asked.json()["status"]) == (202, "running"), asked.text
        bad = await client.post(f"/v1/tasks/{TASK}/publish", json={"pr": "maybe"})
        assert bad.status_code == 422
        assert (await client.post("/v1/tasks/task_none/publish")).status_code == 404


async def test_a_file_url_is_a_path_and_must_lie_below_the_roots(tmp_path: Path) -> None:
    """`file:///etc` is no way around `workspace_roots`."""
    async with served(tmp_path, Bench()) as client:
        wish = {"goal": "g", "workspace": {"repo": f"file://{tmp_path}"}}
        refused = await client.post("/v1/tasks", json=wish)
        assert refused.status_code == 403 and "workspace_roots" in refused.json()["detail"]
