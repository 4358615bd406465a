"""A program on pipes: one JSON message a line, in the sandbox or, by name, outside of it.

The SDK's own transport reads lines of any length. Here a line has a longest length, which is
looked at while it is read, standard error is kept in its last part only, and the program's whole
session ends with the connection.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter
from pydantic import ValidationError

from agent_runtime.errors import AgentRuntimeError
from agent_runtime.ports import Attaches, Layer, Sandbox, SandboxLimits, SandboxSpec
from agent_runtime.remote_servers import RemoteServer
from agent_runtime_mcp.client.guard import Guard

STDERR_CHARS: Final = 4000
"""What is kept of its end, for whoever asks why a program died."""
READ_BYTES: Final = 1 << 16
UNASKED_FACTOR: Final = 8
"""So many times the longest message may come between two answers."""
LEAVE_SECONDS: Final = 2.0
"""From the end of its input to SIGKILL."""
LAST_WORDS_SECONDS: Final = 1.0
"""From its end to the end of its pipes, which something that it started may hold; and from the end
of its output to its own."""


_Close = Callable[..., None]
_Into = MemoryObjectSendStream[SessionMessage | Exception]
_Out = MemoryObjectReceiveStream[SessionMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is started, secrets filled in."""

    name: str
    server: RemoteServer
    argv: Sequence[str]
    env: Mapping[str, str]
    home: str
    """A directory that is kept for it."""


