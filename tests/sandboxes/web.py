"""Real servers for the egress tests, on an address of their own in this machine."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "127.0.0.2"
"""Not 127.0.0.1, which programs in a sandbox reach in their own sandbox."""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; a POST gets its own Host, body and connection's number of requests."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = f"{self.headers['Host']} {body.decode()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: object) -> None:
        self.server.seen.append(f"{self.requestline}")  # type: ignore[attr-defined]


class Server(http.server.ThreadingHTTPServer):
    """`seen` are the first lines of the requests that came."""

    daemon_threads = True

    def __init__(self, directory: Path, certificate: Path | None) -> None:
        self.seen: list[str] = []
        super().__init__((ADDRESS, 0), lambda *a: Handler(*a, directory=str(directory)))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_suffix(".key"))
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is none of our business."""


@contextmanager
def serving(directory: Path, certificate: Path | None = None) -> Iterator[tuple[Server, int]]:
    """A server and its port."""
    with Server(directory, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def make_certificate(directory: Path) -> Path:
    """A certificate that signs itself, for the servers' address; its key beside it."""
    path = directory / "server.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=server", "-addext",
            f"subjectAltName=IP:{ADDRESS},DNS:mirror.test", "-out", str(path),
            "-keyout", str(path.with_suffix(".key")),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


def make_wheel(path: Path, source: str = "") -> None:
    """A package `example-egress` 1.0 with one module."""
    info = "example_egress-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("example_egress.py", source)
        file.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: example-egress\nVersion: 1.0\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
