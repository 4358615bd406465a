"""A live worker, as the daemon sees it: calls that overlap on one stream.

There is no task in the background: of those who wait for an answer, one reads for all of them and
hands the reading over when its own answer is there. A caller that is cancelled leaves half-read and
half-written frames in the session's buffers, where the next one goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import anyio
import msgspec

from agent_runtime.errors import DeadlineExceeded, PreviewFailed, UsageError, WorkerLost
from agent_runtime.ports.sandbox import SandboxLimits
from agent_runtime.sandboxes import cgroups, disk, frames
from agent_runtime.sandboxes.egress import Gate
from agent_runtime.sandboxes.frames import Answer, Request
from agent_runtime.sandboxes.launching import Ended, Running
from agent_runtime.types import Json, ToolCall, ToolInfo, ToolResult

UNENCODABLE: Final = (TypeError, OverflowError, ValueError, msgspec.MsgspecError)
"""What `frames.encode` raises for arguments that no frame can hold."""
CLOSE_SECONDS_MAX: Final = 5.0
Rewrite = Callable[[ToolCall], ToolCall]


class _Waiting:
    """One request in flight."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.wake = anyio.Event()


class WorkerSession:
    """Implements `ports.SandboxSession` for every kind that runs a worker."""

    def __init__(
        self,
        channel: socket.socket,
        running: Running,
        *,
        limits: SandboxLimits,
        workspace: str,
        rewrite: Rewrite,
        gate: Gate | None = None,
        closed: Callable[[], None] | None = None,
    ) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._running = running
        self._rewrite = rewrite
        self._gate = gate
        self._closed = closed
        self._limits = limits
        self._workspace = workspace
        self._output_bytes = limits.output_bytes
        self._oom_kills = 0
        """That were told already."""
        self._numbers = itertools.count(1)
        self._in = bytearray()
        self._out = bytearray()
        self._writing = anyio.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._has_reader = False
        self._lost = ""
        """Why there will be no more answers."""
        self._ended: Ended | None = None
        self._frozen = False
        self._deadlines: dict[anyio.CancelScope, float] = {}
        """Of the calls in flight; while all is frozen, what is left of each."""

    async def hello(self, env: Mapping[str, str]) -> None:
        """Wait until the worker is there. `WorkerLost` if it never is."""
        request = Request(number=0, op="hello", env=dict(env), output_bytes=self._output_bytes)
        await self._ask(0, frames.encode(request))

    async def ping(self) -> None:
        """Return when the worker has answered; `WorkerLost` as `call`."""
        number = next(self._numbers)
        await self._guarded(number, frames.encode(Request(number=number, op="ping")))

    def _framed(self, op: str, info: ToolInfo, call: ToolCall) -> tuple[int, bytes]:
        """A request about one call, and its number. Raises one of `UNENCODABLE`."""
        number = next(self._numbers)
        request = Request(
            number=number, op=op, source=info.source, tool=info.name, call=self._rewrite(call)
        )
        return number, frames.encode(request)

    async def call(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> ToolResult:
        """See `ports.SandboxSession.call`."""
        try:
            number, frame = self._framed("call", info, call)
        except UNENCODABLE as error:
            return ToolResult(
                ok=False, kind="bad_input", output=f"{info.name}: the arguments: {error}"
            )
        answer = await self._in_time(number, frame, deadline_seconds, what=f"{info.name!r}")
        assert answer.result is not None
        return answer.result if answer.result.ok else self._explained(answer.result)

    async def preview(self, info: ToolInfo, call: ToolCall, *, deadline_seconds: float) -> str:
        """See `ports.SandboxSession.preview`."""
        try:
            number, frame = self._framed("preview", info, call)
        except UNENCODABLE as error:
            raise PreviewFailed(f"the arguments: {error}") from error
        with anyio.move_on_after(math.inf if self._frozen else deadline_seconds) as scope:
            self._deadlines[scope] = deadline_seconds
            try:
                answer = await self._guarded(number, frame)
            finally:
                del self._deadlines[scope]
        if scope.cancelled_caught:
            raise PreviewFailed(f"it was not made within {deadline_seconds:g} s")
        if answer.error:
            raise PreviewFailed(answer.error)
        return answer.value if isinstance(answer.value, str) else ""

    async def render(
        self, template: Json, variables: Mapping[str, Json], *, deadline_seconds: float
    ) -> Json:
        """See `ports.SandboxSession.render`."""
        request = Request(
            number=next(self._numbers),
            op="render",
            template=template,
            variables=dict(variables),
            output_bytes=self._output_bytes,
            seconds=deadline_seconds * 0.8,  # the worker answers before its sandbox must die
        )
        try:
            frame = frames.encode(request)
        except UNENCODABLE as error:
            raise UsageError(f"the template or its variables are no JSON: {error}") from error
        answer = await self._in_time(request.number, frame, deadline_seconds, what="a template")
        if answer.error:
            raise UsageError(answer.error)
        return answer.value

    async def freeze(self) -> None:
        """See `ports.SandboxSession.freeze`."""
        if self._frozen or self._lost:
            return
        self._frozen = True
        now = anyio.current_time()
        for scope in self._deadlines:
            self._deadlines[scope] = scope.deadline - now
            scope.deadline = math.inf
        await self._running.freeze()

    async def thaw(self) -> None:
        """Let it go on."""
        if not self._frozen:
            return
        self._frozen = False
        await self._running.thaw()
        now = anyio.current_time()
        for scope, left in self._deadlines.items():
            scope.deadline = now + left

    async def close(self) -> None:
        """Kill everything inside; `WorkerLost` only if something survives a SIGKILL."""
        self._lose("the session was closed")
        with suppress(OSError):  # closed already, or the worker is dead
            self._channel.shutdown(socket.SHUT_RDWR)  # wakes the reader
        self._ended = await self._running.end()
        with anyio.move_on_after(CLOSE_SECONDS_MAX, shield=True):
            while self._has_reader:  # it still has the descriptor registered
                await anyio.sleep(0)
        self._channel.close()
        if self._gate is not None:
            await self._gate.close()
        if self._closed is not None:
            self._closed()
        if not self._ended.dead:
            raise WorkerLost(
                "a process of the sandbox does not die of SIGKILL: it is stuck in the kernel"
            )

    @property
    def ended(self) -> Ended | None:
        """What the keeper reported, known once the session is closed."""
        return self._ended

    def last_words(self) -> str:
        """What the worker wrote to its stderr, known once the session is closed."""
        if self._ended is None:
            return ""
        text = self._ended.output.decode(errors="replace").strip()
        if self._ended.oom_kills > self._oom_kills:
            note = cgroups.oom_note(self._ended.oom_kills - self._oom_kills, self._limits)
            text = f"{text}\n{note}".strip()
        return self._ended.failure[1] if self._ended.failure else text

    def _explained(self, result: ToolResult) -> ToolResult:
        """A failure, with the limit named that was reached meanwhile: memory, or the disk."""
        notes = []
        if (kills := self._running.oom_kills()) > self._oom_kills:
            notes.append(cgroups.oom_note(kills - self._oom_kills, self._limits))
            self._oom_kills = kills
        if note := disk.full_note(self._workspace, result.output):
            notes.append(note)
        if not notes:
            return result
        said = "\n".join(notes)
        raw = None if result.raw is None else result.raw + f"\n{said}\n".encode()
        return dataclasses.replace(result, output=f"{result.output}\n{said}".strip(), raw=raw)

    # ---- deadlines and deaths ------------------------------------------------------------

    async def _in_time(self, number: int, frame: bytes, seconds: float, *, what: str) -> Answer:
        with anyio.move_on_after(math.inf if self._frozen else seconds) as scope:
            self._deadlines[scope] = seconds
            try:
                return await self._guarded(number, frame)
            finally:
                del self._deadlines[scope]
        # Only now is it certain that nothing more will be done for this call.
        self._lose(f"the deadline of {what} ended the sandbox")
        await self.close()
        raise DeadlineExceeded(
            f"{what} had no result within {seconds:g} s; everything in its sandbox is dead"
        )

    async def _guarded(self, number: int, frame: bytes) -> Answer:
        try:
            return await self._ask(number, frame)
        except WorkerLost as error:
            await self.close()
            words = self.last_words()
            if not words:
                raise
            raise WorkerLost(f"{error}; its last words: {words[-1000:]}") from error

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = reason
        for waiting in self._waiting.values():
            waiting.wake.set()

    # ---- the stream ----------------------------------------------------------------------

    async def _ask(self, number: int, frame: bytes) -> Answer:
        waiting = self._waiting[number] = _Waiting()
        try:
            if not self._lost:
                await self._send(frame)
            while waiting.answer is None:
                if self._lost:
                    raise WorkerLost(f"no answer from the sandbox: {self._lost}")
                if self._has_reader:
                    await waiting.wake.wait()
                    waiting.wake = anyio.Event()
                else:
                    await self._read_until(waiting)
            return waiting.answer
        finally:
            del self._waiting[number]
            self._hand_over()

    async def _read_until(self, waiting: _Waiting) -> None:
        self._has_reader = True
        try:
            while waiting.answer is None and not self._lost:
                await self._receive()
        finally:
            self._has_reader = False

    def _hand_over(self) -> None:
        """Wake one of those who wait, so that somebody reads."""
        if not self._has_reader:
            for waiting in self._waiting.values():
                if waiting.answer is None:
                    waiting.wake.set()
                    return

    async def _receive(self) -> None:
        """Read what is there and hand out the answers in it."""
        try:
            data = self._channel.recv(1 << 18)
        except BlockingIOError:
            await anyio.wait_readable(self._channel)
            return
        except OSError:
            data = b""
        if not data:
            self._lose("the worker ended")
            return
        self._in += data
        position, header = 0, frames.LENGTH.size
        while len(self._in) - position >= header:
            (length,) = frames.LENGTH.unpack_from(self._in, position)
            if length > frames.bytes_max(self._output_bytes):
                self._lose(f"the worker sent a frame of {length} bytes")
                return
            if len(self._in) - position < header + length:
                break
            body = bytes(self._in[position + header : position + header + length])
            position += header + length
            self._dispatch(body)
        del self._in[:position]

    def _dispatch(self, body: bytes) -> None:
        try:
            answer = frames.decode_answer(body)
        except msgspec.MsgspecError as error:
            self._lose(f"the worker's answer cannot be read: {error}")
            return
        waiting = self._waiting.get(answer.number)  # None: its caller was cancelled
        if waiting is not None:
            waiting.answer = answer
            waiting.wake.set()

    async def _send(self, frame: bytes) -> None:
        self._out += frame
        async with self._writing:
            while self._out:
                try:
                    del self._out[: self._channel.send(self._out)]
                except BlockingIOError:
                    await anyio.wait_writable(self._channel)
                except OSError:
                    self._lose("the worker ended")
                    return


def same(call: ToolCall) -> ToolCall:
    """Paths inside are what the call says."""
    return call


def moved(*, mount: str, workspace: str, inner_home: str, home: str) -> Rewrite:
    """For a kind without mounts: the call's workspace and HOME are where they are on the host."""

    def rewrite(call: ToolCall) -> ToolCall:
        return dataclasses.replace(
            call,
            workspace=workspace if call.workspace == mount else call.workspace,
            home=home if call.home in ("", inner_home) else call.home,
        )

    return rewrite
