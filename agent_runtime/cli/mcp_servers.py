"""`mcp servers`, `add`, `remove`, `check`, `consent`: other people's servers, for our agents.

What speaks the protocol is a plug-in; here a server is a module that wants a person's consent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import click

from agent_runtime.api.presence import find_daemons
from agent_runtime.cli.console import (
    clean,
    counted,
    emit,
    json_option,
    note,
    run_loop,
    say,
    settings_of,
    table,
)
from agent_runtime.errors import ConfigError, Conflict, NotFound, UsageError
from agent_runtime.ports.modules import ConsentingModule, OfferedTool, RemoteOffer
from agent_runtime.remote_servers import BadServer, parse_servers
from agent_runtime.settings import Settings, mcp_servers, mcp_servers_path, state_dir
from agent_runtime.types import Json


@click.command(
    short_help="List the external MCP servers, and what is to be done about them.",
    epilog="""\b
Examples:
  agent-runtime mcp servers
  agent-runtime mcp servers --json
""",
)
@json_option
@click.pass_context
def servers(ctx: click.Context, as_json: bool) -> int:
    """List the external MCP servers whose tools agents may use. Nothing is started or reached."""
    settings = settings_of(ctx.find_root())
    declared, modules = mcp_servers(settings), _modules(settings)
    listed: list[dict[str, Json]] = []
    for name, server in sorted(declared.items()):
        module, tools = modules.get(name, (None, []))
        state = "off" if not server.enabled else "not loaded: see `agent-runtime modules`"
        if module is not None:
            state = module.standing() or "well"
        listed.append({
            "name": name, "endpoint": server.url or " ".join([server.command, *server.args]),
            "state": state, "tools": tools, "trust": server.trust, "tasks": server.tasks,
            "sandbox": None if server.remote else server.sandbox,
        })  # fmt: skip
    if as_json:
        emit({"servers": listed})
        return 0
    table(
        [
            (each["name"], str(len(each["tools"])), each["state"], each["endpoint"])
            for each in listed
        ],
        heads=("NAME", "TOOLS", "STATE", "WHERE"),
    )
    return 0


@click.command(
    short_help="Declare an external MCP server.",
    epilog="""\b
Examples:
  agent-runtime mcp add tracker --url https://mcp.example.org/mcp \\
      --header 'Authorization=Bearer ${TOKEN}'
  agent-runtime mcp add files --network full -- npx -y @acme/mcp-files /workspace
