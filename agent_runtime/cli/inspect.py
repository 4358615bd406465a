"""Looking at the installation: `tools`, `modules`, `doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import msgspec

from agent_runtime.cli.console import emit, json_option, note, run_loop, say, settings_of, table
from agent_runtime.cli.reach import remote_of
from agent_runtime.types import EffectPolicy, Json

if TYPE_CHECKING:
    from agent_runtime.cli.checkup import Check
    from agent_runtime.plugins import NotLoaded, Plugins
    from agent_runtime.ports.tools import Tool

# What is installed here is looked at where no daemon is asked; that imports all of it.

BY_ARGUMENTS = "by arguments"
"""A tool that cannot say what it changes before it sees its arguments."""


@click.command(
    short_help="List the tools that tasks can use.",
    epilog="""\b
Examples:
  agent-runtime tools
  agent-runtime tools --json | jq '.tools[].name'
""",
)
@json_option
@click.pass_context
def tools(ctx: click.Context, as_json: bool) -> int:
    """List the tools that tasks can use, and the plug-ins that were not loaded.

    The effect says what happens to a call that has no result after a crash: a read is repeated, a
    change of the workspace is rolled back first, anything else is never repeated in silence. If
    there is a daemon, these are its tools.
    """
    if (remote := remote_of(ctx)) is not None:
        with remote:
            _print_tools([msgspec.structs.asdict(t) for t in remote.client.tools()], None, as_json)
        return 0
    from agent_runtime.app import load_plugins
    from agent_runtime.toolbox import PluginToolbox

    found = load_plugins(settings_of(ctx))
    toolbox = PluginToolbox.from_plugins(found)
    listed: list[dict[str, Json]] = [
        {
            "name": info.name,
            "toolbelt": info.toolbelt,
            "where": info.where,
            "effect": effect_hint(toolbox.get(info.name)),
            "description": info.description,
            "source": info.source,
            "parameters": dict(info.parameters),
        }
        for info in toolbox.all()
    ]
    _print_tools(listed, found, as_json)
    return 0


def _print_tools(listed: list[dict[str, Json]], found: Plugins | None, as_json: bool) -> None:
    """`found`: what was not loaded; only the daemon knows that of its own."""
    if as_json:
        emit({"tools": listed, **_refused_json(found)})
        return
    columns = ("name", "toolbelt", "where", "effect", "description")
    table(
        [[str(each[column]) for column in columns] for each in listed],
        heads=[column.upper() for column in columns],
    )
    _print_refused(found)


def effect_hint(tool: Tool) -> str:
    """What a call without arguments would change, as a hint."""
    try:
        return tool.effect({}, EffectPolicy()).value
    except Exception:  # noqa: BLE001 - a tool that needs its arguments for the answer
        return BY_ARGUMENTS


@click.command(
    short_help="List the installed modules.",
    epilog="""\b
Examples:
  agent-runtime modules
  AGENT_RUNTIME_PLUGINS=my-plugin agent-runtime modules --json
