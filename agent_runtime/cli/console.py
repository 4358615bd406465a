"""What every verb shares: settings from the flags, an event loop, and careful output.

Text for people is cleaned of control characters, because goals, paths and tool output come from
repositories; JSON is for programs and goes out as it is.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import shlex
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from agent_runtime.cli.logs import JsonFormatter
from agent_runtime.cli.reach import complete_task
from agent_runtime.errors import AgentRuntimeError, UsageError
from agent_runtime.types import Json, Row

if TYPE_CHECKING:
    from agent_runtime.runtime import Runtime
    from agent_runtime.settings import Settings

# Stores, sandboxes and settings take a second to import, and a verb that asks a daemon does without
# them: they are imported where they are used.

unsafe_option = click.option(
    "--unsafe-no-sandbox",
    is_flag=True,
    help="Run tools with no protection at all, with your own rights.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
"""On every verb that prints data."""

task_argument = click.argument("task", metavar="TASK", shell_complete=complete_task)
"""An id, or the beginning or the end of one."""

LOG_LEVEL = "warning"
"""Of the command line, where no setting says otherwise."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Everything that could move a terminal's cursor or turn the direction of writing; not tab, LF."""


def settings_of(ctx: click.Context, *, log_level: str = LOG_LEVEL) -> Settings:
    """The settings with the global flags on top; starts logging at their level.

    `log_level`: where no setting says otherwise.
    """
    from agent_runtime.settings import load_settings

    settings = load_settings(ctx.obj)
    # A person at a terminal wants less than a daemon's log, unless told otherwise.
    level = settings.log_level if "log_level" in settings.model_fields_set else log_level
    handler = logging.StreamHandler()
    text = _CleanFormatter("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    return settings


def with_runtime(
    ctx: click.Context,
    do: Callable[[Runtime], Awaitable[int | None]],
    *,
    unsafe_no_sandbox: bool = False,
) -> int:
    """Run `do` with an open runtime on an event loop; its result is the exit code."""
    from agent_runtime.app import open_runtime

    settings = settings_of(ctx)

    async def main() -> int | None:
        async with open_runtime(settings, unsafe_no_sandbox=unsafe_no_sandbox) as runtime:
            return await do(runtime)

    return run_loop(main)


def run_loop(main: Callable[[], Awaitable[int | None]]) -> int:
    """Run `main` to its end. Of a group of errors the one that matters is raised."""
    import anyio

    try:
        return anyio.run(main) or 0
    except BaseExceptionGroup as group:
        raise first_cause(group) from group


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first operating error of a group, else its first error."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            flat.append(error)
    return next((error for error in flat if isinstance(error, AgentRuntimeError)), flat[0])


class _CleanFormatter(logging.Formatter):
    """Messages quote plug-ins, paths and git, none of which may write to the terminal as it is."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


# ---- output ------------------------------------------------------------------------------


def clean(text: str) -> str:
    """`text` without what a terminal would obey; line ends and tabs stay."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def one_line(text: str, chars_max: int = 200) -> str:
    """`text` as one line of at most `chars_max`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


def say(text: str = "") -> None:
    """A line for people on stdout, at once."""
    click.echo(clean(text))


def note(text: str) -> None:
    """A line for people on stderr: what is not the data that was asked for."""
    with suppress(OSError):  # a terminal that is gone must not change how a verb ends
        click.echo(clean(text), err=True)


def write_output(path: str, data: bytes) -> None:
    """Write a file that an option names, all of it or nothing; a link in its place is followed.

    Raises:
        UsageError: it cannot be written.
    """
    target = os.path.realpath(path)
    # A device such as /dev/stdout cannot be replaced.
    whole = not os.path.exists(target) or os.path.isfile(target)
    partial = f"{target}.{os.getpid()}.part" if whole else target
    try:
        with open(partial, "wb") as file:
            file.write(data)
        if whole:
            os.replace(partial, target)
    except OSError as error:
        if whole:
            with suppress(OSError):
                os.unlink(partial)
        raise UsageError(f"{path!r} cannot be written: {error.strerror}") from error


def silence() -> None:
    """Nobody reads stdout any more: what is still written to it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit(value: Json) -> None:
    """One JSON document, readable."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def emit_line(value: Json) -> None:
    """One JSON value as one line, at once."""
    click.echo(msgspec.json.encode(value).decode())


def row_json(row: Row) -> dict[str, Json]:
    """A stored event as the log has it. `data` keeps its very bytes: hashes can be checked."""
    try:
        msgspec.json.decode(row.data)
        data: Any = msgspec.Raw(row.data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        data = row.data.decode("utf-8", "backslashreplace")  # damaged: shown as text
    return {**msgspec.structs.asdict(row), "data": data}


def table(rows: Sequence[Sequence[str]], *, heads: Sequence[str]) -> None:
    """Left-aligned columns; the last one takes what is left of the line."""
    cells = [[one_line(cell, 2000) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
    room = _columns() - sum(widths[:-1]) - 2 * (len(heads) - 1)
    for row in [list(heads), *cells]:
        row[-1] = one_line(row[-1], max(room, 20))
        pairs = zip(row, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in pairs).rstrip())


def _columns() -> int:
    return shutil.get_terminal_size().columns if is_terminal() else 10_000


def at(at_us: int) -> str:
    """A moment, in UTC, as JSON has it."""
    moment = datetime.fromtimestamp(at_us / 1e6, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(at_us: int) -> str:
    """A moment of the day as people have it, in their own zone."""
    return datetime.fromtimestamp(at_us / 1e6).astimezone().strftime("%H:%M:%S")


def lasted(seconds: float) -> str:
    """A duration, in at most five characters: 0.4s, 12s, 3m05, 2h10, 4d."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}"
    if seconds < 86_400:
        return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}"
    return f"{seconds // 86_400:.0f}d"


def short_ids(task_ids: Sequence[str]) -> dict[str, str]:
    """The shortest ends of ids, of eight digits or more, that tell them apart.

    Ends, because a UUIDv7 begins with the time: neighbours share their beginnings.
    """
    digits = 8
    while len({task_id[-digits:] for task_id in task_ids}) < len(set(task_ids)):
        digits += 4
    return {task_id: task_id[-digits:] for task_id in task_ids}


def short(task_id: str) -> str:
    """An id as messages name it: enough for `find`."""
    return task_id[-8:]


def is_terminal() -> bool:
    """Does a person look at stdout?"""
    return sys.stdout.isatty()


def command(verb: str, *words: str) -> str:
    """How to call another verb on the same store or daemon, to be pasted into a shell."""
    context = click.get_current_context(silent=True)
    given = context.find_root().params if context else {}
    store, url = given.get("store"), given.get("url")
    where = ("--store", store) if store else ("--url", url) if url else ()
    return shlex.join(["agent-runtime", *where, verb, *words])


def who() -> str:
    """Who sits at this command line, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def label_of(text: str) -> tuple[str, str]:
    """`KEY=VALUE` taken apart."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--label {text!r} must look like KEY=VALUE")
    return key, value
