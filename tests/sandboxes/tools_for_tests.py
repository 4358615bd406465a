"""Tools that the sandbox tests run in a worker. Importable there through `plugin_paths`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agent_runtime.errors import ToolRefused
from agent_runtime.types import Effect, EffectPolicy, ToolCall, ToolResult

SOURCE = "tools_for_tests:tools"


class FunctionTool:
    """The smallest thing that fits `ports.Tool`."""

    toolbelt = "standard"
    where = "worker"
    parameters: Mapping[str, Any] = {"type": "object"}

    def __init__(self, function: Callable[[ToolCall], Awaitable[ToolResult]]) -> None:
        self.name = function.__name__
        self.description = self.name
        self._function = function

    def effect(self, arguments: Mapping[str, Any], policy: EffectPolicy) -> Effect:
        return Effect.READ

    async def execute(self, call: ToolCall) -> ToolResult:
        return await self._function(call)


class Cheap(FunctionTool):
    """Needs no event loop."""

    def execute_blocking(self, call: ToolCall) -> ToolResult:
        return ToolResult(ok=True, output="x" * 500)


class Foreseen(FunctionTool):
    """Says what it would do; `how` is one of the ways in which that can go."""

    async def preview(self, call: ToolCall) -> str:
        match call.arguments["how"]:
            case "refused":
                raise ToolRefused("'a' is protected")
            case "broken":
                raise ValueError("the tool has a fault")
            case "late":
                await asyncio.sleep(60)
            case "large":
                return "x" * (40 << 20)
            case "odd":
                return "caf\udce9"
            case "die":
                os._exit(3)
        return f"+{call.arguments['how']} in {os.path.basename(call.workspace)}"


class ForeseenCheaply(Foreseen):
    """Without an event loop."""

    def preview_blocking(self, call: ToolCall) -> str:
        return "+blocking"


async def foreseen(call: ToolCall) -> ToolResult:
    raise AssertionError("a preview runs nothing")


async def foreseen_cheaply(call: ToolCall) -> ToolResult:
    raise AssertionError("a preview runs nothing")


async def echo(call: ToolCall) -> ToolResult:
    return ToolResult(ok=True, output=str(call.arguments["text"]), data=dict(call.arguments))


async def cheap(call: ToolCall) -> ToolResult:
    raise AssertionError("the worker calls execute_blocking")


async def where(call: ToolCall) -> ToolResult:
    data = {
        "cwd": os.getcwd(),
        "workspace": call.workspace,
        "home": call.home,
        "env": dict(call.env),
        "path": sys.path,
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "thread": threading.current_thread() is threading.main_thread(),
    }
    return ToolResult(ok=True, data=data)


async def shell(call: ToolCall) -> ToolResult:
    done = subprocess.run(
        ["/bin/sh", "-c", call.arguments["command"]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(call.env),
        check=False,
    )
    return ToolResult(ok=done.returncode == 0, exit=done.returncode, raw=done.stdout)


async def nap(call: ToolCall) -> ToolResult:
    await asyncio.sleep(call.arguments["seconds"])
    return ToolResult(ok=True, output="slept")


async def block(call: ToolCall) -> ToolResult:
    time.sleep(call.arguments["seconds"])
    return ToolResult(ok=True, output="blocked")


async def refuse(call: ToolCall) -> ToolResult:
    raise ToolRefused("'conftest.py' is protected", paths=("conftest.py",))


async def fail(call: ToolCall) -> ToolResult:
    raise ValueError("the tool has a fault")


async def chatter(call: ToolCall) -> ToolResult:
    print("on stdout")
    os.write(1, b"\x00\x00\x00\x05straight to the descriptor")
    subprocess.run(["/bin/echo", "from a child"], check=True)
    return ToolResult(ok=True, output="quiet")


async def large(call: ToolCall) -> ToolResult:
    size = call.arguments["bytes"]
    text = "h" + "x" * size + "t"
    return ToolResult(ok=True, output=text, raw=text.encode(), data=call.arguments.get("data"))


async def odd(call: ToolCall) -> ToolResult:
    return ToolResult(ok=True, output="name \udcff", data={"key": ["\udcfe"]}, paths=("\udcfd",))


async def no_json(call: ToolCall) -> ToolResult:
    return ToolResult(ok=True, data={"value": object()})


async def no_result(call: ToolCall) -> ToolResult:
    return "text"  # type: ignore[return-value]


async def no_kind(call: ToolCall) -> ToolResult:
    return ToolResult(ok=False, kind="weird")  # type: ignore[arg-type]


async def no_text(call: ToolCall) -> ToolResult:
    return ToolResult(ok=True, output=5)  # type: ignore[arg-type]


async def die(call: ToolCall) -> ToolResult:
    os._exit(3)


async def spend(call: ToolCall) -> ToolResult:
    held = bytearray(b"x" * (call.arguments["mebibytes"] << 20))
    return ToolResult(ok=True, output=f"{len(held)} bytes held")


async def burn(call: ToolCall) -> ToolResult:
    end = time.process_time() + call.arguments["seconds"]
    while time.process_time() < end:
        pass
    return ToolResult(ok=True)


async def detach(call: ToolCall) -> ToolResult:
    """Leave a grandchild that has a session, and nobody, of its own; then wait for ever."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", [call.arguments["name"], "600"])
        os._exit(0)
    await asyncio.sleep(600)
    return ToolResult(ok=True)


def tools() -> Sequence[FunctionTool]:
    plain = (echo, where, shell, nap, block, refuse, fail, chatter, large, odd, die, detach)
    hungry = (spend, burn)
    broken = (no_json, no_result, no_kind, no_text)
    previewed = [Foreseen(foreseen), ForeseenCheaply(foreseen_cheaply)]
    others = [FunctionTool(function) for function in (*plain, *hungry, *broken)]
    return [*others, Cheap(cheap), *previewed]