""",
)
@json_option
@click.pass_context
def modules(ctx: click.Context, as_json: bool) -> int:
    """List the installed modules, how they are, and the plug-ins that were not loaded.

    A module is started when a task first needs its toolbelt. If there is a daemon, these are its
    modules.
    """
    if (remote := remote_of(ctx)) is not None:
        with remote:
            there = [{**msgspec.structs.asdict(m), "tools": []} for m in remote.client.modules()]
        _print_modules(there, None, as_json)
        return 0
    from agent_runtime.app import load_plugins
    from agent_runtime.toolbox import PluginToolbox

    found = load_plugins(settings_of(ctx))
    tools_of = {
        loaded.contribution.module.name: [tool.name for tool in loaded.contribution.tools]
        for loaded in found.loaded
        if loaded.contribution.module is not None
    }

    async def do() -> int:
        async with PluginToolbox.from_plugins(found) as toolbox:
            listed: list[dict[str, Json]] = [
                {
                    "name": health.name,
                    "health": health.state,
                    "detail": health.detail,
                    "tools": tools_of.get(health.name, []),
                    "description": health.description,
                }
                for health in await toolbox.modules.health()
            ]
        _print_modules(listed, found, as_json)
        return 0

    return run_loop(do)


def _print_modules(listed: list[dict[str, Json]], found: Plugins | None, as_json: bool) -> None:
    if as_json:
        emit({"modules": listed, **_refused_json(found)})
        return
    rows = [
        (
            each["name"],
            each["health"] + (f": {each['detail']}" if each["detail"] else ""),
            ", ".join(each["tools"]) or "-",
            each["description"],
        )
        for each in listed
    ]
    table(rows, heads=("NAME", "HEALTH", "TOOLS", "DESCRIPTION"))
    _print_refused(found)


def _refused_json(found: Plugins | None) -> dict[str, Json]:
    if found is None:
        return {}
    return {
        "quarantined": [_not_loaded(each) for each in found.quarantined],
        "not_allowed": [_not_loaded(each) for each in found.not_allowed],
        "not_installed": list(found.not_installed),
    }


def _not_loaded(each: NotLoaded) -> Mapping[str, Json]:
    return {
        "plugin": str(each.plugin),
        "distribution": each.plugin.distribution,
        "group": each.plugin.group,
        "name": each.plugin.name,
        "reason": each.reason,
        "remedy": each.remedy,
    }


def _print_refused(found: Plugins | None) -> None:
    if found is None:
        return
    from agent_runtime import plugins

    for each in found.quarantined:
        note(f"quarantined: {each}")
    for each in found.not_allowed:
        note(f"not loaded: {each}")
    for name in found.not_installed:
        note(f"{plugins.SETTING} names {name!r}, and no installed plug-in is called that")


@click.command(
    short_help="Check whether tasks can run here, and say what is missing.",
    epilog="""\b
Examples:
  agent-runtime doctor
  agent-runtime doctor --json | jq '.checks[] | select(.ok | not)'
""",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check whether tasks can run here, and say what is missing and how to mend it.

    Python, git, the store, the sandbox, plug-ins, disk space, and the settings in effect. Ends with
    0 if a task could run, else with 3.
    """
    from agent_runtime.cli import checkup

    settings = settings_of(ctx)
    checks: list[Check] = []

    async def do() -> None:
        checks.extend(await checkup.examine(settings))

    run_loop(do)
    shown = checkup.settings_shown(settings, ctx.obj)
    well = all(check.ok or not check.needed for check in checks)
    if as_json:
        emit(
            {
                "ok": well,
                "checks": [
                    {
                        "name": check.name,
                        "ok": check.ok,
                        "needed": check.needed,
                        "detail": check.detail,
                        "remedy": "" if check.ok else check.remedy,
                        **({"rungs": list(map(asdict, check.rungs))} if check.rungs else {}),
                    }
                    for check in checks
                ],
                "settings": shown,
            }
        )
    else:
        _print_checks(checks)
        say("settings")
        for each in shown:
            say(f"  {each['name']:24} {each['value']}   ({each['source']})")
        say("tasks can run here" if well else "tasks cannot run here: mend what is marked above")
    return 0 if well else 3


def _print_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        mark = "ok  " if check.ok else "NOT " if check.needed else "note"
        say(f"{mark} {check.name:10} {check.detail}")
        if not check.ok and check.remedy:
            for line in check.remedy.splitlines():
                say(f"{'':16}{line}")
        if any(rung.state == "failed" for rung in check.rungs):
            for rung in check.rungs:
                said = f": {rung.detail}" if rung.state != "taken" else ""
                say(f"{'':16}{rung.state:10}{rung.name}{said}")
                for line in rung.remedy.splitlines() if check.ok and rung.state == "failed" else ():
                    say(f"{'':26}{line}")
