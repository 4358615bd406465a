"""Parts of the launcher that can be looked at alone."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent_runtime.sandboxes import becoming, seccomp
from agent_runtime.sandboxes.bubblewrap import BubblewrapSandbox
from agent_runtime.sandboxes.kept import Kept
from agent_runtime.sandboxes.kernel import start_time
from tests.sandboxes.support import make_spec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the launcher needs Linux")


@pytest.mark.parametrize("chunk", [1, 7, 100, 5000])
def test_what_is_kept_is_head_and_tail_within_the_limit(chunk: int) -> None:
    text = b"".join(b"%06d\n" % number for number in range(3000))
    kept = Kept(1000)
    for place in range(0, len(text), chunk):
        kept.add(text[place : place + chunk])
    joined = kept.join()
    assert kept.total == len(text) and len(joined) <= 1000
    assert joined.startswith(text[:500]) and joined.endswith(text[-400:])
    head, _, rest = joined.partition(b"\n[... ")
    count, _, tail = rest.partition(b" bytes left out ...]\n")
    assert int(count) == len(text) - len(head) - len(tail)


@pytest.mark.parametrize("length", [0, 1, 499, 500, 501, 999, 1000])
def test_what_fits_is_kept_as_it_is(length: int) -> None:
    kept = Kept(1000)
    kept.add(b"x" * length)
    assert kept.join() == b"x" * length


def test_a_process_is_known_by_its_start() -> None:
    assert start_time(os.getpid()) > 0
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_time(child) == 0  # a zombie is dead
    os.waitpid(child, 0)
    assert start_time(child) == 0


@pytest.mark.anyio
async def test_an_installation_below_the_staging_directory_works(
    bubblewrap: BubblewrapSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything below `/tmp` is hidden while a sandbox starts, a checkout there included."""
    with TemporaryDirectory(dir=becoming.STAGE) as checkout:
        filters = shutil.copytree(seccomp.FILTERS, Path(checkout) / "filters")
        monkeypatch.setattr(seccomp, "FILTERS", str(filters))
        result = await bubblewrap.execute(make_spec(tmp_path), ["true"], deadline_seconds=20)
    assert result.exit == 0
