"""What the worker does: run tools for the daemon, several at a time, and fill templates.

Every call has a thread of its own with an event loop of its own: a tool that blocks holds up
nobody. The main thread only reads. The daemon's stream is moved away from fds 0 to 2 first, so that
whatever a tool prints goes to the daemon's notes and never into the stream.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent_runtime.errors import ToolRefused
from agent_runtime.sandboxes import frames
from agent_runtime.sandboxes.frames import Answer, Request
from agent_runtime.types import ToolCall, ToolResult, checked_result

if TYPE_CHECKING:  # every import here costs each sandbox's start
    from agent_runtime.ports.tools import Tool

PR_SET_DUMPABLE: Final = 4
TRACEBACK_CHARS_MAX: Final = 4000
NOTE_CHARS_MAX: Final = 64


def serve() -> None:
    """Answer requests until the daemon closes the channel, then end the process."""
    channel = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    _protect()
    renderer = start_renderer(channel)  # forked while there is but one thread
    server = Server(channel, renderer)
    while body := frames.read_frame(channel):
        server.take(frames.decode_request(body))
    os._exit(0)


def _protect() -> None:
    """Commands run as the same user; they must not open `/proc/<worker>/mem` or its descriptors."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def start_renderer(channel: int) -> int:
    """Fork the process that fills templates: its imports and its bombs are its own."""
    import socket

    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            os.close(channel)
            ours.close()
            fd = theirs.detach()
            while body := frames.read_frame(fd):
                from agent_runtime.sandboxes import rendering

                frames.write_all(fd, rendering.answer(frames.decode_request(body)))
        finally:
            os._exit(0)
    theirs.close()
    return ours.detach()


class Server:
    """The worker's state: who is idle, and where answers go."""

    def __init__(self, channel: int, renderer: int) -> None:
        self._channel = channel
        self._renderer = renderer
        self._writing = threading.Lock()
        self._rendering = threading.Lock()
        self._idle: list[Lane] = []
        self.output_bytes = 8 << 20

    def take(self, request: Request) -> None:
        """Answer at once, or hand to a thread."""
        match request.op:
            case "hello":
                os.environ.update(request.env)
                self.output_bytes = request.output_bytes
                self.send(Answer(number=request.number))
            case "ping":
                self.send(Answer(number=request.number))
            case _:
                try:
                    lane = self._idle.pop()
                except IndexError:
                    lane = Lane(self)
                lane.jobs.put(request)

    def perform(self, lane: Lane, request: Request) -> None:
        """In a lane's thread: do it and answer."""
        if request.op == "render":
            self._render(request)
            return
        assert request.call is not None
        if request.op == "preview":
            self.send(_preview(lane, request, complete(request.call), self.output_bytes))
            return
        call = complete(request.call)
        try:
            tool = load(request.source, request.tool)
            result = checked_result(request.tool, lane.run(tool, call))
        except ToolRefused as refusal:
            result = ToolResult(
                ok=False, kind="refused", output=str(refusal), paths=tuple(refusal.paths)
            )
        except BaseException as error:  # noqa: BLE001 - the border: a tool's failure is data
            result = _internal(error)
        self._send_result(request.number, result)

    def free(self, lane: Lane) -> None:
        """The lane's thread waits for more."""
        self._idle.append(lane)

    def send(self, answer: Answer) -> None:
        """One frame, whole. Raises what `frames.encode` raises."""
        frame = frames.encode(answer)
        with self._writing:
            frames.write_all(self._channel, frame)

    def _send_result(self, number: int, result: ToolResult) -> None:
        result = cut(result, self.output_bytes)
        try:
            frame = frames.encode(Answer(number=number, result=result))
            if len(frame) > frames.bytes_max(self.output_bytes):
                note = f"\n[the result's data of {len(frame)} bytes was left out]"
                result = dataclasses.replace(result, data=None, output=result.output + note)
                frame = frames.encode(Answer(number=number, result=result))
        except UnicodeError:
            frame = frames.encode(Answer(number=number, result=_printable(result)))
        except (TypeError, OverflowError, ValueError, msgspec.MsgspecError) as error:
            result = _internal(error)
            frame = frames.encode(Answer(number=number, result=result))
        with self._writing:
            frames.write_all(self._channel, frame)

    def _render(self, request: Request) -> None:
        with self._rendering:
            frames.write_all(self._renderer, frames.encode(request))
            body = frames.read_frame(self._renderer)
        if body is None:
            self.send(Answer(number=request.number, error="the process that fills templates ended"))
            return
        with self._writing:
            frames.write_all(self._channel, frames.LENGTH.pack(len(body)) + body)


