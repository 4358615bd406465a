"""`serve` below systemd: it says when it answers, that its loop turns, and that it ends."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import SECONDS_MAX, UNSAFE, Cli


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_systemd_hears_ready_when_requests_are_answered_and_stopping_at_the_end(
    tmp_path: Path,
) -> None:
    """Type=notify: what is ordered after the daemon may ask it at once."""
    cli = Cli(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, socket.socket() as free:
        systemd.settimeout(SECONDS_MAX)
        systemd.bind(str(tmp_path / "notify"))
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        env = {**cli.environment(), "NOTIFY_SOCKET": str(tmp_path / "notify")}
        env["WATCHDOG_USEC"] = "200000"
        command = [sys.executable, "-m", "agent_runtime", "serve", "--port", str(port), UNSAFE]
        with subprocess.Popen(command, env=env, cwd=tmp_path, stderr=subprocess.PIPE) as process:
            try:
                heard = {systemd.recv(4096).decode()}
                while "READY=1" not in heard:
                    heard.add(systemd.recv(4096).decode())
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX)
                connection.request("GET", "/readyz")
                assert connection.getresponse().status == 200
                connection.close()
                while "WATCHDOG=1" not in heard:
                    heard.add(systemd.recv(4096).decode())
                process.terminate()
                while "STOPPING=1" not in heard:
                    heard.add(systemd.recv(4096).decode())
                assert process.wait(SECONDS_MAX) == 0
                assert heard == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
            finally:
                process.kill()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="local sandboxes need Linux")
def test_without_a_sandbox_the_daemon_is_not_ready_and_takes_no_work(tmp_path: Path) -> None:
    """What it took would wait for ever; a pod that is not ready is seen."""
    cli = Cli(tmp_path)
    script = Path(__file__).parents[1] / "sandboxes" / "docker_like.py"
    command = [
        *(sys.executable, str(script), "--caps", "none", "--"),
        *(sys.executable, "-m", "agent_runtime", "serve", "--port", "0"),
    ]
    with subprocess.Popen(
        command, env=cli.environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            address = next(line.split("http://")[1].strip() for line in lines if "serves" in line)
            token = (cli.state / "token").read_text(encoding="ascii").strip()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            goal = json.dumps({"goal": "Wait for ever"})
            for method, path, body in (("GET", "/readyz", None), ("POST", "/v1/tasks", goal)):
                connection = http.client.HTTPConnection(address, timeout=SECONDS_MAX)
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                assert (answer.status, b"sandbox" in answer.read()) == (503, True), path
                connection.close()
            connection = http.client.HTTPConnection(address, timeout=SECONDS_MAX)
            connection.request("GET", "/livez")
            assert connection.getresponse().status == 200, "it is not to be restarted for that"
            connection.close()
            process.terminate()
            assert process.wait(SECONDS_MAX) == 0
        finally:
            process.kill()
