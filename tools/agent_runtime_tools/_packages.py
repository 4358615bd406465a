"""Packages for the `python` tool: each set of them in a directory of its own below HOME.

HOME lies outside the workspace, so neither the patch nor a check sees them. They come through the
sandbox's own way out, by the task's pip, by the one that Python brings with it, or by uv. A set is
made aside and then renamed: one that is there is whole.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from agent_runtime.errors import ToolRefused
from agent_runtime.toolkit import cap
from agent_runtime.types import ToolResult
from agent_runtime_tools._processes import Command

PACKAGES_MAX: Final = 50
TEXT_CHARS_MAX: Final = 4000
INDEX_HOSTS: Final = ("pypi.org", "files.pythonhosted.org")
"""Of the public index: where it lists files, and where they are."""

# A name first: an option (-r), a path or an address would be something else than a package.
_REQUIREMENT: Final = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?\s*(?:\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:(?:[<>=!~]=?=?|@)[^\r\n\0]*)?(?:;[^\r\n\0]*)?\Z"
)
_WAYS: Final = """
import importlib.util, glob, os, shutil, sys
print("%d.%d" % sys.version_info[:2], sys.implementation.cache_tag)
if importlib.util.find_spec("pip"):
    print("pip")
else:
    bundled = importlib.util.find_spec("ensurepip")
    found = []
    if bundled and bundled.origin:
        found = glob.glob(os.path.join(os.path.dirname(bundled.origin), "_bundled", "pip-*.whl"))
    print((sorted(found) or [shutil.which("uv") or ""])[-1])
"""


class NotInstalled(Exception):
    """The packages are not there; `result` says why."""

    def __init__(self, result: ToolResult) -> None:
        super().__init__(result.output)
        self.result = result


def check(packages: Sequence[str]) -> None:
    """Raises `ToolRefused` for what is no requirement."""
    for package in packages:
        if not _REQUIREMENT.match(package):
            raise ToolRefused(
                f"{package!r} is no package: write a name, perhaps with extras and a version, "
                "such as 'requests>=2.31' or 'httpx[http2]==0.27.0'"
            )


def install(
    packages: Sequence[str], *, program: str, env: Mapping[str, str], deadline: float
) -> str:
    """The directory with these packages, which `program` may import; made if it is not there.

    Raises:
        NotInstalled: they could not be had.
        ToolRefused: there is no HOME, or nothing that installs.
    """
    home = env.get("HOME", "")
    if not os.path.isdir(home):
        raise ToolRefused("packages are installed below HOME, and the task has none")
    version, way = _way(program, env, deadline)
    import hashlib  # costs a worker's start 2 ms

    wanted = "\n".join([os.path.realpath(program), version, *sorted(set(packages))])
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:20]
    place = os.path.join(home, ".local", "share", "agent-runtime", "packages", digest)
    if os.path.isdir(place):
        return place
    part = f"{place}.{os.urandom(4).hex()}"
    os.makedirs(part)
    options = ["--target", part, *packages]
    if way == "pip":
        argv = [program, "-I", "-m", "pip", "install", *_PIP, *options]
    elif way.endswith(".whl"):
        # A wheel can be run as it is; -I would hide what it imports of itself.
        argv = [program, f"{way}/pip", "install", *_PIP, *options]
    else:
        argv = [way, "pip", "install", "--quiet", "--python", program, *options]
    import shutil  # costs a worker's start 3 ms

    try:
        _run(argv, env=env, home=home, deadline=deadline, packages=packages)
        with suppress(OSError):  # another call may have been faster
            os.rename(part, place)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


_PIP: Final = (
    "--quiet", "--no-input", "--disable-pip-version-check", "--no-warn-script-location",
    "--root-user-action=ignore",
)  # fmt: skip


def _way(program: str, env: Mapping[str, str], deadline: float) -> tuple[str, str]:
    """The interpreter's version, and how it installs: `pip`, a wheel of pip, or the path of uv."""
    seconds = max(deadline - time.monotonic(), 0.1)
    told = Command([program, "-I", "-c", _WAYS], cwd="/", env=env, seconds=seconds).run_blocking()
    lines = told.output.decode("utf-8", "replace").splitlines()
    if told.exit != 0 or len(lines) < 2 or not lines[1]:
        raise ToolRefused(
            f"{program!r} has neither pip nor ensurepip, and there is no uv on the PATH: packages "
            "cannot be installed. Name an environment with pip (environment.python)"
        )
    return lines[0], lines[1]


def _run(
    argv: Sequence[str], *, env: Mapping[str, str], home: str, deadline: float,
    packages: Sequence[str],
) -> None:  # fmt: skip
    seconds = max(deadline - time.monotonic(), 0.1)
    done = Command(argv, cwd=home, env=env, seconds=seconds).run_blocking()
    if done.exit == 0:
        return
    said = cap(done.output.decode("utf-8", "replace").strip(), TEXT_CHARS_MAX)
    note = f"{', '.join(packages)} could not be installed:\n{said}"
    if done.timed_out:
        note = f"{note}\n[timed out: it was killed]"
        raise NotInstalled(ToolResult(ok=False, kind="timeout", exit=124, output=note))
    if "policy.egress" in said:
        raise NotInstalled(ToolResult(ok=False, kind="denied", exit=done.exit, output=note))
    if not any(env.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        note += (
            "\nThe sandbox of a task has no network unless its task file says so: "
            f"policy: {{network: restricted, egress: [{', '.join(_hosts(env))}]}} "
            "would allow the index"
        )
    raise NotInstalled(ToolResult(ok=False, kind="failed", exit=done.exit, output=note))


def _hosts(env: Mapping[str, str]) -> tuple[str, ...]:
    named = env.get("PIP_INDEX_URL") or env.get("UV_INDEX_URL") or env.get("UV_DEFAULT_INDEX")
    try:
        host = urlsplit(named or "").netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    return (repr(host),) if host else INDEX_HOSTS