class Lane:
    """A thread that runs one call at a time, with an event loop that it keeps."""

    def __init__(self, server: Server) -> None:
        self.jobs: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._server = server
        self._runner: Any = None
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, tool: Tool, call: ToolCall) -> ToolResult:
        """A tool with an `execute_blocking` needs no event loop, which saves a cold start 90 ms."""
        blocking = getattr(tool, "execute_blocking", None)
        if blocking is not None:
            result: ToolResult = blocking(call)
            return result
        result = self._awaited(tool.execute(call))
        return result

    def preview(self, tool: Tool, call: ToolCall) -> str:
        """What a tool says that a call would change; empty if it says nothing."""
        blocking = getattr(tool, "preview_blocking", None)
        if blocking is not None:
            return str(blocking(call))
        made = getattr(tool, "preview", None)
        return "" if made is None else str(self._awaited(made(call)))

    def _awaited(self, made: Any) -> Any:
        if self._runner is None:
            # A tool may use anyio or asyncio itself; a loop that lives as long as its thread makes
            # a warm call cheap, and only `asyncio.Runner` keeps one.
            import asyncio  # noqa: TID251

            self._runner = asyncio.Runner()
        return self._runner.run(made)

    def _work(self) -> None:
        while True:
            request = self.jobs.get()
            try:
                self._server.perform(self, request)
            except BaseException:  # noqa: BLE001 - the border: an answer is lost, the daemon must hear
                import traceback

                traceback.print_exc()
                os._exit(70)
            self._server.free(self)


@functools.cache
def tools_of(source: str) -> dict[str, Tool]:
    """The tools of `module:attribute`, by name."""
    module_name, _, attribute = source.partition(":")
    made: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        made = getattr(made, part)
    tools: Sequence[Tool] = made()
    return {tool.name: tool for tool in tools}


def load(source: str, name: str) -> Tool:
    """One tool, imported on first use."""
    tools = tools_of(source)
    if name not in tools:
        raise LookupError(f"{source!r} makes no tool {name!r}; it makes {', '.join(sorted(tools))}")
    return tools[name]


def complete(call: ToolCall) -> ToolCall:
    """A call with the sandbox's variables below its own, and the sandbox's HOME if it has none."""
    home = call.home or os.environ.get("HOME", "")
    return dataclasses.replace(call, env={**os.environ, **call.env}, home=home)


def cut(result: ToolResult, limit: int) -> ToolResult:
    """Head and tail of what is too long."""
    output, raw = result.output, result.raw
    if len(output) > limit // 4 and len(output.encode(errors="replace")) > limit:
        half = max(limit // 2 - NOTE_CHARS_MAX, 0)
        data = output.encode(errors="replace")
        note = f"\n[... {len(data) - 2 * half} bytes left out ...]\n"
        head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
        output = head + note + (tail if half else "")
    if raw is not None and len(raw) > limit:
        half = max(limit // 2 - NOTE_CHARS_MAX, 1)
        note_bytes = b"\n[... %d bytes left out ...]\n" % (len(raw) - 2 * half)
        raw = raw[:half] + note_bytes + raw[-half:]
    if output is result.output and raw is result.raw:
        return result
    return dataclasses.replace(result, output=output, raw=raw)


def _preview(lane: Lane, request: Request, call: ToolCall, limit: int) -> Answer:
    try:
        text = lane.preview(load(request.source, request.tool), call)
        made = cut(ToolResult(ok=True, output=text), limit).output
        return Answer(number=request.number, value=_printed(made))
    except ToolRefused as refusal:
        error = f"the call would be refused: {refusal}"
    except BaseException as failure:  # noqa: BLE001 - the border: the person is told
        error = f"{type(failure).__name__}: {failure}"
    return Answer(number=request.number, error=_printed(error)[:TRACEBACK_CHARS_MAX])


def _printed(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _internal(error: BaseException) -> ToolResult:
    import traceback

    text = "".join(traceback.format_exception(error))
    if len(text) > TRACEBACK_CHARS_MAX:
        text = "[...]\n" + text[-TRACEBACK_CHARS_MAX:]
    return _printable(ToolResult(ok=False, kind="internal", output=text))


def _printable(result: ToolResult) -> ToolResult:
    """Without lone surrogates, which file names may bring and MessagePack refuses."""

    def clean(value: Any) -> Any:
        match value:
            case str():
                return value.encode(errors="backslashreplace").decode()
            case dict():
                return {clean(key): clean(item) for key, item in value.items()}
            case list() | tuple():
                return [clean(item) for item in value]
        return value

    return dataclasses.replace(
        result,
        output=clean(result.output),
        data=clean(result.data),
        paths=tuple(clean(path) for path in result.paths),
    )