""",
)
@click.argument("name")
@click.option("--url", help="Its address, if it is not a program.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    help="Sent with every request; ${SECRET} stands for a secret of the settings.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the program; ${SECRET} as above.",
)
@click.option("--cwd", metavar="DIR", help="The one directory of yours that the program may write.")
@click.option("--read", multiple=True, metavar="PATH", help="What of yours the program may read.")
@click.option(
    "--network",
    type=click.Choice(["none", "restricted", "full"]),
    help="What the program may reach; restricted needs --egress. Default: nothing.",
)
@click.option("--egress", multiple=True, metavar="RULE", help="A host that it may reach.")
@click.option(
    "--sandbox",
    type=click.Choice(["on", "off"]),
    help="off: the program runs with your own rights.",
)
@click.argument("argv", metavar="[-- COMMAND ARGS…]", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def add(
    ctx: click.Context, name: str, url: str | None, headers: tuple[str, ...],
    variables: tuple[str, ...], cwd: str | None, read: tuple[str, ...], network: str | None,
    egress: tuple[str, ...],
    sandbox: str | None, argv: tuple[str, ...],
) -> int:  # fmt: skip
    """Declare the server NAME, at a URL or as a COMMAND.

    It is written to mcp.json beside your config.yaml, in the form that other clients know. Nothing
    is started; `mcp consent NAME` comes next.
    """
    settings = settings_of(ctx.find_root())
    declared: dict[str, Json] = {
        "url": url, "headers": _pairs(headers, "--header"), "env": _pairs(variables, "--env"),
        "cwd": os.path.abspath(cwd) if cwd else None,
        "read": [os.path.abspath(path) for path in read],
        "network": network, "egress": list(egress),
        "sandbox": sandbox, "command": argv[0] if argv else None, "args": list(argv[1:]),
    }  # fmt: skip
    declared = {key: value for key, value in declared.items() if value}
    try:
        parse_servers({name: declared})
    except BadServer as error:
        raise UsageError(str(error)) from None
    if name in mcp_servers(settings):
        raise Conflict(f"there is a server {name!r}: `agent-runtime mcp remove {name}` first")
    with _added() as found:
        found[name] = declared
    note(f"declared; look at its tools with: agent-runtime mcp consent {name}")
    if sandbox != "off":
        for path in _unseen(argv[1:], declared):
            note(
                f"{path} is there, but the program will not see it: its sandbox shows no files of "
                f"yours but those that --read and --cwd name, at their own paths; "
                f"`agent-runtime mcp remove {name}`, and add it again with --read {path}"
            )
    _tell_of_restart(settings, "knows it")
    return 0


def _tell_of_restart(settings: Settings, what: str) -> None:
    """A daemon puts its tools together once: its tasks count on them."""
    for daemon in find_daemons(state_dir(settings)):
        note(
            f"the daemon at {daemon.address} (pid {daemon.pid}) {what} when it is started again: "
            "end it (SIGTERM; its tasks go on afterwards), and `agent-runtime serve`"
        )


def _unseen(arguments: Sequence[str], declared: Mapping[str, Json]) -> list[str]:
    """The files of yours that a program is told of and may not read; of `--x=PATH` the PATH."""
    allowed = [*cast(list[str], declared.get("read", [])), cast(str, declared.get("cwd", ""))]
    found = []
    for argument in arguments:
        path = argument.partition("=")[2] if argument.startswith("-") else argument
        named = os.path.abspath(path)
        looks_like_one = "/" in path or "." in path
        if not looks_like_one or "${" in path or not os.path.exists(named):
            continue
        if not any(each and Path(named).is_relative_to(each) for each in allowed):
            found.append(named)
    return found


@click.command(
    short_help="Forget an external MCP server that was added.",
    epilog="""\b
Examples:
  agent-runtime mcp remove tracker
""",
)
@click.argument("name")
@click.pass_context
def remove(ctx: click.Context, name: str) -> int:
    """Forget the server NAME that `mcp add` declared, and that anybody consented to it."""
    settings = settings_of(ctx.find_root())
    module = _modules(settings).get(name, (None, []))[0]
    with _added() as found:
        if name not in found:
            where = " it is in the settings, where it can be taken out" if name in mcp_servers(
                settings
            ) else " `agent-runtime mcp servers` lists them"  # fmt: skip
            raise NotFound(f"`mcp add` has declared no server {name!r};{where}")
        del found[name]
    if module is not None:
        module.consent(None)
    return 0


@click.command(
    short_help="Ask an external MCP server what it offers.",
    epilog="""\b
Examples:
  agent-runtime mcp check tracker
  agent-runtime mcp check tracker --json | jq '.tools[].name'
""",
)
@click.argument("name")
@json_option
@click.pass_context
def check(ctx: click.Context, name: str, as_json: bool) -> int:
    """Start or reach the server NAME and tell what it offers, and what has changed since somebody
    consented. Nothing is kept. Exit code 6 if there is a change."""
    _, offer = _offer(ctx, name)
    if as_json:
        emit(_offer_json(offer))
    else:
        _show(offer)
    return 6 if any(tool.change != "same" for tool in offer.tools) else 0


@click.command(
    short_help="Allow the tools of an external MCP server, as they are now.",
    epilog="""\b
Examples:
  agent-runtime mcp consent tracker
  agent-runtime mcp consent tracker --yes
  agent-runtime mcp consent tracker --withdraw
