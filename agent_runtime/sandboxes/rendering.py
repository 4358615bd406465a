"""Fill `{{ … }}` in the strings of a JSON value, where a bomb in a template harms nobody.

Runs in a process of the worker's own that has one thread: each template is filled in a forked child
with little memory, little CPU time and a deadline. Expressions only: statements and comments are
refused. A string that is one whole expression keeps the type of its value; one that is a whole
`{% raw %}` block is its inside.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shlex
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, Undefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment

from agent_runtime.sandboxes import frames
from agent_runtime.sandboxes.frames import Answer, Request
from agent_runtime.types import Json

SECONDS_MAX: Final = 3.0
CPU_SECONDS_MAX: Final = 2
MEMORY_BYTES_MAX: Final = 192 << 20
"""Address space on top of what the process has when it is forked."""
DEPTH_MAX: Final = 100
NAMES_SHOWN_MAX: Final = 20
_NEVER: Final = "\x00never\x00"
"""Stands for the delimiters that are not used: `${#x}` of a shell is text like any other."""
_STATEMENT: Final = re.compile(r"\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_RAW: Final = re.compile(r"\s*\{% raw %\}\n?(.*)\{% endraw %\}\s*", re.DOTALL)
"""A whole text that is taken as it is, whatever it holds: a patch of a template, for one."""


class Fault(Exception):
    """The template is wrong; the message is for its author."""


class NamedUndefined(StrictUndefined):
    """Says what is missing and what there would be."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        name = self._undefined_name
        if isinstance(self._undefined_obj, Mapping):
            return f"{name!r} is not defined there; there are: {_names(self._undefined_obj)}"
        return str(super()._undefined_message)


class Expressions(SandboxedEnvironment):
    """Jinja2 without statements, and with a step called `items` reachable as `steps.items`."""

    def __init__(self) -> None:
        super().__init__(
            undefined=NamedUndefined,
            keep_trailing_newline=True,
            newline_sequence="\n",
            block_start_string=_NEVER + "b",
            block_end_string=_NEVER + "e",
            comment_start_string=_NEVER + "c",
            comment_end_string=_NEVER + "d",
        )
        self.globals = {"range": self.globals["range"], "dict": dict}
        self.filters["quote"] = quote

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def quote(value: Any) -> str:
    """One word of a shell's command, whatever is in it."""
    return shlex.quote(str(value))


def fill(template: Json, variables: Mapping[str, Json]) -> Json:
    """The value with every string filled. Raises `Fault`."""
    environment = Expressions()

    def walk(value: Json) -> Json:
        match value:
            case str():
                return fill_string(environment, value, variables)
            case list() | tuple():
                return [walk(item) for item in value]
            case dict():
                return {key: walk(item) for key, item in value.items()}
        return value

    return walk(template)


def fill_string(environment: Expressions, text: str, variables: Mapping[str, Json]) -> Json:
    """One string. Raises `Fault`."""
    if "{{" not in text and "{%" not in text and "{#" not in text:
        return text
    if raw := _RAW.fullmatch(text):
        return raw[1]
    try:
        tokens = list(environment.lex(text))
        for _, kind, piece in tokens:
            if kind == "data" and (found := _STATEMENT.search(piece)):
                raise Fault(
                    f"{found[0][:80]!r} in the template {text[:200]!r}: only expressions "
                    "'{{ … }}' are allowed, no statements and no comments; a text that is to be "
                    "taken as it is stands between {% raw %} and {% endraw %}"
                )
        kinds = [kind for _, kind, _ in tokens]
        if not kinds or "variable_begin" not in kinds:
            return text
        if "variable_end" not in kinds:
            raise Fault(f"the template {text[:200]!r} is not valid: '}}}}' is missing")
        whole = kinds[0] == "variable_begin" and kinds.index("variable_end") == len(kinds) - 1
        if whole:
            source = "".join(piece for _, _, piece in tokens[1:-1])
            value = environment.compile_expression(source, undefined_to_none=False)(**variables)
            return json_value(value, DEPTH_MAX)
        return environment.from_string(text).render(variables)
    except UndefinedError as error:
        raise Fault(
            f"the template {text[:200]!r} uses a name that has no value: {error.message}; "
            f"defined are: {_names(variables)}"
        ) from error
    except TemplateError as error:
        raise Fault(f"the template {text[:200]!r} is not valid: {error.message}") from error
    except (MemoryError, RecursionError, OverflowError) as error:
        raise Fault(
            f"the template {text[:200]!r} makes too large a value ({error or 'memory'})"
        ) from error
    except Fault:
        raise
    except Exception as error:
        raise Fault(
            f"the template {text[:200]!r} fails: {type(error).__name__}: {error}"
        ) from error


def json_value(value: Any, depth: int) -> Json:
    """A native value as JSON; an undefined one raises, wherever it hides."""
    if depth == 0:
        raise Fault("the value is nested too deeply")
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return str(value)
        case Mapping():
            return {str(key): json_value(item, depth - 1) for key, item in value.items()}
        case Iterable() if not isinstance(value, bytes):
            return [json_value(item, depth - 1) for item in value]
    raise Fault(f"the value is a {type(value).__name__}, which JSON does not have")


def answer(request: Request) -> bytes:
    """A frame with the filled value, or with the fault; never later than the deadline."""
    seconds = min(request.seconds, SECONDS_MAX)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read_end)
            limit()
            frames.write_all(write_end, _filled(request))
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    try:
        body, late = _collect(read_end, seconds, request.output_bytes)
    finally:
        os.close(read_end)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if body is not None:
        return body
    spent = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    reason = (
        f"took more than {CPU_SECONDS_MAX} s of CPU time or {seconds:g} s"
        if spent
        else f"makes a value that is larger than {request.output_bytes} bytes, or ran out of memory"
    )
    return frames.encode(Answer(number=request.number, error=f"a template {reason}"))


def _filled(request: Request) -> bytes:
    number = request.number
    try:
        return frames.encode(Answer(number=number, value=fill(request.template, request.variables)))
    except Fault as fault:
        return frames.encode(Answer(number=number, error=str(fault)))
    except (TypeError, OverflowError, ValueError) as error:
        return frames.encode(Answer(number=number, error=f"a template's value: {error}"))


def limit() -> None:
    """Bound the CPU time and the memory of this process."""
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS_MAX, CPU_SECONDS_MAX + 1))
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = used + MEMORY_BYTES_MAX
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _collect(fd: int, seconds: float, output_bytes: int) -> tuple[bytes | None, bool]:
    """(one whole frame or None, whether the time was over)."""
    end, data = time.monotonic() + seconds, b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while len(data) <= frames.LENGTH.size + output_bytes:
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000 + 1):
            return None, True
        chunk = os.read(fd, 1 << 20)
        if not chunk:
            whole = (
                len(data) >= frames.LENGTH.size
                and len(data) == frames.LENGTH.size + frames.LENGTH.unpack(data[:4])[0]
            )
            return (data, False) if whole else (None, False)
        data += chunk
    return None, False


def _names(mapping: Mapping[str, Json]) -> str:
    names = sorted(str(name) for name in mapping)
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) or "nothing"
    return shown + (f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > 20 else "")
