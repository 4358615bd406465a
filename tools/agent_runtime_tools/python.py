"""`python`: an interpreter of the task's own environment whose variables live from call to call.

It is a child process, so that the code it runs cannot reach into the worker. It is the task's
Python, first on the call's PATH, never the worker's. The driver inside it is `_interpreter`.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from agent_runtime.errors import ToolRefused
from agent_runtime.toolkit import OUTPUT_CHARS_MAX, cap, changes_workspace_unless_networked, tool
from agent_runtime.types import Json, ToolCall, ToolResult
from agent_runtime_tools import _packages, _places
from agent_runtime_tools._processes import (
    Ended,
    Kept,
    Pump,
    environment,
    kill_all,
    shell_exit,
)

if TYPE_CHECKING:  # every import here costs a worker's start
    from agent_runtime.ports import Tool

DRIVER: Final = os.path.join(os.path.dirname(__file__), "_interpreter.py")
TIMEOUT_SECONDS_MAX: Final = 86_400
ANSWER_BYTES_MAX: Final = 4 << 20
"""More than the longest repr that the driver sends."""
_DESCRIPTION: Final = """
Run Python code in an interpreter that keeps its variables from call to call.

Returns what the code printed, and the value of a last line that is an expression.
"""


def tools() -> Sequence[Tool]:
    """The entry point. Every list has interpreters of its own."""
    return [make_python(Interpreters())]


def make_python(interpreters: Interpreters) -> Tool:
    """The tool over given interpreters."""
    return tool(
        name="python",
        description=_DESCRIPTION,
        toolbelt="python",
        effect=changes_workspace_unless_networked,
        parameters={
            "code": {"type": "string", "description": "Python source."},
            "packages": {
                "type": "array",
                "items": {"type": "string", "minLength": 1},
                "maxItems": _packages.PACKAGES_MAX,
                "description": "To import, as 'requests>=2.31'; for this tool only.",
            },
            "timeout_seconds": {
                "type": "number",
                "minimum": 0.1,
                "maximum": TIMEOUT_SECONDS_MAX,
                "description": "Then it is killed.",
            },
        },
        required=("code",),
        blocking=interpreters.execute_blocking,
    )(interpreters.execute)


class _Answer(msgspec.Struct, frozen=True):
    """What the driver says of one request."""

    ok: bool
    value: str | None = None
    error: str | None = None


class Interpreters:
    """One interpreter for every workspace and agent that asked for one."""

    def __init__(self) -> None:
        self._live: dict[tuple[str, str, str], Interpreter] = {}

    async def execute(self, call: ToolCall) -> ToolResult:
        """Run the call's code in its interpreter; a cancelled call kills it."""
        # A worker never comes here, and starts faster without anyio.
        from anyio import to_thread

        interpreter = self._of(call)
        done = False
        try:
            result = await to_thread.run_sync(interpreter.run, call, abandon_on_cancel=True)
            done = True
        finally:
            if not done:
                interpreter.kill()
        return result

    def execute_blocking(self, call: ToolCall) -> ToolResult:
        """As `execute`, in the caller's thread."""
        return self._of(call).run(call)

    def _of(self, call: ToolCall) -> Interpreter:
        key = (call.workspace, call.task_id, call.agent_id)
        return self._live.setdefault(key, Interpreter())

    def close(self) -> None:
        """Kill them all."""
        for interpreter in self._live.values():
            interpreter.close()
        self._live.clear()


