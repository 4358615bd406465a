"""A real daemon process, and small ways to ask it: what its users have, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

STARTED = re.compile(r"serves at http://[^:]+:(\d+)")
START_SECONDS_MAX = 30.0
STREAM_SECONDS_MAX = 40.0


@dataclass
class Reply:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class DaemonProcess:
    """`agent-runtime serve` on a store of its own. Killed and started again, it keeps its port."""

    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("--unsafe-no-sandbox",)
    port: int = 0
    files_max: int | None = None
    """That it may open."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> str:
        return f"sqlite:///{self.directory}/store.db"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def token(self) -> str:
        return (self.directory / "token").read_text().strip()

    @property
    def log(self) -> str:
        return (self.directory / "serve.log").read_text()

    def start(self) -> None:
        """Until it takes work."""
        self.directory.mkdir(exist_ok=True, parents=True)
        log = self.directory / "serve.log"
        before = len(log.read_bytes()) if log.exists() else 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [
                    *(self._bounded() if self.files_max else ()),
                    *(sys.executable, "-m", "agent_runtime", "--store", self.store),
                    *("serve", "--port", str(self.port), *self.arguments),
                ],
                stdout=out,
                stderr=out,
                env={**os.environ, **self.settings},
                cwd=self.directory,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (found := STARTED.search(log.read_bytes()[before:].decode())):
            assert self.process.poll() is None, self.log[-4000:]
            assert time.monotonic() < deadline, self.log[-4000:]
            time.sleep(0.02)
        self.port = int(found[1])

    def _bounded(self) -> tuple[str, ...]:
        return ("sh", "-c", f'ulimit -n {self.files_max}; exec "$@"', "sh")

    def kill(self) -> None:
        """As a machine that dies."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """As systemd ends it; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = {},
        *,
        token: str | Literal[""] | None = "",
    ) -> Reply:
        """One request. `token` None sends no credentials, a text others than the local token."""
        sent = dict(headers)
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token or self.token}")
        data: bytes | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self.connect()
        try:
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            read = answer.read()
            given = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, given, read)
        finally:
            connection.close()

    def submit(self, task: Mapping[str, Any], **headers: str) -> str:
        """Hand a task off; its id."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = self.ask("POST", "/v1/tasks", task, sent)
        assert reply.status == 201, reply.body
        return str(reply.json()["id"])

    def wait_for(self, task_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Until the task has one of these statuses; how it reads then."""
        deadline = time.monotonic() + seconds
        while True:
            task: dict[str, Any] = self.ask("GET", f"/v1/tasks/{task_id}").json()
            if task["status"] in statuses:
                return task
            assert time.monotonic() < deadline, task
            time.sleep(0.02)

    def idle(self) -> dict[str, Any]:
        """A new task that waits for a brain, and that nobody drives any more."""
        task_id = self.submit({"goal": "wait for somebody who thinks"})
        deadline = time.monotonic() + 30
        while self.events(task_id)[-1]["type"] != "Interrupted":
            assert time.monotonic() < deadline, self.events(task_id)
            time.sleep(0.02)
        task: dict[str, Any] = self.ask("GET", f"/v1/tasks/{task_id}").json()
        return task

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """The whole log."""
        body = self.ask("GET", f"/v1/tasks/{task_id}/logs").body
        return [json.loads(line) for line in body.splitlines()]


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[DaemonProcess]:
    """A daemon that is killed at the end, if it still lives."""
    daemon = DaemonProcess(directory, **options)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


# ---- server-sent events ------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What a stream says in one go."""

    id: str
    event: str
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


def frames(answer: http.client.HTTPResponse) -> Iterator[Frame]:
    """Frames as HTML reads them (9.2.6): comments left out, ends with the connection."""
    last_id, event = "", ""
    data: list[str] = []
    deadline = time.monotonic() + STREAM_SECONDS_MAX
    while line := answer.readline():
        assert time.monotonic() < deadline, "the stream says nothing more, and does not end"
        text = line.decode().rstrip("\r\n")
        if not text:
            if data:
                yield Frame(last_id, event or "message", "\n".join(data))
            event, data = "", []
            continue
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                last_id = value
            case "event":
                event = value
            case "data":
                data.append(value)
