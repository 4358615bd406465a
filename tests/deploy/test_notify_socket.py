"""What systemd hears, on a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent_runtime.notify_socket import NotifySocket

pytestmark = pytest.mark.skipif(os.name != "posix", reason="systemd's protocol is Linux's")


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        one.bind(str(tmp_path / "notify"))
        yield one


def heard(listener: socket.socket) -> str:
    return listener.recv(4096).decode()


def test_systemd_hears_of_start_state_and_stop(listener: socket.socket) -> None:
    said = NotifySocket({"NOTIFY_SOCKET": listener.getsockname()})
    said.ready()
    said.status("3 tasks\nrun")
    said.stopping()
    assert [heard(listener) for _ in range(3)] == [
        "READY=1",
        "STATUS=3 tasks run",
        "STOPPING=1",
    ]


@pytest.mark.skipif(not hasattr(socket, "SO_PASSCRED"), reason="abstract names are Linux's")
def test_an_abstract_name_is_written_with_an_at() -> None:
    name = f"agent-runtime-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        one.bind("\0" + name)
        NotifySocket({"NOTIFY_SOCKET": "@" + name}).ready()
        assert heard(one) == "READY=1"


def test_tools_do_not_inherit_the_socket() -> None:
    """A tool that spoke in the daemon's name could keep a dead one alive."""
    variables = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "A": "b"}
    NotifySocket(variables)
    assert variables == {"A": "b"}


@pytest.mark.anyio
async def test_the_watchdog_hears_at_half_of_its_time(listener: socket.socket) -> None:
    """Virtual seconds: sd_watchdog_enabled(3) recommends half."""
    listener.setblocking(False)
    variables = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "30000000"}
    said = NotifySocket({**variables, "WATCHDOG_PID": str(os.getpid())})
    assert said.watchdog_seconds == 30
    with anyio.move_on_after(40):
        await said.keep_alive()
    assert [heard(listener) for _ in range(3)] == ["WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        heard(listener)


@pytest.mark.anyio
@pytest.mark.parametrize("wrong", [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
async def test_another_processes_watchdog_is_not_fed(
    listener: socket.socket, wrong: dict[str, str]
) -> None:
    variables = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "30000000", **wrong}
    said = NotifySocket(variables)
    assert said.watchdog_seconds is None
    await said.keep_alive()
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard(listener)


def test_nobody_who_listens_is_no_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    NotifySocket({}).ready()
    assert not caplog.records
    NotifySocket({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert "was not told 'READY=1'" in caplog.text
