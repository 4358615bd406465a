"""`mcp`: tools and tasks for IDEs and Claude Desktop, as MCP servers on stdin and stdout.

What speaks the protocol is a plug-in of the runtime, found by its entry point. Nothing here may be
slow: a client starts one such process for each of its windows and waits for it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from agent_runtime.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

GROUP: Final = "agent_runtime.mcp_servers"
FRONTS: Final = "agent_runtime.mcp_fronts"
"""What connects stdin and stdout with a server of the daemon."""
DISTRIBUTION: Final = "agent-runtime"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")


OF_OTHERS: Final = {
    "servers": "List the external MCP servers, and what is to be done about them.",
    "add": "Declare an external MCP server.",
    "remove": "Forget an external MCP server that was added.",
    "check": "Ask an external MCP server what it offers.",
    "consent": "Allow the tools of an external MCP server, as they are now.",
}
"""Verbs about other people's servers, and their lines of help: their file is imported when one of
them is used, because our own must start at once."""


class Servers(click.Group):
    """The servers that we know, whatever else the daemon has at /mcp/NAME, and those of others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *OF_OTHERS]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        ours = [(n, c.get_short_help_str(100)) for n, c in sorted(self.commands.items())]
        with formatter.section("Our own servers"):
            formatter.write_dl(ours)
        with formatter.section("Servers of others"):
            formatter.write_dl(list(OF_OTHERS.items()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in OF_OTHERS:
            commands = importlib.import_module("agent_runtime.cli.mcp_servers").SUBCOMMANDS
            verb = commands[cmd_name]
            assert isinstance(verb, click.Command)
            return verb
        found = super().get_command(ctx, cmd_name)
        if found is not None or not _NAME.fullmatch(cmd_name):
            return found
        # difflib costs milliseconds to import, and the names above do without.
        import difflib

        if near := difflib.get_close_matches(cmd_name, self.commands, n=1, cutoff=0.8):
            ctx.fail(f"no server is called {cmd_name!r}; did you mean {near[0]!r}?")
        return _other(cmd_name)


@click.group(
    cls=Servers,
    short_help="Serve MCP clients on stdin and stdout; use other people's MCP servers.",
    epilog="""\b
Examples:
  agent-runtime mcp filesystem --root ~/project
  agent-runtime mcp tools --workspace ~/project
  agent-runtime mcp runtime
  agent-runtime mcp NAME              what a plug-in serves at /mcp/NAME
""",
)
def mcp() -> None:
    """Serve tools, files and tasks to MCP clients, such as IDEs, on stdin and stdout.

    A client starts these commands itself; its configuration names them. All but `filesystem` ask
    the daemon, and start one if there is none. The daemon serves the same over HTTP, at
    /mcp/filesystem, /mcp/tools and /mcp/runtime.

    The other way round, agents use the tools of other people's MCP servers, once they are declared
    and somebody has consented to their tools.
    """


def front_options(command: _Command) -> _Command:
    """Of every server that is the daemon's."""
    for option in (
        click.option(
            "--no-start", is_flag=True, help="Start no daemon; requests say that there is none."
        ),
        click.option(
            "--option", "options", multiple=True, metavar="NAME=VALUE",
            help="An option of the server's address; may be given again.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


@mcp.command(
    short_help="Use every tool that tasks can use.",
    epilog="""\b
Examples:
  agent-runtime mcp tools --workspace ~/project
  agent-runtime mcp tools --workspace ~/project --search
""",
)
@click.option(
    "--workspace", metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="The checkout that tools work on.",
)  # fmt: skip
@click.option(
    "--search", is_flag=True, help="Show two tools, that find and call the others: saves context."
)
@front_options
@click.pass_context
def tools(
    ctx: click.Context, workspace: str | None, search: bool, no_start: bool,
    options: tuple[str, ...],
) -> int:  # fmt: skip
    """Serve the tools of the runtime and its plug-ins, with its policy, approvals and sandbox."""
    query = {"workspace": workspace} if workspace else {}
    return _front(ctx, "tools", query | ({"mode": "search"} if search else {}), no_start, options)


@mcp.command(
    short_help="Hand off tasks and follow them.",
    epilog="""\b
Examples:
  agent-runtime mcp runtime
  agent-runtime --url https://agents.example:8700 mcp runtime
""",
)
@front_options
@click.pass_context
def runtime(ctx: click.Context, no_start: bool, options: tuple[str, ...]) -> int:
    """Serve tasks: submit, watch, steer, decide and take results."""
    return _front(ctx, "runtime", {}, no_start, options)


def _other(name: str) -> click.Command:
    @click.command(name, short_help=f"What the daemon serves at /mcp/{name}.")
    @front_options
    @click.pass_context
    def serve(ctx: click.Context, no_start: bool, options: tuple[str, ...]) -> int:
        return _front(ctx, name, {}, no_start, options)

    serve.help = f"Serve what the daemon has at /mcp/{name}."
    return serve


def _front(
    ctx: click.Context, name: str, query: Mapping[str, str], no_start: bool,
    options: tuple[str, ...],
) -> int:  # fmt: skip
    asked = dict(query)
    for each in options:
        key, equals, value = each.partition("=")
        if not key or not equals:
            raise UsageError(f"--option needs NAME=VALUE, got {each!r}")
        asked[key] = value
    given = ctx.find_root().params
    url, store = given.get("url"), given.get("store")
    if given.get("local"):
        raise UsageError(f"--local and mcp {name} exclude each other: it is served by a daemon")
    if url and store:
        raise UsageError("--url and --store exclude each other: a daemon has a store of its own")
    _entry("daemon", FRONTS)(name, asked, url=url, store=store, may_start=not no_start)
    return 0


@mcp.command(
    short_help="Read, search and edit files below some directories.",
    epilog="""\b
Examples:
  agent-runtime mcp filesystem --root ~/project
  agent-runtime mcp filesystem --root ~/project --root ~/notes --read-only
""",
)
@click.option(
    "--root", "roots", multiple=True, metavar="DIR",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="A directory that may be read and written; may be given again. Default: those that the "
    "client says, else the working directory.",
)  # fmt: skip
@click.option("--read-only", is_flag=True, help="Only tools that change nothing.")
@click.option("--no-short-way", is_flag=True, help="Send every message through the SDK; slower.")
def filesystem(roots: tuple[str, ...], read_only: bool, no_short_way: bool) -> int:
    """Serve files below the roots, and nothing outside of them; needs no daemon."""
    _entry("filesystem").stdio(
        {"roots": roots, "read_only": read_only, "short_way": not no_short_way}
    )
    return 0


def _entry(name: str, group: str = GROUP) -> Any:
    """What the built-in entry point of that name points at.

    Only our own distribution is looked at: reading the metadata of everything that is installed
    would take longer than all the rest of the start.
    """
    own = importlib.metadata.distribution(DISTRIBUTION).entry_points
    (found,) = own.select(group=group, name=name)
    module, _, attribute = found.value.partition(":")
    return getattr(importlib.import_module(module), attribute)