class _Life:
    """One run of the program. What it said last is heard before its end cuts the connection."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.output_ended, self.errors_ended = anyio.Event(), anyio.Event()

    async def ended(self, code: int) -> None:
        """Its own end."""
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            await self.output_ended.wait()
            await self.errors_ended.wait()
        self.guard.cut(f"it ended with exit code {code}", breach=False)

    async def silent(self) -> None:
        """The end of its output."""
        self.output_ended.set()
        # Most end with it, and their exit code says more.
        await anyio.sleep(2 * LAST_WORDS_SECONDS)
        self.guard.cut("it closed its output", breach=False)


class Tail:
    """The end of what a program says on standard error."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        """Take some more."""
        self._kept = (self._kept + data)[-STDERR_CHARS:]

    def __str__(self) -> str:
        return self._kept.decode(errors="replace").strip()


@asynccontextmanager
async def running(
    program: Program, sandbox: Sandbox | None, guard: Guard, tail: Tail
) -> AsyncIterator[TransportStreams]:
    """The program, started; everything of it is dead on return.

    Raises:
        AgentRuntimeError: it cannot be started; says why.
    """
    ends = [*os.pipe(), *os.pipe(), *os.pipe()]
    theirs, ours = (ends[0], ends[3], ends[5]), (ends[1], ends[2], ends[4])
    for fd in ours:
        os.set_blocking(fd, False)
    opened = set(ends)

    def close(*fds: int) -> None:
        for fd in opened.intersection(fds):
            opened.discard(fd)
            os.close(fd)

    read_in, read_out = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write_in, write_out = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tg:
            life = _Life(guard)
            if program.server.sandbox == "on":
                tg.start_soon(_sandboxed, program, sandbox, theirs, life, close)
            else:
                await tg.start(_bare, program, theirs, life, close)
            tg.start_soon(_listen, ours[1], read_in, life, program.server.result_bytes)
            tg.start_soon(_keep_tail, ours[2], tail, life)
            tg.start_soon(_speak, ours[0], write_out, close)
            try:
                yield read_out, write_in
            finally:
                tg.cancel_scope.cancel()
    finally:
        for stream in (read_in, read_out, write_in, write_out):
            stream.close()
        close(*ends)


# ---- starting ------------------------------------------------------------------------------


async def _sandboxed(
    program: Program,
    sandbox: Sandbox | None,
    theirs: tuple[int, int, int],
    life: _Life,
    close: _Close,
) -> None:
    chosen = sandbox
    if (choose := getattr(sandbox, "chosen", None)) is not None:
        try:
            chosen = await choose()
        except AgentRuntimeError as error:
            life.guard.cut(f"its sandbox does not start: {error}", breach=False)
            return
    if not isinstance(chosen, Attaches):
        life.guard.cut(
            "there is no sandbox that could run it; `sandbox: off` in its declaration runs it with "
            "your own rights",
            breach=False,
        )
        return
    server = program.server
    spec = SandboxSpec(
        owner_id=f"mcp-{program.name}",
        workspace=server.cwd or program.home,
        mount=server.cwd or "/workspace",
        python=sys.prefix,
        layers=tuple(Layer(path, path) for path in server.read),
        env=dict(program.env),
        chown=not server.cwd,
        network=server.network,
        egress=tuple(server.egress),
        egress_place=f"mcp_servers.{program.name}.egress",
        limits=SandboxLimits(),
    )
    try:
        code = await chosen.run_attached(spec, program.argv, stdio=theirs)
    except AgentRuntimeError as error:
        life.guard.cut(f"it does not start in the sandbox: {error}", breach=False)
    else:
        close(*theirs)  # or its pipes would never end
        await life.ended(code)
    finally:
        close(*theirs)


async def _bare(
    program: Program,
    theirs: tuple[int, int, int],
    life: _Life,
    close: _Close,
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    kept = {key: os.environ[key] for key in ("HOME", "PATH", "LANG", "TMPDIR") if key in os.environ}
    try:
        process = await anyio.open_process(
            list(program.argv),
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=theirs[2],
            env={**kept, **program.env},
            cwd=program.server.cwd or program.home,
            start_new_session=True,
        )
    except OSError as error:
        life.guard.cut(f"it does not start: {error}", breach=False)
        task_status.started()
        return
    close(*theirs)
    task_status.started()
    try:
        await life.ended(await process.wait())
    finally:
        with anyio.CancelScope(shield=True):
            # `_speak` is cancelled beside us and closes its input: most programs leave then.
            with anyio.move_on_after(LEAVE_SECONDS):
                await process.wait()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


# ---- bytes ---------------------------------------------------------------------------------


async def _listen(fd: int, into: _Into, life: _Life, line_bytes_max: int) -> None:
    guard, buffer, unasked = life.guard, bytearray(), 0
    while data := await _read(fd):
        searched = len(buffer)
        buffer += data
        while (end := buffer.find(b"\n", searched)) != -1:
            line, searched = bytes(buffer[:end]).strip(), 0
            del buffer[: end + 1]
            if len(line) > line_bytes_max:
                break
            unasked += len(line)
            if not line:
                continue
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValidationError:
                guard.no_message(line[:100].decode(errors="replace"))
                continue
            if isinstance(message, JSONRPCResponse | JSONRPCError):
                unasked = 0
            try:
                await into.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
        if len(buffer) > line_bytes_max or end != -1:
            guard.cut(f"it sent a message of more than {line_bytes_max:,} bytes")
            return
        if unasked > UNASKED_FACTOR * line_bytes_max:
            guard.cut(f"it floods: {unasked:,} bytes that nobody asked for")
            return
    await life.silent()


async def _speak(fd: int, out: _Out, close: _Close) -> None:
    try:
        async for item in out:
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            left = memoryview(text.encode() + b"\n")
            while left:
                try:
                    left = left[os.write(fd, left) :]
                except BlockingIOError:
                    await anyio.wait_writable(fd)
    except OSError:
        pass  # it has ended, or closed its input: who waits for it hears that
    finally:
        out.close()
        close(fd)


async def _keep_tail(fd: int, tail: Tail, life: _Life) -> None:
    while data := await _read(fd):
        tail.add(data)
    life.errors_ended.set()


async def _read(fd: int) -> bytes:
    while True:
        try:
            # Asked first: one that always has something must not keep the loop to itself.
            await anyio.wait_readable(fd)
            return os.read(fd, READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            return b""
