"""A hostile server behind the module: a real process, over stdio and over HTTP, on both wires.

Each way of misbehaving ends in one of four: a result, a refusal with the reason, no result (which
the effect ledger decides about), or no answer in time. Never in a hang, and never in two effects.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent_runtime.errors import PluginError, ResultLost, ToolRefused
from agent_runtime.ports import Installation, ModuleContext
from agent_runtime.remote_servers import parse_servers
from agent_runtime.types import Json, ToolCall, ToolResult
from agent_runtime_mcp.client.link import Patience
from agent_runtime_mcp.client.module import RemoteModule

HOSTILE = Path(__file__).parent / "hostile.py"
SECRET = "a-very-secret-token"
SECONDS_MAX = 30
PLENTY = Patience(backoff=0.01, points_max=1000)


@pytest.fixture
def anyio_backend() -> str:
    """Real processes: in real time."""
    return "asyncio"


@dataclass
class Peer:
    """A hostile server, and modules that use it."""

    home: Path
    legacy: bool = False
    http: bool = False
    process: subprocess.Popen[bytes] | None = None
    calls: int = 0

    @property
    def work(self) -> Path:
        return self.home / "work"

    def start(self) -> None:
        """The HTTP server; a program is started by the module."""
        (self.work / "port").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, *self._argv(), "--http"])
        end = time.monotonic() + SECONDS_MAX
        while not (self.work / "port").exists():
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.01)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _argv(self) -> list[str]:
        return [str(HOSTILE), str(self.work), *(["--legacy"] if self.legacy else [])]

    def module(self, patience: Patience, **declared: Any) -> RemoteModule:
        common: dict[str, Json] = {"result_bytes": 1 << 20, **declared}
        if self.http:
            port = (self.work / "port").read_text()
            own: dict[str, Json] = {"url": f"http://127.0.0.1:{port}/mcp", "bearer": "${TOKEN}"}
        else:
            own = {"command": sys.executable, "args": self._argv(), "sandbox": "off",
                   "env": {"TOKEN": "${TOKEN}"}}  # fmt: skip
        servers = parse_servers({"peer": {**own, **common}})
        installation = Installation(
            state_dir=str(self.home / "state"),
            mcp_servers=servers,
            secrets={"TOKEN": "env:TOKEN"},
            environ={"TOKEN": SECRET},
        )
        return RemoteModule("peer", servers["peer"], installation, patience=patience)

    @asynccontextmanager
    async def used(
        self, patience: Patience = PLENTY, **declared: Any
    ) -> AsyncIterator[RemoteModule]:
        """A module that was consented to, while it lives."""
        looking = self.module(patience, **declared)
        if looking.standing().startswith("nobody"):
            looking.consent(await looking.offered())
        module = self.module(patience, **declared)
        await module.initialize(ModuleContext(state_dir=""))
        try:
            yield module
        finally:
            await module.cleanup()

    async def call(
        self,
        module: RemoteModule,
        name: str,
        seconds: float = 20.0,
        key: str = "",
        **arguments: Json,
    ) -> ToolResult:
        self.calls += 1
        tool = next(each for each in module.tools() if each.name == f"peer__{name}")
        call = ToolCall(
            call_id="c", tool=tool.name, arguments=arguments, workspace="",
            idempotency_key=key or f"key{self.calls}", timeout_seconds=seconds,
        )  # fmt: skip
        with anyio.fail_after(SECONDS_MAX):
            return await tool.execute(call)

    def effects(self) -> list[str]:
        path = self.work / "effects"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """On stdio, on the wire of 2026."""
    (tmp_path / "work").mkdir()
    made = Peer(tmp_path)
    yield made
    made.stop()


async def lost(peer: Peer, module: RemoteModule, name: str) -> str:
    """Why a call has no result."""
    with pytest.raises(ResultLost) as error:
        await peer.call(module, name)
    return str(error.value)


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS_MAX):
        while not true():
            await anyio.sleep(0.005)


async def misbehaves(peer: Peer) -> None:
    """Everything that row 7 of the issue names, and a well-behaved call after each."""
    async with peer.used(PLENTY) as module:
        assert (await peer.call(module, "note", text="a")).output == "did note"
        failing = await peer.call(module, "failing")
        assert not failing.ok and failing.kind == "failed" and "did not work" in failing.output
        shown = await peer.call(module, "secret")
        assert "[secret TOKEN]" in shown.output and SECRET not in shown.output
        assert (await peer.call(module, "read_resource", uri="x://a")).output == "the content"

        with pytest.raises(TimeoutError, match="no answer within"):
            await peer.call(module, "hang", seconds=0.5)
        assert "floods" in await lost(peer, module, "flood")
        noted = await peer.call(module, "note", text="b")
        assert noted.ok and "floods" in noted.output
        assert "more than 1,048,576 bytes" in await lost(peer, module, "huge")
        assert (await peer.call(module, "twice")).output.endswith("did twice")
        if not peer.http:
            # A call in between would go down with the connection, and say so.
            await until(lambda: not module.connected)
        note = await peer.call(module, "note", text="c")
        assert note.ok
        if not peer.http:  # the SDK reads an answer's stream only up to its first answer
            assert "answered request" in note.output
            assert "what is no message" in await lost(peer, module, "garbage")
            assert (await peer.call(module, "note", text="d")).ok
        await lost(peer, module, "die")
        if peer.http:
            peer.stop()
            gone = await peer.call(module, "note", text="e")
            assert gone.kind == "transient" and "server 'peer'" in gone.output
    # Nothing happened twice, whatever became of the answers.
    done = [line for line in peer.effects() if line != "heard a cancellation"]
    assert len(done) == len(set(done))


@pytest.mark.anyio
async def test_a_hostile_program_ends_no_call_in_a_hang_and_is_used_again(peer: Peer) -> None:
    """Row 7 on stdio, on the newer wire."""
    await misbehaves(peer)


@pytest.mark.long
@pytest.mark.anyio
@pytest.mark.parametrize("http", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
async def test_hostile_servers_of_every_kind(peer: Peer, http: bool, legacy: bool) -> None:
    """Row 7, both transports, both wires."""
    peer.http, peer.legacy = http, legacy
    if http:
        peer.start()
    await misbehaves(peer)


@pytest.mark.anyio
async def test_a_server_that_goes_on_breaking_rules_is_left_alone_with_the_reason(
    peer: Peer,
) -> None:
    """Two breaches in ten minutes here; every call is refused then, and none is sent."""
    patience = Patience(backoff=0.01, points_max=4)
    async with peer.used(patience) as module:
        await lost(peer, module, "huge")
        await lost(peer, module, "huge")
        with pytest.raises(ToolRefused, match=r"quarantine.*more than 1,048,576 bytes"):
            await peer.call(module, "note", text="never")
        assert "quarantine" in str(await module.health())
    assert not any("never" in line for line in peer.effects())


@pytest.mark.anyio
async def test_what_a_server_repeats_of_our_secrets_is_told_nowhere(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its reason for being left alone quotes it, and is in refusals, in `modules` and in logs."""
    caplog.set_level("DEBUG")
    literal = "as-written-in-the-file"
    async with peer.used(Patience(backoff=0.01, points_max=2)) as module:
        await lost(peer, module, "garbage")
        with pytest.raises(ToolRefused) as refused:
            await peer.call(module, "note")
        assert "[secret TOKEN]" in str(refused.value)
        told = f"{refused.value} {await module.health()} {caplog.text}"
        assert SECRET not in told
    peer.http = True
    peer.start()
    async with peer.used(PLENTY, bearer=literal) as module:
        assert (await peer.call(module, "secret")).output.strip() == "Bearer [secret bearer]"


