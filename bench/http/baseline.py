"""The least that Starlette costs: a GET with a small JSON body (`-m bench.http.baseline`)."""

from __future__ import annotations

import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def hello(request: Request) -> Response:
    """Something to say."""
    return Response(b'{"status":"ok"}', media_type="application/json")


if __name__ == "__main__":
    sock = socket.create_server(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(
        Starlette(routes=[Route("/", hello)]), log_config=None, access_log=False, loop="uvloop",
        http="httptools", server_header=False,
    )  # fmt: skip
    sys.exit(uvicorn.Server(config).run(sockets=[sock]))
