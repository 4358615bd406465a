"""The least that Starlette costs: a GET with a small JSON body (`-m bench.http.baseline PORT`)."""

from __future__ import annotations

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
    uvicorn.run(
        Starlette(routes=[Route("/", hello)]), port=int(sys.argv[1]), log_config=None,
        access_log=False, loop="uvloop", http="httptools", server_header=False,
    )  # fmt: skip
