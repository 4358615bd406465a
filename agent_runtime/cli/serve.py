"""`serve`: the daemon."""

from __future__ import annotations

import logging
import os

import click
from click import Context

from agent_runtime.cli.console import note, settings_of, unsafe_option
from agent_runtime.settings import Settings
from agent_runtime.variables import unread

_log = logging.getLogger(__name__)


@click.command(
    short_help="Serve tasks over HTTP, and drive them.",
    epilog="""\b
Examples:
  agent-runtime serve
  agent-runtime serve --port 9000 --store sqlite:////srv/agents/store.db
""",
)
@click.option("--host", metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), metavar="PORT",
    help="Default: 8700; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--tls-cert",
    metavar="FILE",
    help="The certificate chain, PEM; may be replaced while it serves.",
)
@click.option("--tls-key", metavar="FILE", help="Its key, without a password.")
@click.option(
    "--tls-client-ca", metavar="FILE", help="Clients must show a certificate of these authorities."
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    default=None,
    help="TLS ends at a proxy before it; see the setting proxy_addresses.",
)
@click.option(
    "--idle-exit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="End when for so long nobody asked and no task ran; for a daemon that is started on "
    "demand. Default: never.",
)
@unsafe_option
@click.pass_context
def serve(
    ctx: Context, /, idle_exit: float | None, unsafe_no_sandbox: bool, **flags: object
) -> int:
    """Serve tasks over HTTP, and drive them, until SIGTERM or Ctrl-C.

    What is accepted is kept, whatever happens to this process: the next one goes on with it. The
    first start makes a token, a file that only you may read; the other verbs find it there.
    """
    from agent_runtime.first_process import leave_the_first

    leave_the_first()

    import anyio

    from agent_runtime.cli.console import first_cause

    ctx.obj = {**(ctx.obj or {}), **flags}
    settings = settings_of(ctx, log_level="info")
    named = {**settings.secrets, **settings.model_keys}.values()
    for sentence in unread(os.environ, besides=[each.removeprefix("env:") for each in named]):
        _log.warning("%s", sentence)
    try:
        anyio.run(
            _serve,
            settings,
            unsafe_no_sandbox,
            idle_exit,
            backend_options={"use_uvloop": _has_uvloop()},
        )
    except BaseExceptionGroup as group:
        raise first_cause(group) from group
    return 0


async def _serve(settings: Settings, unsafe_no_sandbox: bool, idle_exit: float | None) -> None:
    from agent_runtime.serving import run_daemon

    await run_daemon(
        settings,
        unsafe_no_sandbox=unsafe_no_sandbox,
        idle_seconds=None if idle_exit is None else idle_exit * 60,
        on_ready=note,
    )


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True
