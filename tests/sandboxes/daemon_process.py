"""A daemon in a process of its own, to be killed by the tests.

`daemon_process.py KIND STATE_DIR WORKSPACE NAME (call|execute|attached) [ARGV…]`; prints a line
when it is busy, and with `attached` ends with the command's exit code.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import anyio

from agent_runtime.ports import SandboxSpec
from tests.sandboxes.support import TOOLS, call, info, new_sandbox


async def main(kind: str, state: str, workspace: str, name: str, how: str, *argv: str) -> int:
    sandbox = new_sandbox(kind, Path(state))
    spec = SandboxSpec(
        owner_id="task_1",
        workspace=workspace,
        mount="/srv/project",
        python=sys.prefix,
        plugin_paths=(TOOLS,),
    )
    if how == "attached":
        return await sandbox.run_attached(spec, argv, deadline_seconds=60)
    if how == "execute":
        print("busy", flush=True)
        await sandbox.execute(spec, ["sh", "-c", "sleep 600; true", name], deadline_seconds=600)
    session = await sandbox.open(spec)
    print("busy", flush=True)
    await session.call(info("detach"), call("detach", name=name), deadline_seconds=600)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(anyio.run(partial(main, *sys.argv[1:])))