@pytest.mark.anyio
async def test_consent_that_is_taken_back_ends_every_use_at_once(peer: Peer) -> None:
    """The daemon that uses the server is another process than the one that takes it back."""
    async with peer.used() as module:
        assert (await peer.call(module, "note", text="before")).ok
        tools = {tool.name: tool for tool in module.tools()}
        peer.module(PLENTY).consent(None)
        for name, arguments in (("note", {"text": "after"}), ("read_resource", {"uri": "x://a"})):
            call = ToolCall(call_id="c", tool="", arguments=arguments, workspace="",
                            idempotency_key=name)  # fmt: skip
            with pytest.raises(ToolRefused, match="taken back"):
                await tools[f"peer__{name}"].execute(call)
    assert peer.effects() == ["note before"]


@pytest.mark.anyio
async def test_a_long_task_that_is_asked_for_all_the_time_is_no_silence(peer: Peer) -> None:
    """Its call comes to its deadline; the server has answered every question about it."""
    patience = Patience(silent_calls_max=1)
    async with peer.used(patience, effects={"long": "task"}) as module:
        (peer.work / "finish").touch()
        await peer.call(module, "long")  # now all is loaded, and answers come without delay
        (peer.work / "finish").unlink()
        with pytest.raises(TimeoutError):
            await peer.call(module, "long", seconds=2.0)
        assert module.connected
        assert await module.health() is None


