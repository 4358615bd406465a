"""The systemd unit: what systemd says of it, and that bubblewrap works below it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runtime.sandboxes import surroundings
from tests.deploy.unit_like import settings_of

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "examples" / "systemd" / "agent-runtime.service"
ANALYZE = shutil.which("systemd-analyze")
USER = 61235


def test_the_unit_is_one_in_systemds_own_words(tmp_path: Path) -> None:
    if ANALYZE is None:
        pytest.skip("systemd-analyze comes with the package systemd")
    # The program is not installed here.
    text = UNIT.read_text(encoding="utf-8").replace(
        "/opt/agent-runtime/bin/agent-runtime", "/bin/sh"
    )
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    command = [ANALYZE, "verify", "--man=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_readiness_stopping_and_places_are_those_of_the_daemon() -> None:
    settings = settings_of(str(UNIT))
    assert settings["Type"] == ["notify"] and settings["NotifyAccess"] == ["main"]
    assert int(settings["WatchdogSec"][0]) >= 30
    assert settings["KillMode"] == ["mixed"], "SIGTERM to the daemon only: it ends its sandboxes"
    assert settings["ExecStart"] == ["/opt/agent-runtime/bin/agent-runtime serve"]
    variables = dict(
        pair.split("=") for line in settings["Environment"] for pair in line.split(" ")
    )
    assert variables["XDG_STATE_HOME"] + "/agent-runtime" == "/var/lib/agent-runtime"
    assert variables["XDG_CONFIG_HOME"] + "/agent-runtime" == "/etc/agent-runtime"
    assert settings["StateDirectory"] == settings["ConfigurationDirectory"] == ["agent-runtime"]
    assert settings["StateDirectoryMode"] == ["0700"]


def test_what_bubblewrap_cannot_do_without_is_left() -> None:
    """Each of these covers a part of /proc, and the kernel then refuses a sandbox its own; or it
    takes namespaces away."""
    settings = settings_of(str(UNIT))
    assert not set(settings) & {
        "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset",
        "ProtectHostname", "PrivateUsers", "InaccessiblePaths", "MemoryDenyWriteExecute",
    }  # fmt: skip
    assert set(settings["RestrictNamespaces"][0].split()) >= {
        "user", "mnt", "pid", "net", "ipc", "uts", "cgroup",
    }  # fmt: skip
    assert "AF_NETLINK" in settings["RestrictAddressFamilies"][0]
    assert settings["NoNewPrivileges"] == ["yes"] and settings["CapabilityBoundingSet"] == [""]


# ---- below its filter, for real --------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        shutil.chown(name, USER, USER)
        yield Path(name)


def doctor(unit: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """`agent-runtime doctor` as the unit's user; skips where no interpreter is in his reach."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pythons = [sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"]
    found = [path for path in pythons if os.path.exists(path) and not _closed(path)]
    if not found or _closed(str(ROOT)):
        pytest.skip("no interpreter of this version, or no checkout, that every user reaches")
    site = next(path for path in sys.path if path.endswith("site-packages"))
    return subprocess.run(
        [
            *(sys.executable, str(ROOT / "tests/deploy/unit_like.py"), str(unit), str(USER), "--"),
            *(found[0], "-m", "agent_runtime", "doctor"),
        ],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "PYTHONPATH": f"{site}:{ROOT}:{ROOT / 'tools'}",
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _closed(path: str) -> str | None:
    return surroundings.unreachable(path, USER, USER)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze says what is in a group of calls")
def test_bubblewrap_works_below_the_units_filter_and_not_below_a_narrower_one(
    home: Path, tmp_path: Path
) -> None:
    done = doctor(UNIT, home)
    assert "ok   sandbox    bubblewrap: " in done.stdout, done
    narrow = tmp_path / "narrow.service"
    narrow.write_text(UNIT.read_text(encoding="utf-8").replace(" @mount ", " "), encoding="utf-8")
    refused = doctor(narrow, home)
    assert refused.returncode == 3 and "ok   sandbox" not in refused.stdout, refused
