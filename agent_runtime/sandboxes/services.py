"""The task's services inside the sandbox: start them, wait for them, then become the command.

Run as a script, `services.py COMMAND…`, with nothing but the standard library; a variable says what
to start, as JSON.
What a service prints goes to a file below /tmp/services, or where that variable says. They end with
the sandbox.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

VARIABLE = "AGENT_RUNTIME_SERVICES"
POLL_SECONDS = 0.05
LOGS = "/tmp/services"
TAIL_BYTES = 2000
NOT_READY = 125
"""The exit code, as of a sandbox that did not start: the command has not run."""


class NotReady(Exception):
    """A service did not come up; says which and shows what it printed."""


def main() -> None:
    """Start them in their order, each once the one before is ready."""
    said = json.loads(os.environ.pop(VARIABLE))
    command = sys.argv[1:]
    # Who waits for the command waits no longer than this: a service that takes it all is to blame.
    seconds = said["seconds"]
    last = None if seconds is None else time.monotonic() + max(seconds - 1.0, seconds / 2)
    env = {**os.environ, **said["env"]}
    logs = said.get("logs") or LOGS
    os.makedirs(logs, exist_ok=True)
    try:
        for service in said["services"]:
            start(service, env, logs, last)
    except NotReady as error:
        sys.stderr.write(f"agent-runtime: {error}\n")
        sys.exit(NOT_READY)
    os.execvpe(command[0], command, dict(os.environ))


def start(
    service: dict[str, object], env: dict[str, str], logs: str, last: float | None = None
) -> None:
    """One service, ready before `last` by the monotonic clock. Raises `NotReady`."""
    name, ready = str(service["id"]), service.get("ready") or {}
    assert isinstance(ready, dict) and isinstance(service["env"], dict)
    own = {**env, **service["env"]}
    log = os.path.join(logs, f"{name}.log")
    with open(log, "ab") as file:
        try:
            process = subprocess.Popen(
                argv_of(service["command"]), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env=own, start_new_session=True, close_fds=True,
            )  # fmt: skip
        except OSError as error:
            raise NotReady(f"service {name!r} did not start: {error}") from None
    if not ready:
        return
    seconds = float(ready.get("timeout_seconds") or 60.0)
    started = time.monotonic()
    deadline = started + seconds
    if last is not None:
        deadline = min(deadline, last)
    while not is_ready(ready, own, deadline - time.monotonic()):
        code = process.poll()
        # One that goes into the background by itself ends well and lives on.
        if code:
            raise NotReady(f"service {name!r} ended with exit {code}\n{tail(log)}")
        if time.monotonic() > deadline:
            waited = f"{max(deadline - started, 0.0):.3g} s"
            if deadline == last:
                waited += ", which is all that what needs it has"
            if code == 0:
                waited += "; its command has ended, with exit 0"
            raise NotReady(f"service {name!r} was not ready within {waited}\n{tail(log)}")
        time.sleep(POLL_SECONDS)


def is_ready(ready: dict[str, object], env: dict[str, str], seconds: float) -> bool:
    """Does its port take a connection, and does its command end with 0?"""
    if (port := ready.get("port")) is not None:
        try:
            socket.create_connection(("127.0.0.1", int(str(port))), timeout=1.0).close()
        except OSError:
            return False
    if (command := ready.get("command")) is not None:
        try:
            ran = subprocess.run(
                argv_of(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=env, check=False, timeout=max(1.0, seconds),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return ran.returncode == 0
    return True


def argv_of(command: object) -> list[str]:
    """A text runs by a shell, a list is argv."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)  # type: ignore[call-overload]


def tail(path: str) -> str:
    """The end of what it printed."""
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
        return file.read(TAIL_BYTES).decode(errors="replace").strip()


if __name__ == "__main__":
    main()
