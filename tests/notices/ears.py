"""A receiver in a thread of its own, and a daemon that is killed while it tells it of events."""

from __future__ import annotations

import http.server
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from standardwebhooks import Webhook as Oracle
from standardwebhooks import WebhookVerificationError

from tests.api.daemons import DaemonProcess

SECONDS_MAX = 60


class Ear(http.server.ThreadingHTTPServer):
    """Takes deliveries; while `deaf`, answers 503 after having heard."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.bodies: dict[str, bytes] = {}
        self.secret = ""
        self.news = threading.Condition()
        super().__init__(("127.0.0.1", 0), _Handler)

    def wait_for(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.heard) >= count, SECONDS_MAX), (
                f"{len(self.heard)} of {count}"
            )

    def handle_error(self, request: object, client_address: object) -> None:
        """A killed client is what is tested."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        ear = self.server
        assert isinstance(ear, Ear)
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return  # its sender was killed in the middle
        message_id = self.headers["webhook-id"]
        with ear.news:
            try:
                Oracle(ear.secret).verify(body, dict(self.headers))
            except WebhookVerificationError as error:
                ear.wrong.append(f"{message_id}: {error}")
            if ear.bodies.setdefault(message_id, body) != body:
                ear.wrong.append(f"{message_id}: another body")
            ear.heard[message_id] += 1
            ear.news.notify_all()
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[Ear]:
    ear = Ear()
    thread = threading.Thread(target=ear.serve_forever)
    thread.start()
    try:
        yield ear
    finally:
        ear.shutdown()
        thread.join()
        ear.server_close()


def told_through(daemon: DaemonProcess, ear: Ear, *, tasks: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    hook = {"url": f"http://127.0.0.1:{ear.server_address[1]}/", "types": ["TaskSubmitted"]}
    made = daemon.ask("POST", "/v1/webhooks", hook).json()
    ear.secret, webhook_id = made["secret"], made["webhook"]["id"]
    wanted = set()
    for _ in range(kills):
        for number in range(tasks):
            task_id = daemon.submit({"goal": f"task {number}"})
            wanted.add(f"msg_{task_id[5:]}_1")
        # Anywhere: before they are deliveries, while they are under way, after.
        time.sleep(chance.random() * 0.05)
        daemon.kill()
        daemon.start()
    ear.wait_for(len(wanted))
    assert ear.wrong == []
    assert set(ear.heard) == wanted
    page = daemon.ask("GET", f"/v1/webhooks/{webhook_id}/deliveries?limit=500").json()
    assert len(page["deliveries"]) == len(wanted)
    # What was taken, and not written down, comes again: as many as were under way at a kill.
    assert sum(ear.heard.values()) <= len(wanted) + 4 * kills