class Interpreter:
    """A Python process that may have to be started again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._env: dict[str, str] = {}
        self._requests = self._answers = -1
        self._lost = ""

    def run(self, call: ToolCall) -> ToolResult:
        """Run one call; calls wait for each other."""
        seconds = float(call.arguments.get("timeout_seconds", call.timeout_seconds))
        deadline = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            return ToolResult(
                ok=False, kind="timeout", exit=124, output="[another call has the interpreter]"
            )
        try:
            packages = self._packages(call, deadline)
            note = self._ready(call)
            kept, answer = Kept(), bytearray()
            request = {"code": call.arguments["code"], "packages": packages}
            ended = self._exchange(request, kept, answer, deadline)
            return self._result(ended, kept, answer, note=note, seconds=seconds)
        except _packages.NotInstalled as error:
            return error.result
        finally:
            self._lock.release()

    def kill(self) -> None:
        """Kill the process; whoever waits for it sees it end."""
        if (process := self._process) is not None:
            self._lost = self._lost or "its call was cancelled"
            kill_all(process, self._env)

    def close(self) -> None:
        """Kill it and give everything back."""
        self.kill()
        with self._lock:
            self._forget()

    def _packages(self, call: ToolCall, deadline: float) -> str:
        """Where the call's packages are; empty if it asks for none. Raises `NotInstalled`."""
        wanted: Sequence[str] = call.arguments.get("packages", ())
        if not wanted:
            return ""
        _packages.check(wanted)
        env = environment(call)
        return _packages.install(wanted, program=_program_of(env), env=env, deadline=deadline)

    def _ready(self, call: ToolCall) -> str:
        """Have a live process; returns what the caller must know about the one before."""
        if self._process is not None and self._process.poll() is not None:
            self._lost = self._lost or f"it ended with code {shell_exit(self._process.returncode)}"
        lost, self._lost = self._lost, ""
        if lost:
            self._forget()
        if self._process is None:
            self._start(call)
        return f"[the interpreter was restarted ({lost}): earlier variables are gone]\n" * bool(
            lost
        )

    def _start(self, call: ToolCall) -> None:
        env = environment(call)
        program = _program_of(env)
        workspace = _places.directory(call.workspace, ".")
        requests_there, self._requests = os.pipe()
        self._answers, answers_there = os.pipe()
        try:
            self._process = subprocess.Popen(
                [program, "-c", _driver(), str(requests_there), str(answers_there), workspace],
                cwd="/",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(requests_there, answers_there),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._requests)
            os.close(self._answers)
            raise ToolRefused(f"{program!r} cannot be started: {error.strerror}") from None
        finally:
            os.close(requests_there)
            os.close(answers_there)
        self._env = env

    def _exchange(self, request: Json, kept: Kept, answer: bytearray, deadline: float) -> Ended:
        process = self._process
        assert process is not None and process.stdout is not None
        # A long request fills the pipe before a busy interpreter reads it: write beside reading.
        sender = threading.Thread(target=_send, args=(self._requests, request), daemon=True)
        sender.start()
        pump = Pump(process, {process.stdout.fileno(): kept.add, self._answers: answer.extend})
        ended = pump.run(
            deadline=deadline,
            stop=lambda: answer.endswith(b"\n") or len(answer) > ANSWER_BYTES_MAX,
        )
        if ended != "stopped":
            if ended == "timeout":
                self._lost = "it was killed at its time limit"
                self.kill()
            process.wait()
            pump.linger()
        sender.join(timeout=1)
        return ended

    def _forget(self) -> None:
        if self._process is None:
            return
        with self._process:
            self.kill()
        os.close(self._requests)
        os.close(self._answers)
        self._process, self._requests, self._answers, self._lost = None, -1, -1, ""

    def _result(
        self, ended: Ended, kept: Kept, answer: bytearray, *, note: str, seconds: float
    ) -> ToolResult:
        printed = kept.content()
        text = printed.decode("utf-8", "replace")
        data: dict[str, Json] = {"value": None, "output_bytes": kept.bytes_seen}
        exit_code: int | None = None
        ok = False
        if ended == "stopped":
            told = self._understood(bytes(answer))
            ok, tail = told.ok, told.value or ""
            data |= {"value": told.value, "error": told.error}
        else:
            exit_code = 124 if ended == "timeout" else shell_exit(self._returncode())
            tail = (
                f"[timed out after {seconds:g} s: the interpreter was killed]"
                if ended == "timeout"
                else f"[the interpreter ended with code {exit_code}]"
            )
        exact = len(text) + len(tail) <= OUTPUT_CHARS_MAX and text.encode() == printed
        return ToolResult(
            ok=ok,
            output=_joined(note, text, tail),
            exit=exit_code,
            kind="" if ok else "timeout" if ended == "timeout" else "failed",
            data=data,
            raw=None if exact else printed + b"\n" + tail.encode(),
        )

    def _understood(self, answer: bytes) -> _Answer:
        """The code can write to any descriptor: an answer that is none costs it its interpreter."""
        try:
            return msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._lost = "its answer could not be read"
            self.kill()
            return _Answer(ok=False, value="[the code wrote to the interpreter's own channel]")

    def _returncode(self) -> int:
        assert self._process is not None
        return self._process.wait()


def _program_of(env: Mapping[str, str]) -> str:
    program = _program(env["PATH"])
    if program is None:
        raise ToolRefused(
            f"there is no python3 or python on the task's PATH {env['PATH']!r}; "
            "name an environment with one in the task file (environment.python)"
        )
    return program


def _program(path: str) -> str | None:
    """The task's python3, or else its python. (Importing shutil costs a worker 3 ms.)"""
    candidates = (
        os.path.join(directory, name)
        for name in ("python3", "python")
        for directory in path.split(os.pathsep)
    )
    return next(
        (file for file in candidates if os.path.isfile(file) and os.access(file, os.X_OK)), None
    )


def _driver() -> str:
    # `serve` goes to the workspace and puts it on the path, later: since 3.13, `-c` itself imports
    # a module before its first line runs, which is why the process does not start there.
    with open(DRIVER, encoding="utf-8") as file:
        return "import sys; sys.path[:] = filter(None, sys.path)\n" + file.read()


def _send(descriptor: int, request: Json) -> None:
    data = msgspec.json.encode(request) + b"\n"
    with suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]


def _joined(note: str, text: str, tail: str) -> str:
    """The note whole, then what was printed and the value, each cut to its share."""
    value = cap(tail, OUTPUT_CHARS_MAX // 2 if text else OUTPUT_CHARS_MAX - len(note) - 1)
    printed = cap(text, OUTPUT_CHARS_MAX - len(note) - len(value) - 1)
    between = "\n" if printed and value and not printed.endswith("\n") else ""
    return f"{note}{printed}{between}{value}"
