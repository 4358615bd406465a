"""`sandbox exec`: one command in the sandbox, without a task, on the caller's own stdio."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence

import click

from agent_runtime.app import open_sandbox, sandbox_limits
from agent_runtime.cli.console import note, run_loop, settings_of
from agent_runtime.egress_rules import NetworkMode
from agent_runtime.errors import AgentRuntimeError, SandboxUnavailable, UsageError
from agent_runtime.ports.egress import EgressRecord
from agent_runtime.ports.sandbox import Attaches, Sandbox, SandboxSpec
from agent_runtime.ports.workspaces import DiskQuota
from agent_runtime.resources import (
    DISK_BYTES_MAX,
    DISK_BYTES_MIN,
    INODES_MAX,
    INODES_MIN,
    size_bytes,
)
from agent_runtime.sandboxes.lazy import LazySandbox
from agent_runtime.workspaces import quota

NOT_STARTED = 125
"""As `docker run` and `env` have it: the failure is ours, not the command's."""


@click.group(short_help="Use the sandbox without a task.")
def sandbox() -> None:
    """Use the sandbox without a task."""


@sandbox.command(
    "exec",
    short_help="Run one command in the sandbox.",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  agent-runtime sandbox exec --workspace . -- python -m pytest -q
  agent-runtime sandbox exec --workspace . --timeout 60 -- sh -c 'make && make test'
  agent-runtime sandbox exec --workspace . --egress pypi.org --egress files.pythonhosted.org \\
      --show-egress -- python -m pip download six
  echo 'print(1)' | agent-runtime sandbox exec --workspace . -- python -

\b
Exit codes:
  the command's own; 124 time-out, 125 the sandbox did not start, 126 not executable,
  127 not found, 128+N killed by signal N
""",
)
@click.option(
    "--workspace",
    required=True,
    metavar="DIR",
    help="The directory that the command may write; everything else of the machine is read-only or "
    "hidden. It is also the working directory, at its own path.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Kill everything after this time; the exit code is 124. Default: no limit.",
)  # fmt: skip
@click.option(
    "--python",
    "python",
    metavar="VENV",
    help="A virtual environment, read-only and first on PATH. Default: DIR/.venv, else the one "
    "agent-runtime is installed in.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of the command; may be given several times. Nothing else of the caller's "
    "environment gets in.",
)
@click.option(
    "--egress",
    multiple=True,
    metavar="RULE",
    help="What the command may reach, as policy.egress of a task has it: HOST[:PORT], *.SUFFIX, an "
    "address or a network; may be given several times. Default: nothing.",
)
@click.option(
    "--network",
    type=click.Choice(["none", "restricted", "full"]),
    help="full: every public host, besides --egress. Default: restricted with --egress, else none.",
)
@click.option(
    "--show-egress",
    is_flag=True,
    help="Tell on stderr of every connection that the command asks for: whether it was made, and "
    "if not, why.",
)
@click.option(
    "--unsafe-no-sandbox",
    is_flag=True,
    help="Run the command with no protection at all, with your own rights.",
)
@click.argument("argv", metavar="-- ARGV…", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def sandbox_exec(
    ctx: click.Context,
    workspace: str,
    timeout: float | None,
    python: str | None,
    variables: tuple[str, ...],
    egress: tuple[str, ...],
    network: NetworkMode | None,
    show_egress: bool,
    unsafe_no_sandbox: bool,
    argv: tuple[str, ...],
) -> int:
    """Run one command in the sandbox: no network but --egress, no secrets, only DIR is writable.

    ARGV is taken as it is, without a shell; stdin, stdout and stderr are the caller's. When the
    command ends, everything that it started is dead.
    """
    env = dict(_variable(text) for text in variables)

    async def do() -> int:
        directory = _directory(workspace)
        mode = _network(network, egress)
        if mode != "none" and unsafe_no_sandbox:
            raise UsageError(
                "--egress and --network are rules of the sandbox: without one the command has the "
                "machine's network; leave them out, or --unsafe-no-sandbox"
            )
        settings = settings_of(ctx.find_root())
        chosen = await _chosen(open_sandbox(settings, unsafe_no_sandbox=unsafe_no_sandbox))
        spec = SandboxSpec(
            owner_id=_owner_id(directory),
            workspace=directory,
            mount=_mount(directory),
            python=_python(workspace, python),
            env=env,
            chown=False,
            network=mode,
            egress=egress,
            egress_place="--egress",
            egress_heard=_tell if show_egress else None,
            limits=sandbox_limits(settings),
        )
        return await chosen.run_attached(spec, list(argv), deadline_seconds=timeout)

    try:
        return run_loop(do)
    except AgentRuntimeError as error:
        note(f"error: {error}")
        return NOT_STARTED


@sandbox.command(
    "make-workspace",
    short_help="Make a directory with a disk quota.",
    epilog="""\b
Examples:
  agent-runtime sandbox make-workspace /srv/ws --disk 1GiB --inodes 50000
  agent-runtime sandbox exec --workspace /srv/ws -- sh -c 'make && make test'
  agent-runtime sandbox remove-workspace /srv/ws
""",
)
@click.argument("directory", metavar="DIR")
@click.option(
    "--disk", "size", required=True, metavar="SIZE",
    help="How much it may hold, such as 1GiB; 64MiB or more.",
)  # fmt: skip
@click.option(
    "--inodes", type=click.IntRange(INODES_MIN, INODES_MAX), metavar="N",
    help="How many files, directories and links it may hold. Default: one for 16 KiB of SIZE.",
)  # fmt: skip
def make_workspace(directory: str, size: str, inodes: int | None) -> int:
    """Make DIR, which must not exist or be empty, a workspace with a disk of its own.

    It is a file system in the file DIR.img and belongs to the user that `sandbox exec` runs as. One
    that is there already is mounted again as it is, after a restart of the machine, say. Needs root
    and loop devices: `doctor` says whether they are to be had.
    """
    disk_bytes = size_bytes(size)
    if disk_bytes is None or not DISK_BYTES_MIN <= disk_bytes <= DISK_BYTES_MAX:
        raise UsageError(f"--disk {size!r} must be a size from 64MiB to 8TiB, such as 1GiB")
    path = os.path.realpath(directory)
    if reason := quota.unavailable(os.path.dirname(path)):
        raise SandboxUnavailable(f"no disk quota can be had: {reason}. {quota.remedy()}")
    if quota.exists(path):
        quota.mount(path)
        note(f"{path} was there already, and is mounted as it is")
        return 0
    if os.path.lexists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UsageError(f"{directory!r} is not an empty directory: name one, or a new one")
    quota.make(path, DiskQuota(bytes=disk_bytes, inodes=inodes))
    # Imported here, when there is a sandbox: it imports what only Linux has.
    from agent_runtime.sandboxes.bubblewrap import identity

    uid, gid = identity(SandboxSpec(owner_id=_owner_id(path), workspace=path, mount=path))
    os.chmod(path, 0o755)
    if uid is not None and gid is not None:
        os.chown(path, uid, gid)
    return 0


@sandbox.command(
    "remove-workspace",
    short_help="Remove what make-workspace made.",
    epilog="""\b
Examples:
  agent-runtime sandbox remove-workspace /srv/ws
""",
)
@click.argument("directory", metavar="DIR")
def remove_workspace(directory: str) -> int:
    """Remove DIR, which `make-workspace` made, with everything in it."""
    path = os.path.realpath(directory)
    if not quota.exists(path):
        raise UsageError(
            f"{directory!r} has no disk of its own: there is no {path + quota.IMAGE!r}"
        )
    quota.remove(path)
    return 0


def _network(network: NetworkMode | None, egress: Sequence[str]) -> NetworkMode:
    if network is None:
        return "restricted" if egress else "none"
    if network == "none" and egress:
        raise UsageError("--egress allows nothing with --network none; leave one of them out")
    if network == "restricted" and not egress:
        raise UsageError("--network restricted needs what may be reached, as --egress pypi.org")
    return network


def _tell(record: EgressRecord) -> None:
    """One decision about a connection, on a line."""
    parts = [f"egress: {record.kind}", record.method]
    if record.host:
        parts.append(f"{record.host}:{record.port}")
    if record.address and record.address != record.host:
        parts.append(f"({record.address})")
    if record.via:
        parts.append(f"via {record.via}")
    if record.kind == "closed":
        parts.append(f"{record.bytes_sent} bytes out, {record.bytes_received} in")
    said = " ".join(part for part in parts if part)
    note(said + (f": {record.reason}" if record.reason else ""))


def _variable(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--env {text!r} must look like KEY=VALUE")
    return key, value


def _directory(path: str) -> str:
    if not os.path.isdir(path):
        raise SandboxUnavailable(f"--workspace {path!r} is not a directory")
    return os.path.realpath(path)


def _owner_id(path: str) -> str:
    """One for each directory: as root, the sandbox's user id follows from it, and must stay."""
    return f"exec-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"


def _mount(path: str) -> str:
    """At its own path, unless that is one which the sandbox itself needs."""
    # Imported here, when there is a sandbox: it imports what only Linux has.
    from agent_runtime.sandboxes import mounts

    try:
        mounts.check(SandboxSpec(owner_id="", workspace=path, mount=path))
    except SandboxUnavailable:
        return "/workspace"
    return path


def _python(workspace: str, named: str | None) -> str:
    if named is not None:
        if not os.path.isfile(os.path.join(named, "bin", "python")):
            raise SandboxUnavailable(
                f"--python {named!r} is no virtual environment: it has no bin/python"
            )
        return os.path.abspath(named)
    own = os.path.join(os.path.realpath(workspace), ".venv")
    return own if os.path.isfile(os.path.join(own, "bin", "python")) else sys.prefix


async def _chosen(sandbox: Sandbox) -> Attaches:
    chosen = await sandbox.chosen() if isinstance(sandbox, LazySandbox) else sandbox
    if not isinstance(chosen, Attaches):
        raise SandboxUnavailable(
            f"the sandbox {chosen.name!r} cannot run a command on this terminal"
        )
    return chosen