@pytest.mark.anyio
async def test_a_changed_tool_is_refused_until_somebody_has_looked(peer: Peer) -> None:
    """The definition that was consented to is the one that is used, on every connection."""
    async with peer.used() as module:
        assert (await peer.call(module, "note", text="before")).ok
    (peer.work / "shifted").touch()
    async with peer.used() as module:
        with pytest.raises(ToolRefused) as refused:
            await peer.call(module, "note", text="after")
        assert "Delete everything first" in str(refused.value)
        assert (await peer.call(module, "failing")).kind == "failed", "the others can be used"
        assert "1 changed" in str(await module.health())
        looking = peer.module(PLENTY)
        offer = await looking.offered()
        (changed,) = [tool for tool in offer.tools if tool.change != "same"]
        assert changed.tool == "peer__note" and "+" in changed.diff
        looking.consent(offer)
        assert (await peer.call(module, "note", text="allowed")).ok
        assert await module.health() is None
    assert [line for line in peer.effects() if "note" in line] == ["note before", "note allowed"]


@pytest.mark.anyio
@pytest.mark.parametrize("legacy", [False, True])
async def test_a_task_of_the_server_is_attached_to_by_another_process(
    peer: Peer, legacy: bool
) -> None:
    """Effect `task`: the same call, made again under its key, waits for what the first began."""
    peer.legacy = legacy
    declared: dict[str, Json] = {"effects": {"long": "task"}}
    async with peer.used(PLENTY, **declared) as module:
        with anyio.move_on_after(SECONDS_MAX) as scope:
            async with anyio.create_task_group() as tg:

                async def begin() -> None:
                    await peer.call(module, "long", key="k")

                tg.start_soon(begin)
                while not any(line.startswith("long") for line in peer.effects()):
                    await anyio.sleep(0.01)
                # The id is written down before the first question about the task.
                tool = next(each for each in module.tools() if each.name == "peer__long")
                call = ToolCall(call_id="c", tool="", arguments={}, workspace="",
                                idempotency_key="k")  # fmt: skip
                while not await tool.attached(call):  # type: ignore[attr-defined]
                    await anyio.sleep(0.01)
                scope.cancel()
    (peer.work / "finish").touch()
    async with peer.used(PLENTY, **declared) as module:
        assert (await peer.call(module, "long", key="k")).output == "long is done"
    assert [line for line in peer.effects() if line.startswith("long")] == ["long k"]


@pytest.mark.anyio
async def test_a_task_of_the_server_is_stopped_at_the_deadline(peer: Peer) -> None:
    """Nobody will ask for its result."""
    async with peer.used(PLENTY, effects={"long": "task"}) as module:
        with pytest.raises(TimeoutError):
            await peer.call(module, "long", seconds=2.0, key="k")
    assert any(line.startswith("cancelled t") for line in peer.effects())


@pytest.mark.anyio
async def test_a_task_that_was_sent_and_whose_id_nobody_knows_is_not_made_again(
    peer: Peer,
) -> None:
    """The server died between the effect and the id."""
    async with peer.used(PLENTY, effects={"long": "task"}) as module:
        (peer.work / "silent_task").touch()
        tool = next(each for each in module.tools() if each.name == "peer__long")
        call = ToolCall(call_id="c", tool="", arguments={}, workspace="", idempotency_key="k")
        assert await tool.attached(call), "never sent"  # type: ignore[attr-defined]
        with pytest.raises(ResultLost):
            await tool.execute(call)
        assert not await tool.attached(call)  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_what_cannot_be_started_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The words of the system, and what the program said: to who asked, and not in the log too."""
    for declared, said in (
        ({"command": "/no/such/program", "sandbox": "off"}, "No such file"),
        ({"command": sys.executable, "sandbox": "off",
          "args": ["-c", "import sys; sys.exit('no licence')"]}, "no licence"),
        ({"command": "x"}, "there is no sandbox"),
        ({"command": "x", "sandbox": "off", "env": {"A": "${GONE}"}}, "needs the secret 'GONE'"),
        ({"url": "http://127.0.0.1:9/"}, "ConnectError"),
    ):  # fmt: skip
        servers = parse_servers({"peer": declared})
        installation = Installation(state_dir=str(tmp_path), mcp_servers=servers)
        with pytest.raises(PluginError) as refused:
            await RemoteModule("peer", servers["peer"], installation).offered()
        assert said in str(refused.value), said
        assert said not in caplog.text
