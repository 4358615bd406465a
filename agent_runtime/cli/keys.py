"""Who may ask the daemon: `keys create`, `list`, `revoke`, `rotate-token`, on the local store."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable

import click

from agent_runtime.access import token
from agent_runtime.access.auditor import Auditor
from agent_runtime.access.callers import ROLES, SCOPES, Caller
from agent_runtime.access.desk import Desk
from agent_runtime.access.keys import Key, NewKey
from agent_runtime.app import open_access, open_store
from agent_runtime.cli.console import (
    at,
    emit,
    json_option,
    note,
    run_loop,
    say,
    settings_of,
    table,
    who,
)
from agent_runtime.errors import UsageError
from agent_runtime.settings import state_dir
from agent_runtime.types import Json

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Duration(click.ParamType[float]):
    """`90d`, `12h`, `30m`, or seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = _DURATION.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no duration: say 30m, 12h, 90d or seconds", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


@click.group(
    short_help="Give out and take back the keys of the daemon.",
    epilog="""\b
Examples:
  agent-runtime keys create ci --role operator --expires 90d
  agent-runtime keys list
  agent-runtime keys revoke ci
""",
)
def keys() -> None:
    """Give out and take back the keys by which programs and people ask the daemon.

    They are kept in the store; a running daemon notices at once.
    """


@keys.command(
    short_help="Make a key and print it, once.",
    epilog="""\b
Examples:
  agent-runtime keys create ci --role operator --expires 90d --tasks-day 200
  agent-runtime keys create bot --scope tasks:read --scope approvals:decide
""",
)
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)), help="What it may do.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help=f"Besides, or instead of, a role's; may be repeated: {', '.join(SCOPES)}.",
)
@click.option("--expires", type=Duration(), help="After this long, such as 90d. Default: never.")
@click.option("--rate", type=float, metavar="N", help="Requests a second at most.")
@click.option("--burst", type=int, metavar="N", help="Requests at once. Default: twice the rate.")
@click.option("--usd-day", type=float, metavar="USD", help="What its tasks may spend in a day.")
@click.option("--tokens-day", type=int, metavar="N", help="Tokens of its tasks in a day.")
@click.option("--tasks-day", type=int, metavar="N", help="Tasks it may submit in a day.")
@json_option
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    role: str | None,
    scopes: tuple[str, ...],
    expires: float | None,
    rate: float | None,
    burst: int | None,
    usd_day: float | None,
    tokens_day: int | None,
    tasks_day: int | None,
    as_json: bool,
) -> int:
    """Make a key called NAME and print it on stdout, once: it is kept nowhere."""
    wish = NewKey(
        name=name,
        role=role or "",
        scopes=scopes,
        expires_seconds=expires,
        rate=rate,
        burst=burst,
        usd_day=usd_day,
        tokens_day=tokens_day,
        tasks_day=tasks_day,
    )

    async def do(desk: Desk, caller: Caller) -> None:
        key, text = await desk.make(wish, caller=caller)
        if as_json:
            emit({"secret": text, "key": _json(key)})
            return
        note(f"{key.name} ({key.key_id}) may: {', '.join(key.scopes)}. Keep it: it is shown once.")
        say(text)

    return _at_desk(ctx, do)


@keys.command(
    name="list",
    short_help="List keys, without their secrets.",
    epilog="""\b
Examples:
  agent-runtime keys list
  agent-runtime keys list --all --json
""",
)
@click.option("--all", "with_revoked", is_flag=True, help="Revoked and expired ones, too.")
@json_option
@click.pass_context
def list_(ctx: click.Context, with_revoked: bool, as_json: bool) -> int:
    """List the keys in force."""

    async def do(desk: Desk, _caller: Caller) -> None:
        now_us = time.time_ns() // 1000
        found = [key for key in await desk.all() if with_revoked or not key.fault(now_us)]
        if as_json:
            emit([_json(key) for key in found])
            return
        rows = [
            (
                key.key_id,
                key.name,
                key.role or " ".join(key.scopes),
                key.fault(now_us) or (at(key.expires_at_us) if key.expires_at_us else "never"),
                at(key.used_at_us) if key.used_at_us else "never",
            )
            for key in found
        ]
        table(rows, heads=("ID", "NAME", "MAY", "EXPIRES", "LAST USED"))

    return _at_desk(ctx, do)


@keys.command(
    short_help="Take a key back for good.",
    epilog="""\b
Examples:
  agent-runtime keys revoke ci
  agent-runtime keys revoke xqe9ftj89u
""",
)
@click.argument("key")
@click.pass_context
def revoke(ctx: click.Context, key: str) -> int:
    """Take KEY (a name or an id) back for good."""
    if key.startswith("ark_"):
        raise UsageError("name a key or its id (see: agent-runtime keys list), not its secret")

    async def do(desk: Desk, caller: Caller) -> None:
        found = await desk.find(key)
        await desk.revoke(found.key_id, caller=caller)
        say(f"{found.name} ({found.key_id}) is revoked")

    return _at_desk(ctx, do)


@keys.command(
    name="rotate-token",
    short_help="Make another local token.",
    epilog="""\b
Examples:
  agent-runtime keys rotate-token
""",
)
@click.pass_context
def rotate_token(ctx: click.Context) -> int:
    """Make another token in the state directory; the one before counts no more, at once."""
    directory = state_dir(settings_of(ctx))
    token.rotate(directory)
    say(f"wrote {token.path_in(directory)}")
    return 0


def _at_desk(ctx: click.Context, do: Callable[[Desk, Caller], Awaitable[None]]) -> int:
    settings = settings_of(ctx)

    def now_us() -> int:
        return time.time_ns() // 1000

    async def main() -> int:
        store = await open_store(settings)
        try:
            access = open_access(store)
            # Who may write the store's file may do everything with it.
            caller = Caller(who(), ROLES["admin"], "cli")
            await do(Desk(access, Auditor(access, now_us=now_us), now_us=now_us), caller)
        finally:
            await store.close()
        return 0

    return run_loop(main)


def _json(key: Key) -> dict[str, Json]:
    return {
        "id": key.key_id,
        "name": key.name,
        "role": key.role,
        "scopes": list(key.scopes),
        "created_at": at(key.made_at_us),
        "created_by": key.made_by,
        "expires_at": _moment(key.expires_at_us),
        "revoked_at": _moment(key.revoked_at_us),
        "revoked_by": key.revoked_by,
        "last_used_at": _moment(key.used_at_us),
        "rate": key.rate,
        "burst": key.burst,
        "usd_day": key.usd_day,
        "tokens_day": key.tokens_day,
        "tasks_day": key.tasks_day,
    }


def _moment(at_us: int) -> str | None:
    return at(at_us) if at_us else None