""",
)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--withdraw", is_flag=True, help="Take it back: none of its tools is used any more.")
@click.pass_context
def consent(ctx: click.Context, name: str, yes: bool, withdraw: bool) -> int:
    """Start or reach the server NAME, show its tools, and allow them as they are now.

    Descriptions are the server's own words, and brains read them: look for orders in them. A daemon
    that runs sees new tools when it is started again; changed ones it takes at once.
    """
    if withdraw:
        _module(ctx, name, settings_of(ctx.find_root())).consent(None)
        note("taken back")
        return 0
    module, offer = _offer(ctx, name)
    _show(offer)
    if not yes and not click.confirm("Allow these tools?", err=True, default=False):
        note("nothing is allowed")
        return 1
    module.consent(offer)
    note(f"allowed: {counted(sum(tool.change != 'gone' for tool in offer.tools), 'tool')}")
    if any(tool.change == "new" for tool in offer.tools):
        _tell_of_restart(settings_of(ctx.find_root()), "has its new tools")
    return 0


SUBCOMMANDS: Mapping[str, click.Command] = {
    each.name: each for each in (servers, add, remove, check, consent) if each.name is not None
}


def _modules(settings: Settings) -> dict[str, tuple[ConsentingModule, list[str]]]:
    from agent_runtime.app import load_plugins, open_sandbox

    found: dict[str, tuple[ConsentingModule, list[str]]] = {}
    for each in load_plugins(settings, open_sandbox(settings)).loaded:
        made = each.contribution
        if made.module is not None and isinstance(made.module, ConsentingModule):
            found[made.module.name] = (made.module, [tool.name for tool in made.tools])
    return found


def _module(ctx: click.Context, name: str, settings: Settings) -> ConsentingModule:
    declared = mcp_servers(settings)
    if name not in declared:
        known = ", ".join(sorted(declared)) or "none"
        raise NotFound(f"no MCP server is called {name!r} (declared: {known})")
    found = _modules(settings).get(name)
    if found is None:
        raise ConfigError(
            f"the server {name!r} is switched off, or not loaded: `agent-runtime modules`"
        )
    return found[0]


def _offer(ctx: click.Context, name: str) -> tuple[ConsentingModule, RemoteOffer]:
    module = _module(ctx, name, settings_of(ctx.find_root()))
    found: list[RemoteOffer] = []

    async def do() -> int:
        found.append(await module.offered())
        return 0

    run_loop(do)
    return module, found[0]


def _show(offer: RemoteOffer) -> None:
    say(f"{clean(offer.server) or 'a server without a name'} at {clean(offer.endpoint)}")
    say(f"speaks {offer.wire}" + (", has resources" if offer.resources else ""))
    for tool in offer.tools:
        mark = {"same": " ", "new": "+", "changed": "!", "gone": "-"}[tool.change]
        say(f"{mark} {tool.tool} ({tool.effect.value}{_said(tool)})")
        for line in clean(tool.diff or tool.description).splitlines():
            say(f"    {line}")


def _said(tool: OfferedTool) -> str:
    return "" if tool.change == "same" else f", {tool.change}"


def _offer_json(offer: RemoteOffer) -> dict[str, Json]:
    return {
        "server": offer.server, "endpoint": offer.endpoint, "wire": offer.wire,
        "resources": offer.resources,
        "tools": [
            {"name": t.name, "tool": t.tool, "description": t.description,
             "effect": t.effect.value, "change": t.change, "diff": t.diff}
            for t in offer.tools
        ],
    }  # fmt: skip


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"{option} {key!r} must look like NAME=VALUE")
    return {key: value for key, _, value in pairs}


@contextmanager
def _added() -> Iterator[dict[str, Any]]:
    """The servers of `mcp add`, written back when the block ends well."""
    path = mcp_servers_path()
    content: dict[str, Any] = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    yield content.setdefault("mcpServers", {})
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # It may hold what somebody wrote in place of ${NAME}.
    descriptor = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    os.replace(f"{path}.tmp", path)
